"""Searching captions: words are ANDed, "phrases" stand together, -words must not occur; endings don't matter.

The grammar is ours and the same on both databases; each term is quoted for the backend, so nothing that a
person types is syntax there.
"""

import re
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import REGCONFIG, TSQUERY

from captioning.errors import UsageError
from captioning.store.captions import FileRow, preferred_caption_id, select_file_rows, to_file_row
from captioning.store.database import Database
from captioning.store.schema import Caption, File

COUNTED = 10_000  # files; which of more is the best, a word that they all have doesn't tell
_TERM = re.compile(r'(-?)(?:"([^"]*)"?|(\S+))')
TEXT_CONFIG = "captionmill"  # PostgreSQL's English, stop words kept, as SQLite has it; made by the migration


@dataclass(frozen=True)
class Query:
    """What is looked for: each term is words that stand together."""

    wanted: tuple[tuple[str, ...], ...]
    unwanted: tuple[tuple[str, ...], ...]


def parse(text: str) -> Query:
    """Read a query. Raises UsageError when there is nothing to look for."""
    wanted: list[tuple[str, ...]] = []
    unwanted: list[tuple[str, ...]] = []
    for minus, phrase, word in _TERM.findall(text):
        words = tuple(re.findall(r"[^\W_]+", (phrase or word).lower()))
        if words:
            (unwanted if minus else wanted).append(words)
    if not wanted:
        raise UsageError(f"nothing to search for in {text!r}: give at least one word that a caption should have.")
    return Query(tuple(wanted), tuple(unwanted))


def search(db: Database, text: str, limit: int, counted: int = COUNTED) -> tuple[int, list[FileRow]]:
    """Return how many files match by *the* caption of their image, and the best of them.

    Begins at the captions that the index finds, and counts and compares no more than `counted` or `limit` files: a
    total above both means that there are more. So a search costs what its answer is long, not what the table is.
    """
    with db.reading() as connection:
        best = connection.execute(_best(parse(text), limit, max(limit, counted), sqlite=db.is_sqlite)).all()
        places = {row.file_id: place for place, row in enumerate(best)}
        rows = connection.execute(select_file_rows(None).where(File.id.in_(places))).all()
    rows = sorted(rows, key=lambda row: places[row.file_id])
    return int(best[0].total) if best else 0, [to_file_row(row) for row in rows]


def _best(query: Query, limit: int, counted: int, *, sqlite: bool) -> sa.Select[Any]:
    hits = (_sqlite if sqlite else _postgresql)(query).cte("hits")
    some = (
        sa.select(File.id.label("file_id"), hits.c.rank)
        .join_from(hits, Caption, Caption.id == hits.c.id)
        .join(File, File.image_id == Caption.image_id)
        .where(File.missing_since.is_(None), Caption.id == preferred_caption_id(Caption.image_id, None))
        .limit(counted + 1)
        .subquery()
    )
    total = sa.func.count().is_finished().label("total")
    return sa.select(some.c.file_id, total).order_by(some.c.rank, some.c.file_id).limit(limit)


def _sqlite(query: Query) -> sa.Select[Any]:
    """Return the ids of the captions that match, and a rank that is smaller the better they do."""
    quoted = [f'"{" ".join(term)}"' for term in query.wanted]
    match = " AND ".join(quoted) + "".join(f' NOT "{" ".join(term)}"' for term in query.unwanted)
    index = sa.table("captions_fts", sa.column("rowid"), sa.column("captions_fts"), sa.column("rank"))
    return sa.select(index.c.rowid.label("id"), index.c.rank).where(index.c.captions_fts.op("MATCH")(match))


def _postgresql(query: Query) -> sa.Select[Any]:
    config = sa.cast(TEXT_CONFIG, REGCONFIG)
    document = sa.func.to_tsvector(config, Caption.text)

    def term(words: tuple[str, ...]) -> sa.ColumnElement[Any]:
        return sa.func.phraseto_tsquery(config, " ".join(words), type_=TSQUERY)

    asked = term(query.wanted[0])
    for words in query.wanted[1:]:
        asked = asked.op("&&")(term(words))
    for words in query.unwanted:
        asked = asked.op("&&")(sa.func.tsquery_not(term(words)))
    return sa.select(Caption.id, (-sa.func.ts_rank(document, asked)).label("rank")).where(document.op("@@")(asked))
