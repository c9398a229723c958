"""Search for images by the words of their captions and by fields; the language is in `captioning.store.query`.

It is the same on both databases. Each term is quoted for the database's search language, so no input is syntax there.
Word endings are ignored.
"""

from typing import Any

import sqlalchemy as sa

from captioning.store.captions import FileRow, select_file_rows, to_file_row
from captioning.store.conditions import Terms, condition, terms_of
from captioning.store.database import Database
from captioning.store.preferred import shown_caption_id
from captioning.store.query import Both, Either, FieldIs, Not, Part, Words, asks_for_something, parse
from captioning.store.schema import Caption, File, Model, Root

MAX_COUNTED = 1000  # files that are counted and ranked; more than that by a common word would take longer than 50 ms


def search(
    db: Database, text: str, limit: int, max_counted: int = MAX_COUNTED, *, missing: bool = False
) -> tuple[int, list[FileRow]]:
    """Return how many files match by the captions that they show, and the best `limit` of them.

    Files that are missing are left out, unless `missing` is set. Captions that fit the words well come first, of equal
    ones those that are surer.

    With words, the search starts at the captions that the index finds, and counts and ranks at most `max_counted` or
    `limit` files, whichever is more; a total above both means that there are more. So the cost depends on the length of
    the answer, not on the size of the tables. With fields alone it reads files until it has as many. Raises UsageError
    for a query that cannot be read.
    """
    query = parse(text)
    terms = terms_of(db)
    most = max(limit, max_counted)
    with db.reading() as connection:
        best = connection.execute(_best(query, terms, limit, most, missing=missing)).all()
        ranks = {row.file_id: rank for rank, row in enumerate(best)}
        rows = connection.execute(select_file_rows(None).where(File.id.in_(ranks))).all()
    rows = sorted(rows, key=lambda row: ranks[row.file_id])
    return int(best[0].total) if best else 0, [to_file_row(row) for row in rows]


def _best(query: Part, terms: Terms, limit: int, max_counted: int, *, missing: bool) -> sa.Select[Any]:
    """Return the query for the ids of the best files, each row with the total."""
    words, rest = _divide(query)
    conditions = [condition(part, terms) for part in rest]
    if not missing:
        conditions.append(File.missing_since.is_(None))
    sureness = 0.5 + 0.5 * sa.func.coalesce(Caption.confidence, 1.0)  # what a person wrote is sure
    # the file of a person's caption need not have the content that it was written for
    of_caption = sa.or_(File.image_id == Caption.image_id, File.id == Caption.file_id)
    # not "=", or PostgreSQL would look through all files for those that show the captions; so would SQLite without "+"
    is_shown = (Caption.id + 0).is_not_distinct_from(shown_caption_id(None))
    if words is not None:
        hits = terms.hits(words).cte("hits")
        files = sa.select(File.id.label("file_id"), (hits.c.rank * sureness).label("rank")).where(is_shown)
        files = files.join_from(hits, Caption, Caption.id == hits.c.id).join(File, of_caption)
    elif (order := _order_of_range(query)) is not None:
        files = sa.select(File.id.label("file_id"), (-sureness).label("rank")).where(is_shown)
        files = files.join_from(Caption, File, of_caption).order_by(order)
    else:
        files = sa.select(File.id.label("file_id"), (-sureness).label("rank"))
        files = files.join(Caption, Caption.id == shown_caption_id(None))
    if rest:
        files = files.join(Root, Root.id == File.root_id).outerjoin(Model, Model.id == Caption.model_id)
    matches = files.where(*conditions).limit(max_counted + 1).subquery()
    total = sa.func.count().over().label("total")
    return sa.select(matches.c.file_id, total).order_by(matches.c.rank, matches.c.file_id).limit(limit)


_RANGES = {"confidence": Caption.confidence, "before": Caption.created_at, "after": Caption.created_at}


def _order_of_range(query: Part) -> Any:
    """Return the order, the highest first, in which an index has the captions of a range that a query asks for."""
    parts = query.parts if isinstance(query, Both) else (query,)
    of_parts = (_RANGES[part.name].desc() for part in parts if isinstance(part, FieldIs) and part.name in _RANGES)
    return next(of_parts, None)


def _divide(query: Part) -> tuple[Part | None, list[Part]]:
    """Return the part of a query that the index of words answers alone, if there is one, and the other parts."""
    if _is_of_words(query):
        return query, []
    if not isinstance(query, Both):
        return None, [query]
    wanted = [part for part in query.parts if _is_of_words(part)]
    if not wanted:
        return None, [query]
    unwanted = [part for part in query.parts if isinstance(part, Not) and _is_of_words(part.part)]
    rest = [part for part in query.parts if part not in wanted and part not in unwanted]
    inside = (*wanted, *unwanted)
    return (Both(inside) if len(inside) > 1 else inside[0]), rest


def _is_of_words(part: Part) -> bool:
    """Return whether the index of words can answer a part: no fields, and never only what captions must not have."""
    match part:
        case Words():
            return True
        case Both(parts):
            return asks_for_something(part) and all(_is_of_words(p.part if isinstance(p, Not) else p) for p in parts)
        case Either(parts):
            return all(map(_is_of_words, parts))
        case _:
            return False
