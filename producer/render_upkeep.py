"""What `producer` prints about forgotten files, models and the installation."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from captioning.paths import text_of
from captioning.store.forget import Forgotten, Scope
from captioning.terminal import count, printable
from producer.doctor import Check
from producer.render import decimals, print_table, print_text


def forget_question(scope: Scope, expected: Forgotten) -> str:
    """Return the question before a forget."""
    return f"Remove {_forgotten_text(scope, expected)}?"


def print_forgotten(scope: Scope, done: Forgotten, expected: Forgotten, *, dry_run: bool) -> None:
    """Print what a forget removed, or would remove, and which captions stay."""
    print_text(f"{'would remove' if dry_run else 'removed'} {_forgotten_text(scope, done)}")
    if expected.kept_captions:
        hint = "--captions --human" if scope.captions else "--captions"
        kept = count(expected.kept_captions, "caption of their content stays", "captions of their content stay")
        print_text(f"{kept} ({hint} removes them)")


def _forgotten_text(scope: Scope, removed: Forgotten) -> str:
    files, items = count(removed.files, "file"), count(removed.items, "item")
    captions = f" and {count(removed.captions, 'caption')}" if scope.captions else ""
    if scope.job is not None:
        until = " (out of search and export until the next submit)" if removed.files else ""
        return f"job {scope.job} with its {items}, {files} that no other job lists{until}{captions}"
    path = printable(text_of(scope.path))
    what = f"the file {path}, its" if scope.is_file else f"{files} below {path}, their"
    return f"{what} {items} in {count(removed.jobs, 'job')}{captions}"


def forgotten_json(done: Forgotten, expected: Forgotten) -> dict[str, Any]:
    """Return the result of a forget as JSON has it."""
    return asdict(done) | {"kept_captions": expected.kept_captions}


def print_models(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one line per model."""
    print_table(
        ("model", "digest", "cell", "val CIDEr", ""),
        (
            (r["name"], r["digest"][:12], r["cell"], decimals(r["cider"]), "default" if r["default"] else "")
            for r in rows
        ),
        wrap=("model",),
        optional=("cell",),
    )


def print_checks(checks: Sequence[Check]) -> None:
    """Print the results of the doctor's checks."""
    rows = (("ok" if check.ok else "BAD", check.name, check.message) for check in checks)
    print_table(("", "check", "result"), rows, wrap=("result",))


def print_upgrade(before: str | None, after: str) -> None:
    """Print the revisions of the database schema before and after an upgrade."""
    print(f"revision {before or 'none'} -> {after}")


def print_revision(revision: str | None, needed: str) -> None:
    """Print the revision of the database schema."""
    print(f"{revision or 'none'} (this version needs {needed})")
