/* The search, the filters and the order: what they show, and what they put into the query. */
"use strict";

captionmill.Filters = class {
  /** `onChange` is called after each change of the query. */
  constructor(query, onChange) {
    Object.assign(this, { query, onChange });
    this.field = (name) => document.getElementById(name);
    this.bind("search", "input", (value) => { query.text = value; });
    this.bind("sort", "change", (value) => { query.sort = value; });
    for (const name of ["status", "model", "source", "job"]) {
      this.bind(name, "change", (value) => { query[name] = value; });
    }
    for (const name of ["unlike", "edited", "differ"]) {
      this.field(name).addEventListener("change", (event) => { query[name] = event.target.checked; this.changed(); });
    }
    for (const name of ["from", "to"]) this.bind(name, "input", (value) => this.setRange(name, Number(value)));
    for (const i of [0, 1]) this.bind(`compare-${i}`, "change", () => this.setCompare());
    this.field("reset").addEventListener("click", () => this.reset());
    const button = this.field("filters-button"), panel = this.field("filters");
    button.addEventListener("click", () => {
      panel.hidden = !panel.hidden;
      button.setAttribute("aria-expanded", String(!panel.hidden));
      dispatchEvent(new Event("resize"));
    });
  }

  bind(name, event, set) {
    this.field(name).addEventListener(event, (e) => { set(e.target.value); this.changed(); });
  }

  changed() {
    const { query } = this;
    const active = [query.status, query.model, query.source, query.job].filter((value) => value !== "").length +
      [query.unlike, query.edited, query.differ, query.from > 0 || query.to < 100].filter(Boolean).length;
    this.field("filters-count").textContent = active ? ` (${active})` : "";
    this.field("reset").disabled = !active && !query.compare.length;
    this.onChange();
  }

  /** Fill the lists of choices from what the gallery has. */
  fill(meta) {
    const models = meta.models.map((name, i) => [i, name]);
    this.options("model", [["", "any model"], ...models]);
    this.options("compare-0", [["", "do not compare"], ...models]);
    this.options("compare-1", [["", "with"], ...models]);
    this.options("job", [["", "any job"], ...meta.jobs.map(([number, name]) => [number, `${number} ${name}`])]);
    this.options("sort", Object.keys(captionmill.orders).map((name) => [name, name]));
    this.field("compare").hidden = meta.models.length < 2;
    this.field("job").closest("label").hidden = meta.jobs.length < 2;
    this.field("model").closest("label").hidden = meta.models.length < 2;
  }

  options(name, choices) {
    this.field(name).replaceChildren(...choices.map(([value, text]) =>
      captionmill.element("option", { value }, text)));
  }

  setRange(name, value) {
    this.query[name] = value;
    const other = name === "from" ? "to" : "from";
    if (this.query.from > this.query.to) this.query[other] = this.field(other).value = value;
    for (const each of ["from", "to"]) this.field(`${each}-value`).textContent = `${this.query[each]} %`;
  }

  setCompare() {
    const chosen = [0, 1].map((i) => this.field(`compare-${i}`).value);
    this.query.compare = chosen.includes("") || chosen[0] === chosen[1] ? [] : chosen.map(Number);
    this.field("differ").disabled = !this.query.compare.length;
  }

  reset() {
    for (const name of ["status", "model", "source", "job", "compare-0", "compare-1"]) this.field(name).value = "";
    for (const name of ["unlike", "edited", "differ"]) this.query[name] = this.field(name).checked = false;
    this.field("from").value = 0;
    this.field("to").value = 100;
    this.setRange("from", 0);
    this.setRange("to", 100);
    Object.assign(this.query, { status: "", model: "", source: "", job: "" });
    this.setCompare();
    this.changed();
  }
};
