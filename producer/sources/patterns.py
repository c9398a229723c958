"""Patterns of `--include` and `--exclude`: those of .gitignore, and the other ways in which people name a folder.

Case is ignored, and so is the Unicode form of a name: macOS writes an accent as a character of its own (NFD), most
others do not (NFC).
"""

import contextlib
import os
import re
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from captioning.errors import UsageError
from captioning.paths import absolute, is_below, text_of

_MAX_ALTERNATIVES = 1000  # of one pattern with braces
_SHOWN_CHARACTERS = 300  # of a pattern in a message
_BRACES = re.compile(r"\{([^{},]*(?:,[^{},]*)+)\}")
_SPECIAL = re.compile(r"([\\*?\[\]!# ])")


@dataclass(frozen=True)
class Filters:
    """Which images of a folder are taken."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    follow_symlinks: bool = False
    archives: bool = False  # also look into archives in folders; those that a person names are looked into anyway

    def __post_init__(self) -> None:
        """Raise UsageError for a pattern that nobody can mean."""
        for option, text in self.patterns():
            if not text.strip():
                raise UsageError(f"{option} needs a pattern, for example {option} '*.jpg'.")
            _expand(text)

    def patterns(self) -> Iterator[tuple[str, str]]:
        """Yield the patterns with their options."""
        yield from (("--include", text) for text in self.include)
        yield from (("--exclude", text) for text in self.exclude)


class Pattern:
    """One pattern, compiled for a walk through `folder`, an absolute path."""

    def __init__(self, option: str, text: str, folder: bytes) -> None:
        self.option, self.text = option, text
        forms = [form for word in _expand(text) for form in (word, word.strip(), *_below(word, folder))]
        lines = dict.fromkeys(line for form in forms for line in _gitignore_lines(_normal(os.fsencode(form))))
        self._regexes = list(_compile(lines))

    def matches(self, texts: Sequence[str]) -> bool:
        """Return whether the pattern matches a path below the folder, given in one or more spellings.

        The path of a folder ends with a slash. Everything below a folder that matches matches too.
        """
        return any(regex.match(text) for regex in self._regexes for text in texts)


class Selection:
    """The filters, compiled for a walk through one folder. `matched` collects the patterns that matched something."""

    def __init__(self, filters: Filters, folder: bytes, matched: set[tuple[str, str]]) -> None:
        patterns = [Pattern(option, text, folder) for option, text in filters.patterns()]
        self._include = [pattern for pattern in patterns if pattern.option == "--include"]
        self._exclude = [pattern for pattern in patterns if pattern.option == "--exclude"]
        self._matched = matched

    def category_of_image(self, path: bytes) -> str:
        """Return `image` for the path, below the folder, of an image to take, else `filtered`."""
        if not self._include and not self._exclude:
            return "image"
        texts = _spellings(path)
        included = self._any(self._include, texts) or not self._include
        excluded = self._any(self._exclude, texts)
        return "image" if included and not excluded else "filtered"

    def category_of_folder(self, path: bytes) -> str:
        """Return `folder` for one to walk, `excluded folder` for one that need not be read."""
        is_excluded = self._exclude and self._any(self._exclude, _spellings(path + b"/"))
        return "excluded folder" if is_excluded else "folder"

    def _any(self, patterns: Iterable[Pattern], texts: Sequence[str]) -> bool:
        hits = {(pattern.option, pattern.text) for pattern in patterns if pattern.matches(texts)}
        self._matched |= hits
        return bool(hits)


def unmatched(filters: Filters, matched: set[tuple[str, str]]) -> Iterator[str]:
    """Yield a sentence for each pattern that matched nothing in a complete walk."""
    for option, text in dict.fromkeys(filters.patterns()):
        if (option, text) not in matched:
            hint = "; write / between folders" if "\\" in text else ""
            nothing = "no image" if option == "--include" else "no image and no folder"
            yield f"{option} {text_of(os.fsencode(text))[:_SHOWN_CHARACTERS]!r} matched {nothing}{hint}"


def alternatives(text: str) -> list[str]:
    """Return what a text with braces stands for: `*.{jpg,png}` is `*.jpg` and `*.png`. Raises UsageError."""
    return _expand(text)[1:] or [text]


def _expand(text: str) -> list[str]:
    """Return the alternatives of a pattern with braces: `*.{jpg,png}` is `*.jpg` and `*.png`."""
    words = [text]
    while any(_BRACES.search(word) for word in words):
        words = [new for word in words for new in _expand_once(word)]
        if len(words) > _MAX_ALTERNATIVES:
            raise UsageError(f"the braces of {text[:80]!r} stand for more than {_MAX_ALTERNATIVES} patterns.")
    return list(dict.fromkeys((text, *words)))  # a name may contain braces


def _expand_once(word: str) -> list[str]:
    found = _BRACES.search(word)
    if found is None:
        return [word]
    return [word[: found.start()] + option + word[found.end() :] for option in found[1].split(",")]


def _below(word: str, folder: bytes) -> Iterator[str]:
    """Yield a pattern that is a path, absolute or from the current folder, as a path below the walked folder."""
    if "/" not in word.rstrip("/") and word not in (".", "./"):
        return
    path = os.fsencode(word)
    parent, name = os.path.split(path.rstrip(b"/") or b"/")
    try:
        full = os.path.join(absolute(parent or b"."), name) if name not in (b".", b"..") else absolute(path)
    except FileNotFoundError:  # the current folder was deleted
        return
    if is_below(full, folder):
        below = full[len(folder.rstrip(b"/")) :]
        yield os.fsdecode(below or b"/**") + ("/" if path.endswith(b"/") and below else "")


def _gitignore_lines(text: str) -> Iterator[str]:
    """Yield lines of .gitignore for a pattern, and for a name that happens to contain special characters."""
    words = re.sub(r"/{2,}", "/", text)
    while words.startswith("./"):
        words = words[1:]
    yield re.sub(r"^([!#])|( )$", lambda found: "\\" + found[0], words)
    if _SPECIAL.search(words):
        yield _SPECIAL.sub(r"\\\1", words)


def _compile(lines: Iterable[str]) -> Iterator[re.Pattern[str]]:
    from pathspec.patterns.gitignore import GitIgnorePatternError  # takes a while, and most walks have no patterns
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

    for line in lines:
        with contextlib.suppress(GitIgnorePatternError, re.error), warnings.catch_warnings():
            # Not a pattern: `[z-a]`, a backslash at the end. The same text as a name is one of the lines.
            warnings.simplefilter("ignore", FutureWarning)  # `[[]` may mean something else in a later Python
            regex, _ = GitIgnoreSpecPattern.pattern_to_regex(line)
            if regex is not None:
                yield re.compile(regex, re.IGNORECASE | re.DOTALL)


def _spellings(path: bytes) -> Sequence[str]:
    """Return a path as text: its exact bytes, and as it is printed where they are not UTF-8."""
    exact, printed = _normal(path), text_of(path)
    return (exact,) if "%" not in printed else (exact, unicodedata.normalize("NFC", printed))


def _normal(path: bytes) -> str:
    return unicodedata.normalize("NFC", path.decode("utf-8", "surrogateescape"))
