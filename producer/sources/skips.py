"""Count what is not taken, by category, and describe it. A category is a noun and what follows: `image that ...`."""

import re
from collections import Counter
from collections.abc import Callable, Mapping

from captioning.terminal import count

_MAX_CATEGORIES = 200  # counted apart; endings of names may be anything, and the counts are part of the job's row
_MAX_DESCRIBED = 8
_NAMES = {"hidden": "hidden file", "filtered": "filtered image"}  # where the category alone is not a noun
_HEAD_NOUN_ENDS = re.compile(r"(?= (?:that|with|without|named|out|\()|$)")


class Skips:
    """Counts by category; tells a listener the path and the category of each."""

    def __init__(self, listen: Callable[[bytes, str], None], counts: Mapping[str, int] | None = None) -> None:
        self.counts = Counter(counts or {})
        self._listen = listen

    def add(self, path: bytes, category: str) -> None:
        """Count one path that is not taken."""
        self._listen(path, _NAMES.get(category, category))
        known = category in self.counts or len(self.counts) < _MAX_CATEGORIES
        self.counts[category if known else "other file"] += 1


def describe_skipped(skipped: Mapping[str, int]) -> str:
    """Return skipped entries for people, the most frequent category first: `2 .txt files, 1 hidden file`."""
    categories = sorted((-number, category) for category, number in skipped.items() if number)
    if len(categories) <= _MAX_DESCRIBED + 1:
        return ", ".join(_described(-number, category) for number, category in categories)
    shown, rest = categories[:_MAX_DESCRIBED], categories[_MAX_DESCRIBED:]
    parts = [_described(-number, category) for number, category in shown]
    return f"{', '.join(parts)} and {-sum(number for number, _ in rest)} of other kinds"


def _described(number: int, category: str) -> str:
    singular = _NAMES.get(category, category)
    plural = _HEAD_NOUN_ENDS.sub("s", singular, count=1)
    plural = plural.replace(" that no longer exists", " that no longer exist").replace(" that does not", " that do not")
    return count(number, singular, plural)
