/* The list of images. Only what is visible exists in the document, so that a million rows cost as much as a hundred. */
"use strict";

const GAP = 12;               // pixels between cards, as in page.css
const EXTRA_ROWS = 2;         // above and below the window
const MAX_HEIGHT = 8_000_000; // pixels of the list; browsers lose precision beyond some ten millions

captionmill.Grid = class {
  /** `view` has `length`, `row(i)`, which may be null while it is loaded, and `want(from, to)`. */
  constructor(list, makeCard, open) {
    Object.assign(this, { list, makeCard, open, view: null, cards: new Map(), active: 0, columns: 1, rowHeight: 300 });
    addEventListener("scroll", () => this.schedule(), { passive: true });
    addEventListener("resize", () => { this.measure(); this.redraw(); });
    list.addEventListener("keydown", (event) => this.onKey(event));
    list.addEventListener("focusin", (event) => {
      const card = event.target.closest("li");
      if (card) this.setActive(Number(card.dataset.at));
    });
  }

  /** Show other rows. The first one becomes the active one unless the place is kept. */
  show(view, keepPlace = false) {
    this.view = view;
    this.active = keepPlace ? Math.min(this.active, Math.max(0, view.length - 1)) : 0;
    this.measure();
    if (!keepPlace && scrollY > this.list.offsetTop) scrollTo(0, 0);
    this.redraw();
  }

  measure() {
    const width = this.list.clientWidth, style = getComputedStyle(this.list);
    const least = parseFloat(style.getPropertyValue("--card-width"));
    this.columns = Math.max(1, Math.floor((width + GAP) / (least + GAP)));
    this.cardWidth = (width - GAP * (this.columns - 1)) / this.columns;
    this.rowHeight = this.cardWidth * 0.75 + parseFloat(style.getPropertyValue("--text-height")) + GAP;
    const rows = this.view ? Math.ceil(this.view.length / this.columns) : 0;
    this.fullHeight = rows * this.rowHeight;
    this.list.style.height = `${Math.min(this.fullHeight, MAX_HEIGHT)}px`;
  }

  /** Return how far the top of the window is below the top of the list, in pixels of the full list. */
  get offset() {
    const top = Math.max(0, scrollY - this.list.offsetTop);
    if (this.fullHeight <= MAX_HEIGHT) return top;
    return top / (MAX_HEIGHT - innerHeight) * (this.fullHeight - innerHeight);
  }

  schedule() {
    if (!this.scheduled) this.scheduled = requestAnimationFrame(() => { this.scheduled = 0; this.draw(); });
  }

  /** Draw everything anew, for example because rows have changed. */
  redraw() {
    for (const card of this.cards.values()) card.remove();
    this.cards.clear();
    this.draw();
  }

  draw() {
    if (!this.view) return;
    const offset = this.offset, shift = Math.max(0, scrollY - this.list.offsetTop) - offset;
    const firstRow = Math.max(0, Math.floor(offset / this.rowHeight) - EXTRA_ROWS);
    const lastRow = Math.ceil((offset + innerHeight) / this.rowHeight) + EXTRA_ROWS;
    const from = firstRow * this.columns, to = Math.min(this.view.length, lastRow * this.columns);
    this.view.want(from, to);
    const focused = this.list.contains(document.activeElement);
    for (const [at, card] of this.cards) {
      if ((at < from || at >= to) && !(focused && at === this.active)) {
        card.remove();
        this.cards.delete(at);
      }
    }
    for (let at = from; at < to; at++) this.place(at, shift);
    if (!this.cards.has(this.active) && this.cards.size) this.setActive(from);
  }

  place(at, shift) {
    const row = this.view.row(at);
    let card = this.cards.get(at);
    if (card && card.row !== row) { card.remove(); card = null; }
    if (!card) {
      card = this.makeCard(row, at);
      card.row = row;
      card.dataset.at = at;
      card.setAttribute("aria-setsize", this.view.length);
      card.setAttribute("aria-posinset", at + 1);
      card.firstElementChild.tabIndex = at === this.active ? 0 : -1;
      card.firstElementChild.addEventListener("click", () => this.open(at));
      this.cards.set(at, card);
      this.list.append(card);
    }
    const x = (at % this.columns) * (this.cardWidth + GAP);
    const y = Math.floor(at / this.columns) * this.rowHeight + shift;
    card.style.width = `${this.cardWidth}px`;
    card.style.height = `${this.rowHeight - GAP}px`;
    card.style.transform = `translate(${x}px, ${y}px)`;
  }

  setActive(at) {
    const before = this.cards.get(this.active);
    if (before) before.firstElementChild.tabIndex = -1;
    this.active = at;
    const card = this.cards.get(at);
    if (card) card.firstElementChild.tabIndex = 0;
  }

  /** Move the focus to a place, and the window so that it is visible. */
  focus(at) {
    if (!this.view || !this.view.length) return;
    at = Math.max(0, Math.min(this.view.length - 1, at));
    this.setActive(at);
    this.reveal(at);
    this.draw();
    this.setActive(at);
    const card = this.cards.get(at);
    if (card) card.firstElementChild.focus({ preventScroll: true });
  }

  reveal(at) {
    const header = document.querySelector("header").offsetHeight + GAP;
    const top = Math.floor(at / this.columns) * this.rowHeight;
    const scale = this.fullHeight <= MAX_HEIGHT ? 1 : (MAX_HEIGHT - innerHeight) / (this.fullHeight - innerHeight);
    const offset = this.offset;
    let wanted = null;
    if (top < offset + header) wanted = top - header;
    else if (top + this.rowHeight > offset + innerHeight) wanted = top + this.rowHeight - innerHeight;
    if (wanted !== null) scrollTo(0, this.list.offsetTop + Math.max(0, wanted) * scale);
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const page = this.columns * Math.max(1, Math.floor(innerHeight / this.rowHeight) - 1);
    const moves = {
      ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns, ArrowUp: -this.columns,
      PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity,
    };
    if (event.key in moves) {
      event.preventDefault();
      this.focus(this.active + moves[event.key]);
    }
  }
};
