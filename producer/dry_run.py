"""A dry run: what a submit would find, and what it would do with it. Writes nothing and reads no image."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice

from captioning.settings import Settings
from captioning.store.database import Database
from captioning.store.preview import Preview, find_model, preview, sizes_with_captions
from producer.submit import FILES_PER_TRANSACTION, SubmitRequest, policy_of, warn_of_patterns


@dataclass
class DryRun:
    """Numbers of files. Without a database nothing is known about them."""

    scanned: int = 0
    preview: Preview | None = None
    possible_copies: int = 0  # of the new files: those as large, to the byte, as a captioned image
    refused: int = 0  # archives that are damaged or larger than the limits
    skipped: Mapping[str, int] = field(default_factory=dict)  # by category


def dry_run(db: Database | None, settings: Settings, request: SubmitRequest) -> DryRun:
    """Count what a submit would find; with a database, also how much of it is new."""
    finder = request.finder()
    result = DryRun()
    found = islice(finder, request.limit)
    if db is None:
        result.scanned = sum(1 for _ in found)
    else:
        result.preview = Preview()
        policy = policy_of(db, settings, request, find_model(db, request.bundle.digest))
        for page in iter(lambda: list(islice(found, FILES_PER_TRANSACTION)), []):
            result.scanned += len(page)
            preview(db, page, policy, request.options.digest, result.preview)
        if not request.force:
            sizes = result.preview.new_sizes
            captioned = sizes_with_captions(db, sizes, policy.model_id, request.options.digest)
            result.possible_copies = sum(sizes[size] for size in captioned)
    warn_of_patterns(request, finder)
    result.skipped, result.refused = finder.skipped, finder.refused
    return result
