/* The rows of the page, and where they come from: scripts beside it. A page from a disk may not fetch files. */
"use strict";

var captionmill = {
  meta: null,
  rows: [],          // in the order in which they were registered
  texts: [],         // of each row, in lower case: what a search looks into
  listeners: [],     // called when rows have arrived
  waiting: {},       // what waits for a script, by its name and number
};

/** Called by each data script. */
captionmill.receive = function (name, number, value) {
  const page = captionmill;
  if (name === "meta") {
    page.meta = value;
  } else if (name === "list") {
    for (const values of value) page.addRow(values);
    page.listeners.forEach((listener) => listener());
  }
  const key = name + number;
  if (page.waiting[key]) page.waiting[key](value);
  delete page.waiting[key];
};

captionmill.addRow = function (values) {
  const row = captionmill.toRow(values, captionmill.meta.fields);
  row.index = captionmill.rows.length;
  captionmill.rows.push(row);
  const others = row.others.map((other) => other[1]).join(" ");
  captionmill.texts.push([row.caption || "", others, row.name, row.error || ""].join("\n").toLowerCase());
};

/** Give the values of a row their names. */
captionmill.toRow = function (values, fields) {
  const row = {};
  for (let i = 0; i < fields.length; i++) row[fields[i]] = values[i];
  return row;
};

/** Load a data script; the promise has its value. */
captionmill.load = function (name, number) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    captionmill.waiting[name + number] = (value) => { script.remove(); resolve(value); };
    script.onerror = () => reject(new Error(script.src));
    script.src = `${captionmill.meta.data}/${name}-${number}.js`;
    document.head.append(script);
  });
};

/** Load all rows but the first ones, which the page itself loads. */
captionmill.loadAll = async function () {
  const shards = Math.ceil(captionmill.meta.count / captionmill.meta.list_rows);
  for (let shard = 1; shard < shards; shard++) await captionmill.load("list", shard);
};

/** Return the details of a row: a promise. The details that were loaded last are kept. */
captionmill.details = function (row) {
  const perScript = captionmill.meta.detail_rows;
  const number = Math.floor(row.index / perScript);
  if (!captionmill.loadedDetails || captionmill.loadedDetails.number !== number) {
    captionmill.loadedDetails = { number, value: captionmill.load("details", number) };
  }
  return captionmill.loadedDetails.value.then((all) => all[row.index - number * perScript]);
};

captionmill.imageUrl = function (row, kind) {
  return row.thumbnail ? `${kind}/${row.thumbnail}` : "";
};

captionmill.modelName = (index) => (index === null ? "" : captionmill.meta.models[index]);

/** Return [model, caption, confidence] of a model's caption of a row; null if it has none. */
captionmill.captionBy = function (row, model) {
  if (row.source === "machine" && row.model === model) return [model, row.caption, row.confidence];
  return row.others.find((other) => other[0] === model) || null;
};
