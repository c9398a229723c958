"""Replacing words in captions: what to look for, and what each caption becomes."""

from collections.abc import Iterable, Iterator

import regex

from captioning.errors import UsageError
from captioning.store.captions import FileRow
from captioning.store.edits import NewText
from captioning.values import Source

_SECONDS = 0.2  # for one caption; an expression that needs more would need hours for a few
_EDITABLE = (Source.MACHINE, Source.IMPORTED)  # what a person wrote is corrected one by one


class Replacer:
    """Replaces words, or what matches a regular expression."""

    def __init__(self, old: str, new: str, *, is_regex: bool = False) -> None:
        """Raises UsageError for an expression, or a replacement, that cannot be used."""
        self._old, self._new = old, new
        if not old.strip():
            raise UsageError("give the words to replace: producer replace OLD NEW.")
        pattern = old if is_regex else rf"(?<!\w){regex.escape(old.strip())}(?!\w)"
        try:
            self._pattern = regex.compile(pattern, regex.IGNORECASE)
            self._replacement = new if is_regex else new.replace("\\", "\\\\")
            self._pattern.sub(self._replacement, "")
        except (regex.error, IndexError) as error:
            raise UsageError(
                f"cannot replace {old} by {new}: {error}. Mend the expression, or leave out --regex."
            ) from None

    def apply(self, text: str) -> str:
        """Return a caption with the words replaced. Raises UsageError when that takes too long."""
        try:
            found = self._pattern.sub(self._replacement, text, timeout=_SECONDS)
        except TimeoutError:
            raise UsageError(
                f"the expression {self._old!r} takes more than {_SECONDS:g} s for one caption: write a simpler one."
            ) from None
        except (regex.error, IndexError) as error:  # a group that only some matches have
            raise UsageError(f"cannot replace {self._old} by {self._new} in {text!r}: {error}. Mend NEW.") from None
        return " ".join(found.split())


def changes(rows: Iterable[FileRow], replacer: Replacer) -> Iterator[tuple[FileRow, NewText]]:
    """Yield the captions that change, each once, with a file that shows it.

    Captions of people stay as they are, and one that would have no words left.
    """
    seen: set[int] = set()
    for row in rows:
        if row.caption_id is None or row.caption is None or row.source not in _EDITABLE or row.caption_id in seen:
            continue
        seen.add(row.caption_id)
        after = replacer.apply(row.caption)
        if after and after != " ".join(row.caption.split()):
            yield row, NewText(row.caption_id, row.file_id, row.caption, after)
