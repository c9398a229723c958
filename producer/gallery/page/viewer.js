/* The large view of one image: its caption word by word, where the model looked, and all other captions. */
"use strict";

const MAX_SCALE = 2.5;            // of a small image
const MARGIN = 16;                // pixels around it
const DARKEST = 180;              // of 255, over places where the model did not look
const LEVELS = [20, 40, 60, 80]; // percent, between the five colours of confidence

/** Make an element. `content` is text or elements: text from outside is never markup. */
captionmill.element = function (tag, attributes = {}, ...content) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...content.filter((part) => part !== null && part !== undefined));
  return made;
};

captionmill.level = (confidence) => LEVELS.filter((limit) => confidence >= limit).length;

/** Return a caption as people read it. An empty one says that the image is decorative. */
captionmill.shown = (caption) => (caption === "" ? "decorative: no caption" : caption);

captionmill.Viewer = class {
  constructor(dialog) {
    this.dialog = dialog;
    this.part = (name) => dialog.querySelector(`[data-part="${name}"]`);
    this.part("close").addEventListener("click", () => dialog.close());
    this.part("previous").addEventListener("click", () => this.move(-1));
    this.part("next").addEventListener("click", () => this.move(1));
    this.part("image").addEventListener("load", () => this.fit());
    addEventListener("resize", () => this.fit());
    dialog.addEventListener("close", () => this.onClose && this.onClose(this.at));
    dialog.addEventListener("keydown", (event) => this.onKey(event));
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  }

  /** Show the image at a place of a view; `onClose` is called with the last place. */
  open(view, at, onClose) {
    Object.assign(this, { view, onClose });
    if (!this.dialog.open) this.dialog.showModal();
    this.show(at);
  }

  move(step) {
    const at = this.at + step;
    if (at < 0 || at >= this.view.length) return false;
    this.show(at);
    return true;
  }

  onKey(event) {
    if (event.target.matches("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = { ArrowRight: 1, ArrowDown: 1, j: 1, n: 1, ArrowLeft: -1, ArrowUp: -1, k: -1, p: -1 }[event.key];
    if (step) { event.preventDefault(); this.move(step); }
  }

  /** Show the image at a place; `shown` is a promise of that. */
  show(at) {
    this.shown = this.load(at);
    return this.shown;
  }

  async load(at) {
    this.at = at;
    this.view.want(at, at + 2);
    this.row = this.view.row(at); // null while it is loaded: keys must not act on the image before
    const row = this.row || await this.view.ready(at);
    if (this.at !== at || !row) return;
    this.row = row;
    this.part("position").textContent = `${at + 1} of ${this.view.length}`;
    this.part("previous").disabled = at === 0;
    this.part("next").disabled = at === this.view.length - 1;
    this.part("name").textContent = row.name;
    this.showImage(row);
    this.part("caption").replaceChildren(this.plainCaption(row));
    this.part("more").replaceChildren();
    if (this.onRow) this.onRow(row);
    captionmill.details(row).catch(() => null).then((found) => { if (this.row === row) this.showDetails(row, found); });
  }

  showImage(row) {
    const image = this.part("image"), url = captionmill.imageUrl(row, captionmill.meta.large ? "large" : "small");
    this.part("heat").hidden = true;
    image.hidden = !url;
    this.part("no-image").hidden = Boolean(url);
    this.part("no-image").textContent = row.error || "This image could not be read when the page was made.";
    if (!url) return;
    image.alt = row.caption || "";
    image.src = url;
  }

  plainCaption(row) {
    const text = row.caption === null ? row.error || row.status : captionmill.shown(row.caption);
    return captionmill.element("p", { class: row.caption === null ? "caption failed" : "caption", dir: "auto" }, text);
  }

  showDetails(row, found) {
    const make = captionmill.element;
    if (!found) {
      this.part("more").append(make("p", { class: "failed" }, "The details of this image could not be loaded."));
      return;
    }
    const [first, ...others] = found.captions;
    if (first && first.words.length && first.text === row.caption) this.part("caption").replaceChildren(this.words(first));
    this.part("more").append(...[
      first ? this.origin(first) : null,
      first && first.original ? make("p", { class: "quiet" }, `The model wrote: ${first.original}`) : null,
      first && first.alternatives.length ? this.list("Also considered", first.alternatives) : null,
      ...others.map((other) => make("section", {},
        make("h3", {}, captionmill.author(other), " ", captionmill.pill(other.confidence)),
        make("p", { dir: "auto" }, captionmill.shown(other.text)))),
      this.facts(row, found),
    ].filter(Boolean));
  }

  origin(caption) {
    return captionmill.element("p", { class: "origin" }, captionmill.author(caption), " ",
      captionmill.pill(caption.confidence), " ", captionmill.element("time", { datetime: caption.at },
        caption.at.replace("T", " ").replace("Z", " UTC")));
  }

  list(title, texts) {
    const make = captionmill.element;
    return make("section", {}, make("h3", {}, title), make("ul", {}, ...texts.map((text) => make("li", {}, text))));
  }

  facts(row, found) {
    const make = captionmill.element, root = captionmill.meta.roots[row.root].replace(/\/$/, "");
    const facts = [
      ["File", `${root}/${row.name}`],
      ["Image", row.width ? `${row.width} × ${row.height} pixels, ${found.format}` : null],
      ["Size", found.bytes ? captionmill.bytes(found.bytes) : null],
      ["Unlike", row.unlike ? "This image is unlike those that the model learned from." : null],
      ["Changed", row.changed ? "The caption was written for an earlier content of this file." : null],
      ["SHA-256", found.sha256],
      ["Jobs", row.jobs.join(", ")],
    ].filter((fact) => fact[1]);
    return make("section", {}, make("h3", {}, "Facts"), make("dl", {}, ...facts.flatMap(([name, value]) => [
      make("dt", {}, name), make("dd", { dir: "auto" }, value)])));
  }

  /** The words of a caption with their confidence. Where attention was kept, a word is a button that shows it. */
  words(caption) {
    const make = captionmill.element;
    const parts = caption.words.map(([word, confidence], i) => {
      const attributes = { class: `word level-${captionmill.level(confidence)}` };
      const text = [make("span", { class: "text" }, word), make("span", { class: "percent" }, `${confidence} %`)];
      if (!caption.attention) return make("span", attributes, ...text);
      const button = make("button", { ...attributes, type: "button", "aria-pressed": "false" }, ...text);
      for (const event of ["click", "focus", "pointerenter"]) {
        button.addEventListener(event, () => this.showAttention(caption.attention, i, button));
      }
      for (const event of ["blur", "pointerleave"]) button.addEventListener(event, () => this.hideAttention());
      return button;
    });
    const note = caption.attention ? make("p", { class: "quiet" }, "Choose a word to see where the model looked.") : null;
    return make("div", {}, make("p", { class: "caption words" }, ...parts.flatMap((part) => [part, " "])), note || "");
  }

  hideAttention() {
    this.part("heat").hidden = true;
    for (const button of this.dialog.querySelectorAll(".word[aria-pressed]")) button.ariaPressed = "false";
  }

  /** Draw the weights of a word over the image: dark where the model did not look. */
  showAttention(attention, word, button) {
    this.hideAttention();
    button.ariaPressed = "true";
    const side = attention.side, small = document.createElement("canvas");
    small.width = small.height = side;
    const cells = small.getContext("2d"), pixels = cells.createImageData(side, side);
    const weights = Array.from(atob(attention.words[word]), (c) => c.charCodeAt(0));
    const least = Math.min(...weights), range = Math.max(1, Math.max(...weights) - least);
    weights.forEach((weight, i) => {
      pixels.data[4 * i + 3] = Math.round(DARKEST * (1 - (weight - least) / range));
    });
    cells.putImageData(pixels, 0, 0);
    const heat = this.part("heat"), context = heat.getContext("2d");
    heat.width = heat.height = 256;
    context.imageSmoothingQuality = "high";
    context.drawImage(small, 0, 0, 256, 256);
    heat.hidden = this.part("image").hidden;
    this.fit();
  }

  /** Make the image as large as its box allows, but not blurred, and lay the attention exactly over it. */
  fit() {
    const image = this.part("image"), heat = this.part("heat"), box = image.parentElement;
    if (!image.naturalWidth) return;
    const scale = Math.min(MAX_SCALE, (box.clientWidth - 2 * MARGIN) / image.naturalWidth,
      (box.clientHeight - 2 * MARGIN) / image.naturalHeight);
    for (const part of [image, heat]) {
      part.style.width = `${image.naturalWidth * scale}px`;
      part.style.height = `${image.naturalHeight * scale}px`;
    }
  }
};

captionmill.author = function (caption) {
  if (caption.source === "human") return "A person wrote this";
  return caption.source === "imported" ? "Imported" : `Model ${caption.model}`;
};

/** A confidence with its colour. */
captionmill.pill = function (confidence) {
  if (confidence === null) return null;
  return captionmill.element("span", { class: `pill level-${captionmill.level(confidence)}` }, `${confidence} %`);
};

captionmill.bytes = function (number) {
  return number < 1e6 ? `${Math.ceil(number / 1e3)} kB` : `${(number / 1e6).toFixed(1)} MB`;
};
