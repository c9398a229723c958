"""What a caption becomes in an export: words before and after it, a template, a limit of words."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

from captioning.errors import UsageError
from captioning.store.captions import FileRow

_FIELDS: dict[str, Callable[[FileRow], str]] = {
    "caption": lambda row: row.caption or "",
    "name": lambda row: PurePosixPath(row.path).name,
    "stem": lambda row: PurePosixPath(row.path).stem,
    "folder": lambda row: PurePosixPath(row.path).parent.name,
    "model": lambda row: row.model or "",
    "confidence": lambda row: "" if row.confidence is None else f"{row.confidence:.2f}",
}
_PLACE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True)
class TextOptions:
    """How a caption is written. Raises UsageError for a template that cannot be used."""

    prefix: str = ""
    suffix: str = ""
    template: str = ""  # with {caption}
    max_words: int | None = None  # of the caption itself

    def __post_init__(self) -> None:
        if not self.template:
            return
        names = [found[1] for found in _PLACE.finditer(self.template) if found[0] not in ("{{", "}}")]
        for name in names:
            if name is None:
                raise UsageError(f"--template {self.template!r}: a brace is not closed; write {{{{ for a brace.")
            if name not in _FIELDS:
                known = ", ".join(f"{{{field}}}" for field in _FIELDS)
                raise UsageError(
                    f"--template {self.template!r}: {{{name or ''}}} is none of {known}; a brace is {{{{ or }}}}."
                )
        if "caption" not in names:
            raise UsageError(f"--template {self.template!r} has no {{caption}}: every file would say the same.")

    @property
    def is_plain(self) -> bool:
        """Whether captions are written as they are."""
        return self == TextOptions()

    def apply(self, row: FileRow) -> str:
        """Return the text for a file; empty for an image that is decorative."""
        caption = row.caption or ""
        if not caption:
            return ""
        if self.max_words is not None:
            caption = " ".join(caption.split()[: self.max_words])
        if self.template:
            caption = _PLACE.sub(lambda found: self._place(found, row, caption), self.template)
        return f"{self.prefix}{caption}{self.suffix}"

    @staticmethod
    def _place(found: "re.Match[str]", row: FileRow, caption: str) -> str:
        if found[0] in ("{{", "}}"):
            return found[0][0]
        return caption if found[1] == "caption" else _FIELDS[found[1]](row)
