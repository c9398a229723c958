"""Search in captions: all words must occur, a "phrase" in this order, -words must not occur. Word endings are ignored.

The grammar is our own and the same on both databases. Each term is quoted for the database's search language, so no
input is syntax there.
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

MAX_COUNTED = 10_000  # files that are counted and ranked; a ranking of more than that by a common word says little
_TERM = re.compile(r'(-?)(?:"([^"]*)"?|(\S+))')
TEXT_CONFIG = "captionmill"  # PostgreSQL's English with stop words, like SQLite's; the migration creates it


@dataclass(frozen=True)
class Query:
    """A parsed query. Each term is one word, or the words of a phrase in order."""

    wanted: tuple[tuple[str, ...], ...]
    unwanted: tuple[tuple[str, ...], ...]


def parse(text: str) -> Query:
    """Parse a query. Raises UsageError when it has no term that captions should contain."""
    wanted: list[tuple[str, ...]] = []
    unwanted: list[tuple[str, ...]] = []
    for minus, phrase, word in _TERM.findall(text):
        words = tuple(re.findall(r"[^\W_]+", (phrase or word).lower()))
        if words:
            (unwanted if minus else wanted).append(words)
    if not wanted:
        raise UsageError(f"nothing to search for in {text!r}: give at least one word that captions should contain.")
    return Query(tuple(wanted), tuple(unwanted))


def search(
    db: Database, text: str, limit: int, max_counted: int = MAX_COUNTED, *, missing: bool = False
) -> tuple[int, list[FileRow]]:
    """Return how many files match by their preferred caption, and the best `limit` of them.

    Files that are missing are left out, unless `missing` is set.

    The search starts at the captions that the index finds, and counts and ranks at most `max_counted` or `limit` files,
    whichever is more; a total above both means that there are more. So the cost depends on the length of the answer,
    not on the size of the tables.
    """
    with db.reading() as connection:
        found = _hits(parse(text), sqlite=db.is_sqlite)
        best = connection.execute(_best(found, limit, max(limit, max_counted), missing=missing)).all()
        ranks = {row.file_id: rank for rank, row in enumerate(best)}
        rows = connection.execute(select_file_rows(None).where(File.id.in_(ranks))).all()
    rows = sorted(rows, key=lambda row: ranks[row.file_id])
    return int(best[0].total) if best else 0, [to_file_row(row) for row in rows]


def _hits(query: Query, *, sqlite: bool) -> sa.Select[Any]:
    return (_sqlite if sqlite else _postgresql)(query)


def _best(found: sa.Select[Any], limit: int, max_counted: int, *, missing: bool) -> sa.Select[Any]:
    """Return the query for the ids of the best files of matching captions, each row with the total."""
    hits = found.cte("hits")
    listed = sa.true() if missing else File.missing_since.is_(None)
    matches = (
        sa.select(File.id.label("file_id"), hits.c.rank)
        .join_from(hits, Caption, Caption.id == hits.c.id)
        .join(File, File.image_id == Caption.image_id)
        .where(listed, Caption.id == preferred_caption_id(Caption.image_id, None))
        .limit(max_counted + 1)
        .subquery()
    )
    total = sa.func.count().over().label("total")
    return sa.select(matches.c.file_id, total).order_by(matches.c.rank, matches.c.file_id).limit(limit)


def _sqlite(query: Query) -> sa.Select[Any]:
    """Return the query for matching captions: `id`, and `rank`, which is lower for a better match."""
    quoted = [f'"{" ".join(term)}"' for term in query.wanted]
    match = " AND ".join(quoted) + "".join(f' NOT "{" ".join(term)}"' for term in query.unwanted)
    index = sa.table("captions_fts", sa.column("rowid"), sa.column("captions_fts"), sa.column("rank"))
    return sa.select(index.c.rowid.label("id"), index.c.rank).where(index.c.captions_fts.op("MATCH")(match))


def _postgresql(query: Query) -> sa.Select[Any]:
    """Return the same query as `_sqlite`, for PostgreSQL."""
    config = sa.cast(TEXT_CONFIG, REGCONFIG)
    document = sa.func.to_tsvector(config, Caption.text)

    def term(words: tuple[str, ...]) -> sa.ColumnElement[Any]:
        return sa.func.phraseto_tsquery(config, " ".join(words), type_=TSQUERY)

    terms = term(query.wanted[0])
    for words in query.wanted[1:]:
        terms = terms.op("&&")(term(words))
    for words in query.unwanted:
        terms = terms.op("&&")(sa.func.tsquery_not(term(words)))
    return sa.select(Caption.id, (-sa.func.ts_rank(document, terms)).label("rank")).where(document.op("@@")(terms))
