"""The Markdown pages of the repository, and the code, commands and links in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[2]
FOLDERS = (".github", "captioning", "docs", "producer", "training", "worker")
PROGRAMS = ("producer", "worker", "training", "make", "python", "pytest")

_CODE_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Command:
    """A command line on a page: the program and its arguments."""

    page: Path
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page.relative_to(PROJECT)}: {shlex.join(self.words)}"


def pages() -> list[Path]:
    """Return all Markdown pages."""
    below = (path for folder in FOLDERS for path in (PROJECT / folder).rglob("*.md"))
    return sorted((*PROJECT.glob("*.md"), *below))


def code_lines(text: str) -> Iterator[str]:
    """Yield the lines of code blocks that are indented by four spaces, joined where a line ends in a backslash.

    Fences hold diagrams and trees.
    """
    begun = ""
    for line, part in _classified(text):
        if part != "code":
            continue
        begun += line.strip()
        if begun.endswith("\\"):
            begun = begun[:-1]
        else:
            yield begun
            begun = ""


def lines_outside_tables(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("|")]


def _classified(text: str) -> Iterator[tuple[str, str]]:
    """Yield each line with the part it belongs to: code (indented), fence, or prose (everything else)."""
    fenced = False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
            yield line, "fence"
        else:
            yield line, "fence" if fenced else "code" if line.startswith("    ") else "prose"


def commands(page: Path) -> list[Command]:
    """Return the command lines of our programs, of make and of Python in code blocks and code spans."""
    text = page.read_text(encoding="utf-8")
    spans = [span for line in text.splitlines() for span in _CODE_SPAN.findall(line)]
    parsed = (command_of(line) for line in (*code_lines(text), *spans))
    return [Command(page, words) for words in parsed if words]


def command_of(line: str) -> tuple[str, ...]:
    """Return a command line as words, without what comes before and after it; empty if it is none of ours."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return ()
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if "|" in words:
        return command_of(shlex.join(words[words.index("|") + 1 :]))
    words = words[: words.index(">")] if ">" in words else words
    if not words or Path(words[0]).name not in PROGRAMS:
        return ()
    return (Path(words[0]).name, *words[1:])


def section(page: Path, title: str) -> str:
    """Return the text below a heading, up to the next heading."""
    text = page.read_text(encoding="utf-8")
    _, _, rest = text.partition(f"\n## {title}\n")
    return rest.partition("\n## ")[0]


def links(page: Path) -> list[str]:
    """Return the targets of the links and images on a page."""
    lines = _classified(page.read_text(encoding="utf-8"))
    return _LINK.findall("\n".join(line for line, part in lines if part == "prose"))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = _HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
