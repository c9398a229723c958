/* The review: the same page, with rows from the server that `producer review` has started. */
"use strict";

const BLOCK = 100; // rows that are asked for at once
const QUEUES = {
  open: "to review", changed: "image changed", imported: "imported", edited: "words replaced", human: "by people",
  rejected: "rejected", failed: "failed", all: "all",
};
const DONE = { correct: "Saved", accept: "Accepted", reject: "Rejected" };

captionmill.Server = class {
  constructor() {
    const token = location.hash.slice(1);
    if (token) {
      sessionStorage.setItem("captionmill-token", token);
      history.replaceState(null, "", location.pathname); // so that the secret is not in the history
    }
    this.token = sessionStorage.getItem("captionmill-token") || "";
  }

  /** Return what the server answers, with its `status`; null when it does not answer. */
  async post(path, body) {
    try {
      const answer = await fetch(path, {
        method: "POST", body: JSON.stringify(body),
        headers: { "Content-Type": "application/json", "X-Captionmill-Token": this.token },
      });
      if (answer.status === 503) return null;
      const text = await answer.text();
      const isObject = (answer.headers.get("Content-Type") || "").includes("json");
      return { ...(isObject ? JSON.parse(text) : { error: text.trim() }), status: answer.status };
    } catch {
      return null;
    }
  }
};

/** The files of a queue, in blocks that are loaded when they are wanted. */
captionmill.QueueView = class {
  constructor(review, ids) {
    Object.assign(this, { review, ids, length: ids.length, loading: new Map() });
  }

  row(at) { return this.review.byId.get(this.ids[at]) || null; }

  want(from, to) {
    for (let block = Math.floor(from / BLOCK); block * BLOCK < Math.min(to, this.length); block++) this.load(block);
  }

  async ready(at) {
    await this.load(Math.floor(at / BLOCK));
    return this.row(at);
  }

  load(block) {
    if (!this.loading.has(block)) {
      const ids = this.ids.slice(block * BLOCK, (block + 1) * BLOCK);
      const loaded = this.review.loadRows(ids).then((isLoaded) => {
        if (!isLoaded) this.loading.delete(block);
        else if (this.onLoad) this.onLoad();
      });
      this.loading.set(block, loaded);
    }
    return this.loading.get(block);
  }
};

captionmill.Review = class {
  constructor() {
    this.server = new captionmill.Server();
    this.byId = new Map();
    this.field = (name) => document.getElementById(name);
  }

  /** Ask the server who we are and what it has. */
  async start(viewer, grid) {
    Object.assign(this, { viewer, grid });
    captionmill.imageUrl = (row, kind) => (row.thumbnail ? `image/${kind}/${row.id}?${row.thumbnail}` : "");
    captionmill.details = (row) => this.details(row);
    const login = await this.server.post("login", {});
    const meta = login && login.status === 200 ? await this.server.post("api/meta", {}) : login;
    if (!meta || meta.status !== 200) {
      this.problem(meta ? "Open the link that `producer review` printed." : "The server does not answer.");
      return;
    }
    captionmill.meta = { ...meta, models: [], roots: [] };
    this.kept = new captionmill.Kept(meta.store);
    this.history = this.kept.read("changes") || [];
    this.outbox = new captionmill.Outbox(this.kept, (edit) => this.sendEdit(edit), (edit, answer) => this.onAnswer(edit, answer),
      (number, waiting) => this.showWaiting(number, waiting));
    this.setUpControls(meta);
    viewer.onRow = (row) => this.showActions(row);
    this.setDraft("", null); // shows how many there are
    await this.openQueue("open");
  }

  problem(text) {
    this.field("problem").textContent = text;
    this.field("problem").hidden = !text;
  }

  async loadRows(ids) {
    const answer = await this.server.post("api/rows", { ids });
    if (!answer || answer.status !== 200) {
      this.problem("The server does not answer. Start `producer review` again; this page goes on then.");
      setTimeout(() => this.grid.draw(), RETRY);
      return false;
    }
    this.problem("");
    this.takeRows(answer);
    return true;
  }

  takeRows(answer) {
    Object.assign(captionmill.meta, { models: answer.models, roots: answer.roots });
    answer.rows.forEach((values, i) => {
      const row = captionmill.toRow(values, captionmill.meta.fields);
      row.version = answer.versions[i];
      this.byId.set(row.id, row);
    });
  }

  async details(row) {
    const answer = await this.server.post("api/details", { id: row.id });
    if (!answer || answer.status !== 200) throw new Error("no details");
    return answer;
  }

  // -- queues --

  setUpControls(meta) {
    const make = captionmill.element, queue = this.field("queue");
    queue.replaceChildren(...meta.queues.map((name) => make("option", { value: name }, QUEUES[name])));
    queue.addEventListener("change", () => this.openQueue(queue.value));
    let waiting = 0;
    this.field("search").addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => this.openQueue(queue.value), 300);
    });
    document.title = "Review: captionmill";
    this.field("search").placeholder = "dog path:holiday confidence<0.5";
    this.field("undo").addEventListener("click", () => this.undo());
    this.field("drafts").addEventListener("click", () => this.openDrafts());
    addEventListener("keydown", (event) => this.onKey(event));
  }

  async openQueue(name) {
    const request = this.request = {}; // of several, only the last one counts
    const answer = await this.server.post("api/queue", { name, where: this.field("search").value });
    if (this.request !== request) return;
    if (!answer || answer.status !== 200) {
      this.problem(answer ? answer.error : "The server does not answer.");
      return;
    }
    this.problem("");
    const first = answer.ids.length === answer.limit ? " (the first ones)" : "";
    this.showIds(answer.ids, QUEUES[name] + first);
    this.countQueues();
  }

  showIds(ids, what) {
    this.view = new captionmill.QueueView(this, ids);
    this.view.onLoad = () => this.grid.draw();
    this.field("count").textContent = `${count(ids.length)}: ${what}`;
    this.field("nothing").hidden = ids.length > 0;
    this.field("nothing").textContent = "No image is here.";
    this.grid.show(this.view);
  }

  async countQueues() {
    const answer = await this.server.post("api/counts", {});
    if (!answer || answer.status !== 200) return;
    for (const option of this.field("queue").options) {
      option.textContent = `${QUEUES[option.value]} (${answer[option.value].toLocaleString("en")})`;
    }
  }

  // -- edits --

  /** The row that keys are about: of the large view, else the active one of the list. */
  get current() {
    if (this.viewer.dialog.open) return this.viewer.row;
    return this.view ? this.view.row(this.grid.active) : null;
  }

  onKey(event) {
    if (event.target.matches("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = {
      a: (row) => this.decide(row, "accept"), x: (row) => this.decide(row, "reject"),
      d: (row) => this.decide(row, "correct", ""), e: (row) => this.beginEdit(row),
    }[event.key];
    if (event.key === "u") this.undo();
    if (!act || !this.current || this.field("help").open) return;
    event.preventDefault();
    act(this.current);
  }

  /** The buttons below a caption in the large view, and the text that a person has begun. */
  showActions(row) {
    const make = captionmill.element, part = this.viewer.part("edit");
    const button = (key, name, act, enabled = true) => {
      const made = make("button", { type: "button", disabled: !enabled, "aria-keyshortcuts": key }, name, " ", make("kbd", {}, key));
      made.addEventListener("click", act);
      return made;
    };
    const has = row.caption !== null, canWrite = Boolean(row.thumbnail);
    part.replaceChildren(make("div", { class: "actions" },
      button("a", "Accept", () => this.decide(row, "accept"), has && (row.source !== "human" || row.changed)),
      button("e", "Edit", () => this.beginEdit(row), canWrite),
      button("x", "Reject", () => this.decide(row, "reject"), has),
      button("d", "Decorative", () => this.decide(row, "correct", ""), canWrite && row.caption !== "")));
    const draft = this.draft(row.id);
    if (draft !== null) this.editor(row, draft, "Your text, which is not saved yet.");
  }

  /** Return the text that a person has begun for an image, null if there is none. */
  draft(id) { return this.kept.read(`draft-${id}`); }

  setDraft(id, text) {
    this.kept.write(`draft-${id}`, text);
    const button = this.field("drafts"), number = this.kept.names("draft-").length;
    button.hidden = !number;
    button.textContent = `${number} unsaved`;
  }

  openDrafts() {
    this.showIds(this.kept.names("draft-").map(Number), "with text that is not saved");
  }

  beginEdit(row) {
    if (!row.thumbnail) return;
    if (!this.viewer.dialog.open) {
      this.grid.open(this.grid.active);
      this.viewer.shown.then(() => this.editor(row, this.draft(row.id) ?? row.caption ?? ""));
    } else {
      this.editor(row, this.draft(row.id) ?? row.caption ?? "");
    }
  }

  editor(row, text, note = "") {
    const make = captionmill.element, part = this.viewer.part("edit");
    const field = make("textarea", { id: "editor", rows: 3, dir: "auto", maxlength: 20000 });
    field.value = text;
    const save = () => { this.setDraft(row.id, null); this.decide(row, "correct", field.value.trim()); };
    const cancel = () => { this.setDraft(row.id, null); this.showActions(row); this.viewer.dialog.focus(); };
    field.addEventListener("input", () => this.setDraft(row.id, field.value));
    field.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); save(); }
      if (event.key === "Escape") { event.preventDefault(); cancel(); }
    });
    const buttons = make("div", { class: "actions" }, make("button", { type: "button", class: "primary" }, "Save ", make("kbd", {}, "Enter")),
      make("button", { type: "button" }, "Cancel ", make("kbd", {}, "Esc")));
    buttons.firstElementChild.addEventListener("click", save);
    buttons.lastElementChild.addEventListener("click", cancel);
    part.replaceChildren(make("label", { for: "editor" }, note || "The caption"), field, buttons);
    field.focus();
    field.select();
  }

  /** Put an edit into the outbox and go to the next image. An empty text says that the image is decorative. */
  decide(row, action, text = "") {
    if (action === "reject" && row.caption === null) return;
    if (action === "accept" && (row.caption === null || (row.source === "human" && !row.changed))) { this.next(); return; }
    if (action === "correct" && !row.thumbnail) return;
    const before = row.caption;
    this.outbox.add({ id: row.id, version: row.version, action, text, before });
    Object.assign(row, action === "reject" ? { caption: null, confidence: null, status: "rejected", source: null }
      : { source: "human", confidence: null, changed: 0, edited: 0, caption: action === "accept" ? row.caption : text });
    this.toast(`${DONE[action]}: ${captionmill.shown(action === "correct" ? text : before ?? "")}`);
    this.redraw(row);
    this.next();
  }

  next() {
    if (this.viewer.dialog.open) this.viewer.move(1) || this.viewer.show(this.viewer.at);
    else this.grid.focus(this.grid.active + 1);
  }

  redraw(row) {
    const copy = { ...row };
    this.byId.set(row.id, copy); // another object, so that the list draws it anew
    this.grid.draw();
  }

  sendEdit({ id, version, action, text }) {
    return this.server.post("api/edit", { id, version, action, text });
  }

  onAnswer(edit, answer) {
    if (answer.rows && answer.rows.length) this.takeRows(answer);
    const row = this.byId.get(edit.id);
    // with a conflict, the server may have had the edit already, and was stopped before its answer arrived
    if (answer.status === 200 || (answer.status === 409 && isDone(edit, row))) {
      if (answer.change) this.remember({ change: answer.change, id: edit.id });
      for (const later of this.outbox.edits) if (later.id === edit.id) later.version = row.version;
      this.outbox.keep();
    } else {
      if (edit.text) this.setDraft(edit.id, edit.text);
      this.problem(`Not saved: ${answer.error}${edit.text ? " Your text is kept with the image." : ""}`);
      if (!answer.rows) this.loadRows([edit.id]).then(() => this.grid.draw());
    }
    this.grid.draw();
    if (this.viewer.dialog.open && this.viewer.row.id === edit.id && !document.getElementById("editor")) {
      this.viewer.show(this.viewer.at);
    }
  }

  remember(change) {
    this.history.push(change);
    this.kept.write("changes", this.history.slice(-500));
  }

  async undo() {
    if (this.outbox.edits.length) {
      const cancelled = this.outbox.cancelLast();
      if (cancelled) {
        await this.loadRows([cancelled.id]);
        this.goTo(cancelled.id, "Undone.");
      } else this.toast("The last edit is being saved. Undo it after that.");
      return;
    }
    const last = this.history.pop();
    if (!last) { this.toast("There is nothing to undo."); return; }
    const answer = await this.server.post("api/undo", last);
    if (answer === null) { this.history.push(last); this.problem("The server does not answer."); return; }
    this.kept.write("changes", this.history);
    if (answer.status !== 200) { this.problem(answer.error); return; }
    this.takeRows(answer);
    this.goTo(last.id, "Undone.");
  }

  /** Show an image of the queue again. */
  goTo(id, message) {
    this.toast(message);
    const at = this.view.ids.indexOf(id);
    if (at >= 0 && this.viewer.dialog.open) this.viewer.show(at);
    else if (at >= 0) this.grid.focus(at);
    this.grid.draw();
  }

  /** Show what was done, above everything else. */
  toast(text) {
    const toast = this.field("toast");
    toast.hidePopover();
    toast.textContent = text;
    toast.showPopover();
  }

  showWaiting(number, isWaiting) {
    const edits = `${number} ${number === 1 ? "edit waits" : "edits wait"}`;
    this.field("waiting").textContent = isWaiting && number
      ? `${edits} for the server. Start \`producer review\` again; they are kept.` : "";
  }
};

/** Whether a row is as an edit wanted it. */
function isDone(edit, row) {
  if (edit.action === "reject") return row.status === "rejected";
  return row.source === "human" && row.caption === (edit.action === "accept" ? edit.before : edit.text);
}
