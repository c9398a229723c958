"""What a submit would find to do, counted without writing anything."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from captioning.paths import hash_of, is_below
from captioning.store.database import Database
from captioning.store.files import (
    FoundFile,
    ReusePolicy,
    RootPath,
    counts_as_captioned,
    has_changed,
    permanently_failed,
    roots,
)
from captioning.store.schema import Caption, File, Image, Model
from captioning.values import Source


@dataclass
class Preview:
    """Numbers of files that a walk found."""

    new: int = 0  # files that need work
    known: int = 0  # files that have a caption
    failed_before: int = 0  # files that cannot be decoded, as an earlier job found
    other_options: int = 0  # of the known files: those whose captions were made with other options than asked for
    new_sizes: Counter[int] = field(default_factory=Counter)  # bytes of the new files


def find_model(db: Database, digest: str) -> int:
    """Return the id of a model, 0 if the store does not know it."""
    with db.reading() as connection:
        return connection.execute(sa.select(Model.id).where(Model.digest == digest)).scalar() or 0


def preview(
    db: Database, found: Sequence[FoundFile], policy: ReusePolicy, options_digest: str, total: Preview
) -> list[FoundFile]:
    """Add to `total` what a new job would do with files, which have absolute paths here; return those that need work.

    A copy or a renamed file counts as new: only reading it can tell.
    """
    all_roots = roots(db)
    with db.reading() as connection:
        unchanged = _unchanged(connection, all_roots, found)
        with_options = {} if policy.force else _captioned(connection, list(unchanged), policy, options_digest)
        without_caption = [file_id for file_id in unchanged if file_id not in with_options]
        failed = permanently_failed(connection, without_caption, policy)
    no_work = {unchanged[file_id] for file_id in (*with_options, *failed)}
    new = [file for file in found if file.path not in no_work]
    total.new += len(new)
    total.failed_before += len(failed)
    total.known += len(with_options)
    total.other_options += len(with_options) - sum(with_options.values())
    total.new_sizes.update(file.size for file in new)
    return new


def count_other_options(db: Database, file_ids: Sequence[int], policy: ReusePolicy, options_digest: str) -> int:
    """Return how many files have captions that a job reuses although they were made with other options."""
    with db.reading() as connection:
        with_options = _captioned(connection, file_ids, policy, options_digest)
    return len(with_options) - sum(with_options.values())


def sizes_with_captions(db: Database, sizes: Collection[int], model_id: int, options_digest: str) -> set[int]:
    """Return which sizes, in bytes, are sizes of images that a model captioned with some options: copies reuse these.

    Reads the sizes of all such images once.
    """
    query = sa.select(Image.bytes).join(Caption, Caption.image_id == Image.id)
    query = query.where(Caption.model_id == model_id, Caption.options_digest == options_digest)
    if not sizes:
        return set()
    with db.reading() as connection:
        rows = connection.execute(query.execution_options(yield_per=10_000)).scalars()
        return {size for size in rows if size in sizes}


def _unchanged(connection: Connection, all_roots: Sequence[RootPath], found: Sequence[FoundFile]) -> dict[int, bytes]:
    """Return the ids and paths of files that the store knows as they are."""
    unchanged = {}
    below: dict[int, dict[bytes, FoundFile]] = {}
    for file in found:
        root = next((root for root in all_roots if is_below(file.path, root.path)), None)
        if root is not None:
            below.setdefault(root.id, {})[hash_of(root.relative(file.path))] = file
    for root_id, files in below.items():
        columns = (File.id, File.path_hash, File.size, File.mtime_ns, File.ctime_ns, File.image_id)
        for row in connection.execute(
            sa.select(*columns).where(File.root_id == root_id, File.path_hash.in_(list(files)))
        ):
            file = files[row.path_hash]
            if not has_changed(file, row):
                unchanged[row.id] = file.path
    return unchanged


def _captioned(
    connection: Connection, file_ids: Sequence[int], policy: ReusePolicy, options_digest: str
) -> Mapping[int, int]:
    """Return the files that have a caption that counts, each with 1 if one has these options or is by a person."""
    exact = sa.or_(Caption.source == Source.HUMAN, Caption.options_digest == options_digest)
    query = (
        sa.select(File.id, sa.func.max(sa.case((exact, 1), else_=0)))
        .join(Caption, Caption.image_id == File.image_id)
        .outerjoin(Model, Model.id == Caption.model_id)
        .where(counts_as_captioned(policy), File.id.in_(file_ids))
        .group_by(File.id)
    )
    return {file_id: int(flag) for file_id, flag in connection.execute(query)}
