/* Edits on their way to the server. They are kept by the browser until the server has them: it may be stopped at any
   time, and the page may be loaded again. */
"use strict";

const RETRY = 1500; // milliseconds between attempts while the server does not answer

/** Values that the browser keeps for one database. A browser that keeps nothing is no reason to fail. */
captionmill.Kept = class {
  constructor(store) { this.prefix = `captionmill-${store}-`; }

  read(name) {
    try { return JSON.parse(localStorage.getItem(this.prefix + name)); } catch { return null; }
  }

  write(name, value) {
    try {
      if (value === null) localStorage.removeItem(this.prefix + name);
      else localStorage.setItem(this.prefix + name, JSON.stringify(value));
    } catch { /* a full disk */ }
  }

  /** Return what follows `start` in the names of all values that begin with it. */
  names(start) {
    try {
      return Object.keys(localStorage).filter((name) => name.startsWith(this.prefix + start))
        .map((name) => name.slice((this.prefix + start).length));
    } catch { return []; }
  }
};

captionmill.Outbox = class {
  /** `kept` keeps values in the browser; `send(edit)` is a promise of an answer, null while the server does not answer; `done(edit, answer)` gets it. */
  constructor(kept, send, done, show) {
    Object.assign(this, { kept, send, done, show, edits: kept.read("outbox") || [] });
    this.work();
  }

  add(edit) {
    this.edits.push(edit);
    this.keep();
    this.work();
  }

  /** Take back the last edit and return it; undefined if it was sent already, because the server may have it. */
  cancelLast() {
    if (this.edits.length < 2) return undefined;
    const edit = this.edits.pop();
    this.keep();
    return edit;
  }

  keep() {
    this.kept.write("outbox", this.edits);
    this.show(this.edits.length, this.waiting);
  }

  /** Send the edits one after another, in the order in which they were made. */
  async work() {
    if (this.sending) return;
    this.sending = true;
    while (this.edits.length) {
      const answer = await this.send(this.edits[0]);
      this.waiting = answer === null;
      if (answer === null) {
        this.show(this.edits.length, true);
        await new Promise((resume) => setTimeout(resume, RETRY));
      } else {
        const edit = this.edits.shift();
        this.keep();
        this.done(edit, answer);
      }
    }
    this.sending = false;
  }
};
