"""What `producer` prints about captions that people change."""

import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from captioning.store.captions import FileRow
from captioning.store.history import HistoryEntry, Undone
from captioning.store.imports import Kind
from captioning.store.model_diff import ModelDiff, common
from captioning.store.sidecars import LastExport
from captioning.store.statistics import Statistics
from captioning.terminal import count, printable
from producer.render import local_time, percent, print_table, print_text

if TYPE_CHECKING:  # imports NumPy
    from producer.export.sidecars import Kept, Restored, Written
    from producer.importing import Counts

DECORATIVE = "(decorative: no caption)"


def print_corrected(before: FileRow, after: FileRow) -> None:
    """Print a caption and what it was before."""
    print_text(after.path)
    print_text(shown(after.caption), indent="  ")
    if before.caption is not None and before.caption != after.caption:
        by = before.model or before.source
        print_text(f"before, by {by}: {shown(before.caption)}", indent="  ")


def print_accepted(row: FileRow, *, is_new: bool) -> None:
    """Print a caption that a person accepted."""
    print_text(row.path)
    print_text(shown(row.caption), indent="  ")
    print_text(
        "accepted: it counts as written by a person" if is_new else "a person wrote or accepted it before", indent="  "
    )


def print_rejected(before: FileRow, after: FileRow) -> None:
    """Print which caption a person rejected, and what the image shows now."""
    print_text(before.path)
    print_text(f"rejected: {shown(before.caption)}", indent="  ")
    print_text(f"now shown: {shown(after.caption)}", indent="  ")


def shown(caption: str | None) -> str:
    """Return a caption as people read it, with a word for an empty one."""
    return DECORATIVE if caption == "" else caption or "(none)"


def print_replaced(changes: Sequence[tuple[FileRow, str, str]], total: int) -> None:
    """Print the first captions that change, before and after."""
    if not total:
        print("no caption changes", file=sys.stderr)
        return
    print_table(
        ("path", "before", "after"),
        ((row.path, before, after) for row, before, after in changes),
        wrap=("path", "before", "after"),
    )
    if total > len(changes):
        print(f"{len(changes)} of {total}", file=sys.stderr)


def print_changed(done: int, found: int) -> None:
    """Print how many captions were changed, of those that were found."""
    print(f"{count(done, 'caption')} changed; `producer undo` puts the words back", file=sys.stderr)
    if done < found:
        print(f"{count(found - done, 'caption')} changed meanwhile and left as they are", file=sys.stderr)


def print_undone(undone: Undone) -> None:
    """Print what an undo did."""
    print_text(f"change {undone.change} ({undone.verb}): {count(undone.restored, 'caption')} as before")
    if undone.kept:
        print_text(f"{count(undone.kept, 'caption')} left as they are: changed again since, or gone")


def print_history(entries: Sequence[HistoryEntry]) -> None:
    """Print the edits of a file's captions, the newest first."""
    if not entries:
        print("nobody has changed its captions", file=sys.stderr)
        return
    print_table(
        ("change", "when", "who", "what", "before", "after"),
        (
            (
                e.change,
                local_time(datetime.fromisoformat(e.at).timestamp()),
                e.person,
                f"{e.verb}, undone" if e.undone else e.verb,
                shown(e.before),
                shown(e.after),
            )
            for e in entries
        ),
        wrap=("before", "after"),
        optional=("who", "when"),
    )


def print_sidecars(done: "Written", why_nothing: str) -> None:
    """Print what an export of sidecars did."""
    parts = [
        f"{number} {word}"
        for number, word in ((done.new, "new"), (done.changed, "changed"), (done.renewed, "renewed"))
        if number
    ]
    print(f"{count(done.written, 'file')} written" + (f": {', '.join(parts)}" if parts else ""), file=sys.stderr)
    if done.same:
        print(f"{count(done.same, 'file')} unchanged", file=sys.stderr)
    _print_kept(done)
    if why_nothing:
        print(f"nothing to export: {why_nothing}", file=sys.stderr)
    if done.written:
        print("`producer export --undo` puts back what people had there", file=sys.stderr)


def print_restored(last: LastExport, done: "Restored") -> None:
    """Print what an undo of an export did."""
    removed, restored = count(done.removed, "file"), count(done.restored, "file")
    of = f"export of {local_time(last.created_at)} ({last.detail.get('format')}, {last.detail.get('output')})"
    print(f"{printable(of)}: {removed} removed, {restored} as people had them", file=sys.stderr)
    _print_kept(done)
    if done.unwritten:
        print("mend that, and `producer export --undo` puts back the rest", file=sys.stderr)


def _print_kept(kept: "Kept") -> None:
    """Print which files were left as they are, and why."""
    for reason, number in kept.counts.items():
        print(f"{count(number, 'file')} not written: {printable(reason)}", file=sys.stderr)
        for path in kept.examples[reason]:
            print(f"  {printable(path)}", file=sys.stderr)
        if number > len(kept.examples[reason]):
            print(f"  and {number - len(kept.examples[reason])} more", file=sys.stderr)


def print_other_models(number: int, model: str) -> None:
    """Print how many captions are not by the model that was asked for."""
    if number:
        captions = count(number, "caption is", "captions are")
        print(f"{captions} by another model: {printable(model)} has made none of them", file=sys.stderr)


def print_left_out(paths: Sequence[str]) -> None:
    """Print the images that have changed since they were captioned."""
    if paths:
        print(f"{count(len(paths), 'image')} left out: changed or gone since, submit again", file=sys.stderr)
        print(f"  the first: {printable(paths[0])}", file=sys.stderr)


_KINDS = {
    Kind.NEW: "new",
    Kind.CHANGED: "changed in the file",
    Kind.SAME: "the same in both",
    Kind.NEWER_HERE: "changed in the database since the export: they stay",
    Kind.CONFLICT: "in conflict: changed in both, or for an image that has changed",
    Kind.TWICE: "not the first caption of their image: left out",
    Kind.UNKNOWN: "of images that are not registered",
    Kind.EMPTY: "without a caption",
    Kind.OURS: "as an export wrote them: left out",
    Kind.UNREADABLE: "not readable: left out",
}
_NAMED = (Kind.CONFLICT, Kind.UNKNOWN, Kind.TWICE, Kind.UNREADABLE)


def print_imported(counts: "Counts", written: int, *, dry_run: bool, theirs: bool) -> None:
    """Print what an import found, and what it did or would do."""
    if not counts.number:
        print("nothing to import: no rows, or no sidecars beside registered images", file=sys.stderr)
        return
    for kind, words in _KINDS.items():
        if kind in counts.number:
            print_text(f"{counts.number[kind]:>6}  {words}")
            for example in counts.examples[kind] if kind in _NAMED else ():
                print_text(example, indent="        ")
    verb = "would be written" if dry_run else "written"
    print(f"{count(written, 'caption')} {verb}", file=sys.stderr)
    if counts.number.get(Kind.CONFLICT) and not theirs:
        print("conflicts keep the caption of the database; --take theirs takes the imported one", file=sys.stderr)
    if written and not dry_run:
        print(f"`producer undo` takes {'it' if written == 1 else 'them'} back", file=sys.stderr)


def print_statistics(found: Statistics) -> None:
    """Print how many files there are of each kind."""
    size = f"{found.bytes / 1e9:.1f} GB" if found.bytes >= 1e8 else f"{found.bytes / 1e6:.1f} MB"
    print_text(f"{count(found.files, 'file')}, {size}, {count(found.images, 'different image')}")
    lines = [
        ("captioned", found.captioned), ("rejected", found.rejected), ("failed", found.failed),
        ("pending", found.pending),
        ("missing from the disk", found.missing), ("by people", found.human), ("imported", found.imported),
        ("edited", found.edited), ("by people, image changed since", found.image_changed),
    ]  # fmt: skip
    for words, number in lines:
        if number:
            print_text(f"{number:>10}  {words}")
    if found.models:
        print()
        print_table(
            ("model", "shown for", "mean confidence", "unlike"),
            ((m.model, m.files, percent(m.confidence), m.unlike) for m in found.models),
            wrap=(),
        )


def print_diff(first: str, second: str, found: ModelDiff) -> None:
    """Print how the captions of two models differ."""
    print_text(f"{count(found.images, 'image')} with captions by both {first} and {second}")
    print_text(
        f"{percent(found.same / found.images)} are the same; they share {percent(found.overlap)} of their words",
        indent="  ",
    )
    means = [percent(mean) or "unknown" for mean in found.confidence]
    print_text(f"mean confidence {means[0]} and {means[1]}", indent="  ")
    for name, words in ((first, found.only_first), (second, found.only_second)):
        frequent = ", ".join(f"{word} {number}" for word, number in common(words)[:10])
        print_text(f"only {name} says: {frequent or 'nothing'}", indent="  ")
    if found.worst:
        print()
        print_table(
            ("path", first, second, "shared"),
            ((d.path, d.first, d.second, percent(d.overlap)) for d in found.worst),
            wrap=("path", first, second),
        )
