"""How the captions of two models differ: where both have captioned the same content with the same words, or not."""

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from captioning.errors import UsageError
from captioning.paths import text_of
from captioning.store.database import Database
from captioning.store.schema import Caption, File, Model, Root
from captioning.values import Source
from captioning.word_groups import content_words

_PAGE = 2000


@dataclass(frozen=True, order=True)
class Difference:
    """One image of which two models say something else."""

    overlap: float  # shared content words of all content words of both, 0 to 1
    image_id: int
    path: str = field(compare=False)  # of a file with the image
    first: str = field(compare=False)
    second: str = field(compare=False)
    first_confidence: float | None = field(compare=False)
    second_confidence: float | None = field(compare=False)


@dataclass
class ModelDiff:
    """How the captions of two models differ over all images that both have captioned."""

    images: int = 0
    same: int = 0  # images with word for word the same caption
    overlap: float = 0.0  # mean
    confidence: tuple[float | None, float | None] = (None, None)  # means
    only_first: Counter[str] = field(default_factory=Counter)  # content words that only one caption has
    only_second: Counter[str] = field(default_factory=Counter)
    worst: list[Difference] = field(default_factory=list)  # the most different first

    def as_json(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        words = {"only_first": dict(common(self.only_first)), "only_second": dict(common(self.only_second))}
        return vars(self) | words | {"worst": [asdict(one) for one in self.worst]}


def common(words: Counter[str]) -> list[tuple[str, int]]:
    """Return words with their numbers, the most frequent first; in the order of the alphabet where they are equal."""
    return sorted(words.items(), key=lambda item: (-item[1], item[0]))


def model_diff(db: Database, first: str, second: str, limit: int) -> ModelDiff:
    """Compare the captions of two models, by name; the `limit` most different ones are listed.

    Of several versions of a model, the newest caption of an image counts. Raises UsageError when no image has captions
    of both.
    """
    diff, sums, known = ModelDiff(), [0.0, 0.0], [0, 0]
    worst: list[tuple[float, int, Any]] = []
    overlaps = 0.0
    for row in _pairs(db, first, second):
        ours, theirs = content_words(row.first), content_words(row.second)
        both = len(ours | theirs)
        overlap = len(ours & theirs) / both if both else 1.0
        diff.images += 1
        diff.same += row.first == row.second
        overlaps += overlap
        diff.only_first.update(ours - theirs)
        diff.only_second.update(theirs - ours)
        for i, value in enumerate((row.first_confidence, row.second_confidence)):
            if value is not None:
                sums[i], known[i] = sums[i] + value, known[i] + 1
        entry = (-overlap, -row.image_id, row)
        if row.first != row.second:
            (heapq.heappush if len(worst) < limit else heapq.heappushpop)(worst, entry)
    if not diff.images:
        with db.reading() as connection:
            by = set(connection.execute(sa.select(Model.name).join(Caption, Caption.model_id == Model.id)).scalars())
        lacking = [name for name in (first, second) if name not in by]
        if lacking:
            name = lacking[0]
            raise UsageError(f"no caption is by {name}: `producer submit FOLDER --model {name}` makes some.")
        raise UsageError(f"no image has captions by both {first} and {second}: submit one folder with each --model.")
    diff.overlap = overlaps / diff.images
    diff.confidence = tuple(s / n if n else None for s, n in zip(sums, known, strict=True))  # type: ignore[assignment]
    diff.worst = [_difference(db, -negative, row) for negative, _, row in sorted(worst, reverse=True)]
    return diff


def _pairs(db: Database, first: str, second: str) -> Iterator[Any]:
    """Yield the captions of two models of each image that both have captioned."""
    a, b = aliased(Caption), aliased(Caption)
    query = (
        sa.select(
            a.image_id, a.text.label("first"), b.text.label("second"),
            a.confidence.label("first_confidence"), b.confidence.label("second_confidence"),
        )
        .join(b, b.image_id == a.image_id)
        .where(a.id == _newest(a.image_id, first), b.id == _newest(b.image_id, second))
        .order_by(a.image_id)
    )  # fmt: skip
    last = 0
    while True:
        with db.reading() as connection:
            rows = connection.execute(query.where(a.image_id > last).limit(_PAGE)).all()
        yield from rows
        if len(rows) < _PAGE:
            return
        last = rows[-1].image_id


def _newest(image_id: Any, model: str) -> sa.ScalarSelect[int]:
    c, m = aliased(Caption), aliased(Model)
    return (
        sa.select(c.id)
        .join(m, m.id == c.model_id)
        .where(c.image_id == image_id, m.name == model, c.source == Source.MACHINE)
        .order_by(c.created_at.desc(), c.id.desc())
        .limit(1)
        .scalar_subquery()
    )


def _difference(db: Database, overlap: float, row: Any) -> Difference:
    query = sa.select(Root.path_bytes, File.path_bytes.label("inside")).join(Root, Root.id == File.root_id)
    query = (
        query.where(File.image_id == row.image_id)
        .order_by(File.partner.is_not(None), File.missing_since.is_not(None), File.id)
        .limit(1)
    )
    with db.reading() as connection:
        found = connection.execute(query).one_or_none()
    path = "" if found is None else text_of(found.path_bytes.rstrip(b"/") + b"/" + found.inside)
    return Difference(
        round(overlap, 4), row.image_id, path, row.first, row.second, row.first_confidence, row.second_confidence
    )
