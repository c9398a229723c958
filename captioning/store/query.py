"""The query language of `search`: words, phrases, fields, AND, OR, NOT and parentheses. This module knows no database.

Terms that stand beside each other must all hold. AND, OR and NOT are operators in capitals only, so that a caption's
"and" can be searched for; NOT and a minus sign bind closest, OR loosest.
"""

import difflib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NoReturn

from captioning.errors import UsageError
from captioning.values import Source

MAX_TERMS = 100  # a database refuses deeper expressions than a person writes


@dataclass(frozen=True)
class Words:
    """The caption has these words, in this order."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class FieldIs:
    """A field of the image compares like this with a value."""

    name: str
    operator: str  # : = < <= > >=
    value: str | float | bool  # a number of seconds for times


@dataclass(frozen=True)
class Not:
    """The other way round."""

    part: "Part"


@dataclass(frozen=True)
class Both:
    """All parts hold."""

    parts: tuple["Part", ...]


@dataclass(frozen=True)
class Either:
    """At least one part holds."""

    parts: tuple["Part", ...]


Part = Words | FieldIs | Not | Both | Either


def _number(text: str) -> float:
    share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not (math.isfinite(share) and 0 <= share <= 1):
        raise ValueError
    return share


def _time(text: str) -> float:
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _yes_or_no(text: str) -> bool:
    return {"yes": True, "no": False}[text.lower()]


def _source(text: str) -> str:
    return Source(text.lower()).value


@dataclass(frozen=True)
class _Kind:
    """How the value of a field is written."""

    parse: Callable[[str], str | float | bool]
    operators: tuple[str, ...]
    values: str
    example: str


_IS = (":", "=")
_COMPARED = ("<=", ">=", "<", ">", ":", "=")
FIELDS: dict[str, _Kind] = {
    "path": _Kind(str, _IS, "a part of a path", "path:holiday or path:*/2024/*.jpg"),
    "confidence": _Kind(_number, _COMPARED, "a number from 0 to 1, or a percentage", "confidence>0.6"),
    "model": _Kind(str.lower, _IS, "the name of a model", "model:lstm"),
    "source": _Kind(_source, _IS, "a source", "source:machine, source:human or source:imported"),
    "before": _Kind(_time, _IS, "a day or a time", "before:2026-03-31"),
    "after": _Kind(_time, _IS, "a day or a time", "after:2026-03-31T12:00"),
    "unlike": _Kind(_yes_or_no, _IS, "yes or no", "unlike:yes or unlike:no"),
}
"""The fields, by their names; `before` and `after` are times at which the caption was written, in UTC."""

_LOOSE_FIELD = re.compile(rf"(?:^|[\s(-])({'|'.join(FIELDS)})(?:\s+[:=<>]=?|[:=<>]=?(?=[\s)]|$))", re.IGNORECASE)
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<open>-?\()
      | (?P<close>\))
      | (?P<minus>-?)(?P<field>[^\W\d_]+)(?P<operator><=|>=|[:=<>])
          (?:"(?P<quoted>[^"]*)"?|'(?P<single>[^']*)'?|(?P<value>[^\s()]+))
      | (?P<minus2>-?)"(?P<phrase>[^"]*)"?
      | (?P<minus3>-?)(?P<word>[^\s()"]+)
      | (?P<other>\S)
    )""",
    re.VERBOSE,
)  # fmt: skip


def parse(text: str, *, may_exclude: bool = False) -> Part:
    """Parse a query. Raises UsageError when it cannot be read, or has no term that images should fit.

    With `may_exclude`, a query may say only what images should not be like.
    """
    parser = _Parser(text)
    found = parser.either()
    if parser.peek() is not None:
        parser.refuse('there is a ")" without a "("')
    if found is None or not (may_exclude or asks_for_something(found)):
        only = "it only says what captions should not contain; " if found is not None else ""
        raise UsageError(
            f"nothing to search for in {text!r}: {only}give at least one word that captions should contain, or a field"
            " such as confidence>0.6."
        )
    return found


def asks_for_something(part: Part) -> bool:
    """Return whether a part says what images should be like, not only what they should not."""
    match part:
        case Not():
            return False
        case Both(parts):
            return any(map(asks_for_something, parts))
        case Either(parts):
            return all(map(asks_for_something, parts))
        case _:
            return True


class _Parser:
    """A recursive descent over the tokens of a query."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(_TOKEN.finditer(text))
        self.place = 0
        loose = _LOOSE_FIELD.search(re.sub(r'"[^"]*"?', '""', text))  # a phrase may have a colon
        if loose is not None:
            kind = FIELDS[loose[1].lower()]
            self.refuse(f"{loose[0].strip()!r} has no value; write {kind.example}, without spaces")
        if len(self.tokens) > MAX_TERMS:
            self.refuse(f"it has {len(self.tokens)} terms, at most {MAX_TERMS} are allowed")

    def refuse(self, why: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(f"cannot read the query {self.text!r}: {why}.")

    def peek(self) -> "re.Match[str] | None":
        """Return the next token, None at the end."""
        return self.tokens[self.place] if self.place < len(self.tokens) else None

    def either(self) -> Part | None:
        """Read parts between ORs."""
        parts = [self._both()]
        while self._take_operator("OR"):
            parts.append(self._both())
            if parts[0] is None or parts[-1] is None:
                self.refuse("there is nothing beside an OR")
        found = [part for part in parts if part is not None]
        return Either(tuple(found)) if len(found) > 1 else (found[0] if found else None)

    def _both(self) -> Part | None:
        """Read parts that stand beside each other, or between ANDs."""
        parts: list[Part] = []
        while (token := self.peek()) is not None and token["close"] is None and token["word"] != "OR":
            if self._take_operator("AND"):
                following = self.peek()
                if not parts or following is None or following["close"] is not None or following["word"] == "OR":
                    self.refuse("there is nothing beside an AND")
                continue
            part = self._one()
            if part is not None:
                parts.append(part)
        return Both(tuple(parts)) if len(parts) > 1 else (parts[0] if parts else None)

    def _one(self) -> Part | None:
        """Read one term, one pair of parentheses, or what a NOT is for; None if it has no letters."""
        if self._take_operator("NOT"):
            if self.peek() is None:
                self.refuse("there is nothing behind a NOT")
            part = self._one()
            return None if part is None else Not(part)
        token = self.peek()
        if token is None:
            return None
        self.place += 1
        if token["open"] is not None:
            inside = self.either()
            closing = self.peek()
            if closing is None or closing["close"] is None:
                self.refuse('a "(" is never closed')
            self.place += 1
            return _signed(inside, minus=token["open"].startswith("-"))
        if token["field"] is not None:
            return _signed(self._field(token), minus=bool(token["minus"]))
        written = token["phrase"] if token["phrase"] is not None else token["word"] or ""
        return _signed(_words(written), minus=bool(token["minus2"] or token["minus3"]))

    def _take_operator(self, name: str) -> bool:
        token = self.peek()
        found = token is not None and token["word"] == name and not token["minus3"]
        self.place += found
        return found

    def _field(self, token: "re.Match[str]") -> Part | None:
        name, operator = token["field"].lower(), token["operator"]
        value = next((token[kind] for kind in ("quoted", "single", "value") if token[kind] is not None), "")
        kind = FIELDS.get(name)
        if kind is None:
            near = difflib.get_close_matches(name, FIELDS, 1, 0.75)
            meant = f"perhaps you mean {near[0]}" if near else f"the fields are {', '.join(FIELDS)}"
            self.refuse(f"there is no field {name}, {meant}; words of a caption go in double quotes")
        if operator not in kind.operators:
            self.refuse(f"{name}{operator} is not possible; write {kind.example}")
        try:
            return FieldIs(name, operator, kind.parse(value))
        except (ValueError, KeyError, OverflowError):
            self.refuse(f"{value!r} is no value of {name}, which is {kind.values}; write {kind.example}")


def _signed(part: Part | None, *, minus: bool) -> Part | None:
    return Not(part) if minus and part is not None else part


def _words(text: str) -> Words | None:
    words = tuple(re.findall(r"[^\W_]+", text.lower()))
    return Words(words) if words else None
