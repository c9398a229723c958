"""Answers about near-duplicates: files like one file, and files in clusters."""

import base64
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from captioning.near_duplicates import Images, Kind, clusters, compare, find_pairs, nearest
from captioning.paths import text_of
from captioning.store.database import Database
from captioning.store.features import Seen, encoder_of_most, load, vector_blocks
from captioning.store.schema import Features, File, Image, Item, Root

_IDS_AT_ONCE = 10_000  # in one query


@dataclass(frozen=True)
class SimilarFile:
    """A file, and what it is of another one."""

    path: str  # bytes that are not UTF-8 are %XX
    path_bytes: bytes
    sha256: str  # digest of the content
    width: int  # pixels, upright
    height: int  # pixels, upright
    bytes: int
    kind: Kind | None  # None: it is the other one itself, or shows another image
    score: float  # 0 to 1; see the functions that return it

    def as_json(self) -> dict[str, Any]:
        """Return the file as JSON has it."""
        fields = ("path", "sha256", "width", "height", "bytes", "kind")
        line = {name: getattr(self, name) for name in fields} | {"score": round(self.score, 4)}
        if self.path.encode() != self.path_bytes:
            line["path_b64"] = base64.b64encode(self.path_bytes).decode()
        return line


def similar_files(db: Database, file_id: int, count: int) -> list[SimilarFile] | None:
    """Return the files with the most similar images, copies first; the score is the cosine of their vectors.

    Returns None when no features of the file are stored.
    """
    with db.reading() as connection:
        image_id = connection.execute(sa.select(File.image_id).where(File.id == file_id)).scalar()
    encoder_id = None if image_id is None else encoder_of_most(db, image_id)
    if image_id is None or encoder_id is None:
        return None
    own = _images(db, encoder_id, [image_id])
    found = nearest(own.vectors[0], vector_blocks(db, encoder_id), count + 1)
    scores = {image_id: 1.0} | {other: max(0.0, cosine) for other, cosine in found if other != image_id}
    kinds = compare(_images(db, encoder_id, [*scores]), 0, range(len(scores)))
    kind_of = {other: kind for other, (kind, _) in zip(scores, kinds, strict=True)} | {image_id: Kind.COPY}
    rows = [row for row in _files(db, scores) if row.file_id != file_id]
    files = [_to_file(row, kind_of[row.image_id], scores[row.image_id]) for row in rows]
    return sorted(files, key=lambda file: (-file.score, file.path_bytes))[:count]


def _images(db: Database, encoder_id: int, image_ids: Sequence[int]) -> Images:
    query = sa.select(Features.image_id, Features.vector, Features.thumbnail)
    query = query.where(Features.encoder_id == encoder_id, Features.image_id.in_(image_ids))
    with db.reading() as connection:
        rows = {row.image_id: row for row in connection.execute(query)}
    return Images.unpack([rows[i].vector for i in image_ids], [rows[i].thumbnail for i in image_ids])


@dataclass(frozen=True)
class Duplicates:
    """The clusters of near-duplicates, the largest first, and what was compared."""

    clusters: list[list[SimilarFile]]  # the file with the most pixels first; the others are compared with it
    compared: int  # images
    without_features: int  # images that were captioned before features were kept


def find_duplicates(
    db: Database,
    *,
    job: int | None = None,
    strict: bool = False,
    on_progress: Callable[[int, int], object] = lambda done, total: None,
) -> Duplicates:
    """Find the clusters of copies and near-duplicates among all files, or those of a job.

    The score is the correlation of thumbnails. `on_progress` is called with the number of images that are compared
    with all others, and that of all images.
    """
    encoder_id = encoder_of_most(db)
    seen = load(db, -1 if encoder_id is None else encoder_id, job)
    total = len(seen.image_ids)
    pairs = find_pairs(seen.images, strict=strict, on_progress=lambda done: on_progress(done, total))
    groups = clusters(total, pairs.first.tolist(), pairs.second.tolist())
    copied = _copied_images(db, job)
    members = {int(seen.image_ids[i]) for group in groups for i in group}
    rows: dict[int, list[Any]] = {}
    for row in _files(db, members | copied, job):
        rows.setdefault(row.image_id, []).append(row)
    found = [_cluster(seen, group, rows) for group in groups]
    found += [_copies(rows[image_id]) for image_id in copied - members if image_id in rows]
    found = sorted((files for files in found if len(files) > 1), key=lambda files: (-len(files), files[0].path_bytes))
    return Duplicates(found, total, _count_images(db, job) - total)


def _cluster(seen: Seen, group: list[int], rows: Mapping[int, list[Any]]) -> list[SimilarFile]:
    """Return the files of a cluster, given as rows of `seen`; the best image first, then by similarity to it."""
    held = [i for i in group if int(seen.image_ids[i]) in rows]  # others are forgotten meanwhile
    if not held:
        return []
    rows_of = {i: rows[int(seen.image_ids[i])] for i in held}
    best, *others = sorted(held, key=lambda i: _by_size(rows_of[i][0]))
    compared = zip(others, compare(seen.images, best, others), strict=True)
    files = _copies(rows_of[best])
    for i, (kind, score) in sorted(compared, key=lambda found: -found[1][1]):
        files += [_to_file(row, kind or Kind.LINKED, score) for row in rows_of[i]]
    return files


def _copies(rows: Sequence[Any]) -> list[SimilarFile]:
    """Return the files of one image."""
    return [_to_file(row, Kind.COPY if place else None, 1.0) for place, row in enumerate(rows)]


def _by_size(row: Any) -> tuple[int, int, bytes]:
    return -row.width * row.height, -row.bytes, row.path_bytes


def _to_file(row: Any, kind: Kind | None, score: float) -> SimilarFile:
    path = row.root.rstrip(b"/") + b"/" + row.path_bytes
    return SimilarFile(text_of(path), path, row.sha256, row.width, row.height, row.bytes, kind, score)


def _files(db: Database, image_ids: Collection[int], job: int | None = None) -> list[Any]:
    """Return rows of the files with these images that are not missing, by path."""
    query = (
        sa.select(
            File.id.label("file_id"), File.image_id, Root.path_bytes.label("root"), File.path_bytes,
            Image.sha256, Image.width, Image.height, Image.bytes,
        )
        .join(Root, Root.id == File.root_id)
        .join(Image, Image.id == File.image_id)
        .where(*_held(job))
    )  # fmt: skip
    wanted, rows = sorted(image_ids), list[Any]()
    for start in range(0, len(wanted), _IDS_AT_ONCE):
        with db.reading() as connection:
            rows += connection.execute(query.where(File.image_id.in_(wanted[start : start + _IDS_AT_ONCE])))
    return sorted(rows, key=lambda row: (row.root, row.path_bytes))


def _copied_images(db: Database, job: int | None) -> set[int]:
    """Return the images that several files have."""
    query = sa.select(File.image_id).where(*_held(job)).group_by(File.image_id).having(sa.func.count() > 1)
    with db.reading() as connection:
        return {row.image_id for row in connection.execute(query)}


def _count_images(db: Database, job: int | None) -> int:
    with db.reading() as connection:
        query = sa.select(sa.func.count(File.image_id.distinct())).where(*_held(job))
        return int(connection.execute(query).scalar_one())


def _held(job: int | None) -> list[sa.ColumnElement[bool]]:
    """Return the conditions for a file to be there with content of its own, and to be in a job if it is given."""
    conditions: list[sa.ColumnElement[bool]] = [
        File.image_id.is_not(None),
        File.partner.is_(None),
        File.missing_since.is_(None),
    ]
    if job is not None:
        conditions.append(sa.exists().where(Item.file_id == File.id, Item.job_id == job).correlate(File))
    return conditions
