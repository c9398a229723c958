/* The page: cards, keys and colours, and the parts put together. */
"use strict";

/** Return the list and the large view, which belong together. */
captionmill.makeParts = function () {
  const viewer = new captionmill.Viewer(document.getElementById("viewer"));
  const grid = new captionmill.Grid(document.getElementById("grid"), captionmill.card, (at) => {
    viewer.open(grid.view, at, (last) => grid.focus(last));
  });
  captionmill.setUpKeys(grid, viewer);
  captionmill.setUpTheme();
  return { viewer, grid };
};

captionmill.startGallery = function () {
  const { meta, query } = captionmill;
  const status = document.getElementById("count");
  const { grid } = captionmill.makeParts();
  document.title = meta.title;
  document.getElementById("title").textContent = meta.title;

  const refresh = (keepPlace) => {
    document.body.classList.toggle("comparing", query.compare.length === 2);
    const found = captionmill.select(query);
    grid.show(captionmill.listView(found), keepPlace);
    const all = captionmill.rows.length;
    const loading = all < meta.count ? `, ${meta.count - all} more are loaded` : "";
    status.textContent = (found.length === all ? "" : `${found.length.toLocaleString("en")} of `) + count(all) + loading;
    document.getElementById("nothing").hidden = found.length > 0;
  };
  const filters = new captionmill.Filters(query, () => refresh(false));
  filters.fill(meta);
  captionmill.listeners.push(() => refresh(true));
  refresh(true);
  captionmill.loadAll();
};

function count(number) {
  return `${number.toLocaleString("en")} ${number === 1 ? "image" : "images"}`;
}

/** What the grid and the viewer read: rows by their place. */
captionmill.listView = function (indexes) {
  const row = (at) => captionmill.rows[indexes[at]];
  return { length: indexes.length, row, want() {}, ready: (at) => Promise.resolve(row(at)) };
};

/** One image of the list: a button, which opens the large view. */
captionmill.card = function (row, at) {
  const make = captionmill.element;
  if (!row) return make("li", { class: "card" }, make("button", { type: "button" }, "…"));
  const url = captionmill.imageUrl(row, "small");
  const image = url
    ? make("img", { src: url, alt: "", decoding: "async", loading: "lazy", draggable: "false" })
    : make("span", { class: "no-image", "aria-hidden": "true" }, row.status === "failed" ? "✕" : "?");
  return make("li", { class: `card ${row.status}` },
    make("button", { type: "button" }, make("span", { class: "frame" }, image), captionmill.cardText(row)));
};

captionmill.cardText = function (row) {
  const make = captionmill.element, { compare } = captionmill.query;
  const name = make("span", { class: "name", dir: "auto" }, row.name.split("/").pop());
  if (compare.length === 2) {
    const [a, b] = compare.map((model) => captionmill.captionBy(row, model));
    return make("span", { class: "words-of-card" }, comparedText(a, b, compare[0]), comparedText(b, a, compare[1]), name);
  }
  const words = row.caption === null ? row.error || row.status : captionmill.shown(row.caption);
  const marks = [
    captionmill.pill(row.confidence),
    row.source === "human" ? make("span", { class: "mark" }, "by a person") : null,
    row.source === "imported" ? make("span", { class: "mark" }, "imported") : null,
    row.edited ? make("span", { class: "mark" }, "edited") : null,
    row.unlike ? make("span", { class: "mark" }, "unlike") : null,
    row.changed ? make("span", { class: "mark warn" }, "image changed") : null,
  ];
  return make("span", { class: "words-of-card" },
    make("span", { class: "line", dir: "auto" }, ...captionmill.marked(words)),
    make("span", { class: "marks" }, ...marks.filter(Boolean), name));
};

/** Return a caption with the words marked that another one does not have. */
function comparedText(caption, other, model) {
  const make = captionmill.element;
  const label = make("span", { class: "model" }, captionmill.modelName(model), " ");
  if (!caption) return make("span", { class: "line short" }, label, "no caption");
  const theirs = new Set((other ? other[1] : "").split(" "));
  const words = captionmill.shown(caption[1]).split(" ").flatMap((word) =>
    [other && !theirs.has(word) ? make("mark", {}, word) : word, " "]);
  return make("span", { class: "line short", dir: "auto" }, label, captionmill.pill(caption[2]), " ", ...words);
}

/** Return a text in parts, with what was searched for marked. */
captionmill.marked = function (text) {
  const words = captionmill.terms(captionmill.query.text).filter((term) => !term.excluded).map((term) => term.word);
  const lower = text.toLowerCase();
  if (!words.length || lower.length !== text.length) return [text]; // a letter that grows in lower case
  const parts = [];
  let at = 0;
  while (at < text.length) {
    const next = words.map((word) => [lower.indexOf(word, at), word.length]).filter(([i]) => i >= 0)
      .sort((a, b) => a[0] - b[0] || b[1] - a[1])[0];
    if (!next) break;
    parts.push(text.slice(at, next[0]), captionmill.element("mark", {}, text.slice(next[0], next[0] + next[1])));
    at = next[0] + next[1];
  }
  return [...parts, text.slice(at)];
};

captionmill.setUpKeys = function (grid, viewer) {
  const help = document.getElementById("help"), search = document.getElementById("search");
  document.getElementById("help-button").addEventListener("click", () => help.showModal());
  document.getElementById("help-close").addEventListener("click", () => help.close());
  document.getElementById("search-form").addEventListener("submit", (event) => {
    event.preventDefault();
    grid.focus(0);
  });
  addEventListener("keydown", (event) => {
    if (event.target.matches("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) {
      if (event.key === "Escape" && event.target === search) grid.focus(grid.active);
      return;
    }
    if (viewer.dialog.open || help.open) return;
    if (event.key === "/") { event.preventDefault(); search.focus(); search.select(); }
    if (event.key === "?") help.showModal();
    if (event.key === "f") document.getElementById("filters-button").click();
  });
};

/** The colours follow the system until a person chooses. */
captionmill.setUpTheme = function () {
  const button = document.getElementById("theme"), names = ["auto", "light", "dark"];
  const set = (name) => {
    document.documentElement.dataset.theme = name;
    button.textContent = { auto: "◐", light: "☀", dark: "☾" }[name];
    button.setAttribute("aria-label", `Colours: ${name}`);
    button.title = `Colours: ${name}`;
    try { localStorage.setItem("captionmill-theme", name); } catch { /* a browser that keeps nothing */ }
  };
  let kept = null;
  try { kept = localStorage.getItem("captionmill-theme"); } catch { /* as above */ }
  set(names.includes(kept) ? kept : "auto");
  button.addEventListener("click", () => {
    set(names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length]);
  });
};

addEventListener("DOMContentLoaded", () => {
  if (document.body.className === "review") {
    const { viewer, grid } = captionmill.makeParts();
    new captionmill.Review().start(viewer, grid);
  } else if (captionmill.meta) captionmill.startGallery();
  else document.getElementById("count").textContent = "The data of this page could not be loaded.";
});
