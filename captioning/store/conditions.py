"""Conditions of SQL for queries of `captioning.store.query`, on both databases."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import REGCONFIG, TSQUERY

from captioning.store.database import Database
from captioning.store.query import Both, Either, FieldIs, Not, Part, Words, parse
from captioning.store.schema import Caption, File, Model, Root

TEXT_CONFIG = "captionmill"  # PostgreSQL's English with stop words, like SQLite's; the migration creates it


def matching(db: Database, text: str) -> sa.ColumnElement[bool]:
    """Return the condition for a file, its root, the caption that it shows and its model to match a query.

    Raises UsageError when the query cannot be read.
    """
    return condition(parse(text, may_exclude=True), terms_of(db))


def terms_of(db: Database) -> "Terms":
    """Return how a database is asked for words."""
    return _Sqlite() if db.is_sqlite else _Postgresql()


def condition(part: Part, terms: "Terms") -> sa.ColumnElement[bool]:
    """Return the condition for a part of a query."""
    match part:
        case Words():
            return Caption.id.in_(sa.select(terms.hits(part).subquery().c.id))
        case Not(inside):
            return sa.not_(sa.func.coalesce(condition(inside, terms), sa.false()))
        case Both(parts):
            return sa.and_(*(condition(p, terms) for p in parts))
        case Either(parts):
            return sa.or_(*(condition(p, terms) for p in parts))
        case FieldIs():
            return _field(part)


_PATH = sa.func.rtrim(Root.path, "/") + "/" + File.path
_COMPARISONS: dict[str, Any] = {
    ":": sa.sql.operators.eq, "=": sa.sql.operators.eq, "<": sa.sql.operators.lt, "<=": sa.sql.operators.le,
    ">": sa.sql.operators.gt, ">=": sa.sql.operators.ge,
}  # fmt: skip


def _field(part: FieldIs) -> sa.ColumnElement[bool]:
    value = part.value
    fields: dict[str, Callable[[], sa.ColumnElement[bool]]] = {
        "path": lambda: sa.func.lower(_PATH).like(sa.func.lower(_pattern(str(value))), escape="\\"),
        "confidence": lambda: _COMPARISONS[part.operator](Caption.confidence, value),
        "model": lambda: sa.func.lower(Model.name) == value,
        "source": lambda: Caption.source == value,
        "before": lambda: Caption.created_at < value,
        "after": lambda: Caption.created_at >= value,
        "unlike": lambda: sa.func.coalesce(Caption.unlike, sa.false()) == value,
    }
    return fields[part.name]()


def _pattern(text: str) -> str:
    """Return the pattern of LIKE for a part of a path, or for a whole path with * and ?."""
    quoted = re.sub(r"([\\%_])", r"\\\1", text)
    if not set("*?") & set(text):
        return f"%{quoted}%"
    return quoted.replace("*", "%").replace("?", "_")


class Terms(ABC):
    """How a database is asked for words."""

    @abstractmethod
    def hits(self, part: Part) -> sa.Select[Any]:
        """Return the query for captions that match: `id`, and `rank`, which is lower for a better match."""


class _Sqlite(Terms):
    def hits(self, part: Part) -> sa.Select[Any]:
        index = sa.table("captions_fts", sa.column("rowid"), sa.column("captions_fts"), sa.column("rank"))
        match = index.c.captions_fts.op("MATCH")(self._expression(part))
        return sa.select(index.c.rowid.label("id"), index.c.rank).where(match)

    def _expression(self, part: Part) -> str:
        match part:
            case Words(words):
                return f'"{" ".join(words)}"'
            case Either(parts):
                return "(" + " OR ".join(map(self._expression, parts)) + ")"
            case Both(parts):
                wanted = " AND ".join(self._expression(p) for p in parts if not isinstance(p, Not))
                unwanted = [self._expression(p.part) for p in parts if isinstance(p, Not)]
                return f"({wanted})" if not unwanted else f"(({wanted}) NOT ({' OR '.join(unwanted)}))"
            case _:
                raise TypeError(part)


class _Postgresql(Terms):
    def hits(self, part: Part) -> sa.Select[Any]:
        document, terms = sa.func.to_tsvector(self._config, Caption.text), self._expression(part)
        rank = (-sa.func.ts_rank(document, terms)).label("rank")
        return sa.select(Caption.id, rank).where(document.op("@@")(terms))

    @property
    def _config(self) -> sa.Cast[Any]:
        return sa.cast(TEXT_CONFIG, REGCONFIG)

    def _expression(self, part: Part) -> sa.ColumnElement[Any]:
        match part:
            case Words(words):
                return sa.func.phraseto_tsquery(self._config, " ".join(words), type_=TSQUERY)
            case Not(inside):
                return sa.func.tsquery_not(self._expression(inside), type_=TSQUERY)
            case Either(parts) | Both(parts):
                found = self._expression(parts[0])
                for other in parts[1:]:
                    joined = found.op("||" if isinstance(part, Either) else "&&")(self._expression(other))
                    found = sa.type_coerce(joined.self_group(), TSQUERY)
                return found
            case _:
                raise TypeError(part)
