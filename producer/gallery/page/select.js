/* Which rows are shown, and in which order. */
"use strict";

/** What a person asked for. `text` is searched in captions, names and reasons. */
captionmill.query = {
  text: "", status: "", from: 0, to: 100, model: "", source: "", job: "",
  unlike: false, edited: false, differ: false, compare: [], sort: "added",
};

/** Split a search into terms: words, "phrases", and -words that must not occur. */
captionmill.terms = function (text) {
  const terms = [];
  for (const match of text.toLowerCase().matchAll(/(-?)(?:"([^"]*)"?|(\S+))/g)) {
    const word = match[2] === undefined ? match[3] : match[2];
    if (word) terms.push({ word, excluded: match[1] === "-" });
  }
  return terms;
};

captionmill.orders = {
  added: null,
  name: (a, b) => compareText(a.name, b.name),
  "least certain": (a, b) => (a.confidence ?? 101) - (b.confidence ?? 101),
  "most certain": (a, b) => (b.confidence ?? -1) - (a.confidence ?? -1),
  caption: (a, b) => compareText(a.caption || "\uffff", b.caption || "\uffff"),
};

function compareText(a, b) {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** Return the indexes of all rows in an order. The last order is kept, because sorting is slower than choosing. */
captionmill.inOrder = function (name) {
  const rows = captionmill.rows, kept = captionmill.keptOrder;
  if (kept && kept.name === name && kept.indexes.length === rows.length) return kept.indexes;
  const indexes = Int32Array.from(rows, (_, i) => i);
  const order = captionmill.orders[name];
  if (order) indexes.sort((a, b) => order(rows[a], rows[b]) || a - b);
  captionmill.keptOrder = { name, indexes };
  return indexes;
};

/** Return the indexes of the rows that a query selects, in its order. */
captionmill.select = function (query) {
  const { rows, texts } = captionmill;
  const terms = captionmill.terms(query.text);
  const conditions = conditionsOf(query);
  const found = [];
  for (const index of captionmill.inOrder(query.sort)) {
    const text = texts[index];
    if (terms.every((term) => text.includes(term.word) !== term.excluded) &&
        conditions.every((holds) => holds(rows[index]))) {
      found.push(index);
    }
  }
  return found;
};

function conditionsOf(query) {
  const conditions = [];
  if (query.status) conditions.push((row) => row.status === query.status);
  if (query.from > 0 || query.to < 100) {
    conditions.push((row) => row.confidence !== null && row.confidence >= query.from && row.confidence <= query.to);
  }
  if (query.model !== "") conditions.push((row) => captionmill.captionBy(row, Number(query.model)) !== null);
  if (query.source) conditions.push((row) => row.source === query.source);
  if (query.job) conditions.push((row) => row.jobs.includes(Number(query.job)));
  if (query.unlike) conditions.push((row) => row.unlike === 1);
  if (query.edited) conditions.push((row) => row.edited === 1 || row.source === "human");
  if (query.differ && query.compare.length === 2) conditions.push(differ(query.compare));
  return conditions;
}

/** Return the condition for two models to caption an image differently. */
function differ(models) {
  return (row) => {
    const [a, b] = models.map((model) => captionmill.captionBy(row, model));
    return a !== null && b !== null && a[1] !== b[1];
  };
}
