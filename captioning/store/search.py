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
from captioning.store.captions import Picture, _picture, _pictures
from captioning.store.database import Database
from captioning.store.schema import Caption, File

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


def search(db: Database, text: str, limit: int) -> tuple[int, list[Picture]]:
    """Return how many files match by *the* caption of their picture, and the best of them."""
    query = parse(text)
    matching, rank = (_sqlite if db.is_sqlite else _postgresql)(query)
    found = _pictures(None).where(matching, File.missing_since.is_(None))
    with db.reading() as connection:
        total = connection.execute(sa.select(sa.func.count()).select_from(found.subquery())).scalar_one()
        rows = connection.execute(found.order_by(rank, File.id).limit(limit)).all()
    return int(total), [_picture(row) for row in rows]


def _sqlite(query: Query) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[Any]]:
    quoted = [f'"{" ".join(term)}"' for term in query.wanted]
    match = " AND ".join(quoted) + "".join(f' NOT "{" ".join(term)}"' for term in query.unwanted)
    index = sa.table("captions_fts", sa.column("rowid"), sa.column("captions_fts"), sa.column("rank"))
    hits = sa.select(index.c.rowid, index.c.rank).where(index.c.captions_fts.op("MATCH")(match)).cte("hits")
    best = sa.select(hits.c.rank).where(hits.c.rowid == Caption.id).scalar_subquery()
    return Caption.id.in_(sa.select(hits.c.rowid)), best


def _postgresql(query: Query) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[Any]]:
    config = sa.cast(TEXT_CONFIG, REGCONFIG)
    document = sa.func.to_tsvector(config, Caption.text)

    def term(words: tuple[str, ...]) -> sa.ColumnElement[Any]:
        return sa.func.phraseto_tsquery(config, " ".join(words), type_=TSQUERY)

    asked = term(query.wanted[0])
    for words in query.wanted[1:]:
        asked = asked.op("&&")(term(words))
    for words in query.unwanted:
        asked = asked.op("&&")(sa.func.tsquery_not(term(words)))
    return document.op("@@")(asked), sa.func.ts_rank(document, asked).desc()
