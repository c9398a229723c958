"""Keeping the installation and the database in order: forget, models, doctor and db."""

import os
import re
from dataclasses import asdict, replace
from typing import Annotated, Any

import typer

import migrations
from captioning.bundles import find_bundles
from captioning.command_tree import UNLIMITED
from captioning.errors import UsageError
from captioning.settings import read_settings
from captioning.store import forget as forgetting
from captioning.store.database import Database
from producer import render, render_upkeep
from producer.commands.shared import Json, app, confirm, db_app, open_database
from producer.doctor import run_checks
from producer.progress import progress_display


@app.command(epilog="Example: producer forget ./old-photos --dry-run")
def forget(
    target: Annotated[
        str,
        typer.Argument(metavar="PATH|JOB", help="A file, a folder, or the number of a job (./3: a file)."),
    ],
    with_captions: Annotated[
        bool, typer.Option("--captions", help="Remove machine captions that no other file needs.")
    ] = False,
    human: Annotated[bool, typer.Option("--human", help="With --captions: also those that people wrote.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count; remove nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Remove files, or a job, from the database. Nothing on disk is touched, and captions stay without --captions.

    Forgetting a job also removes those of its files that no other job lists.
    """
    if human and not with_captions:
        raise UsageError("--human needs --captions: it also removes the captions that people wrote.")
    db = open_database()
    if re.fullmatch("[0-9]{1,10}", target):
        scope = forgetting.scope_of_job(db, min(int(target), UNLIMITED))
    else:
        scope = forgetting.scope_of_path(db, os.fsencode(target))
    scope = replace(scope, captions=with_captions, human=human)
    expected = forgetting.count(db, scope)
    if not (yes or dry_run):
        confirm(render_upkeep.forget_question(scope, expected), "removed")
    done = expected
    if not dry_run:
        with progress_display() as display:
            done = forgetting.forget(db, scope, lambda n: display.update("files forgotten", n, expected.files))
    if as_json:
        render.print_json(render_upkeep.forgotten_json(done, expected))
    else:
        render_upkeep.print_forgotten(scope, done, expected, dry_run=dry_run)


@app.command(epilog="Example: producer models --json")
def models(as_json: Json = False) -> None:
    """List the models that can caption."""
    settings = read_settings()
    bundles = find_bundles(settings.bundle_folders)
    bundles.report_outdated()
    rows: list[dict[str, Any]] = [
        {
            "name": bundle.name,
            "digest": bundle.digest,
            "cell": bundle.description["decoder"]["cell"],
            "cider": bundle.description.get("metrics", {}).get("val", {}).get("cider"),
            "default": bundle.name == settings.model,
            "folder": str(bundle.folder),
        }
        for _, bundle in sorted(bundles.items())
    ]
    if as_json:
        render.print_json(rows)
    else:
        render_upkeep.print_models(rows)


@app.command(epilog="Example: producer doctor")
def doctor(as_json: Json = False) -> None:
    """Check everything that captioning depends on. Exits with 1 when a check fails."""
    checks = list(run_checks(read_settings()))
    if as_json:
        render.print_json([asdict(check) for check in checks])
    else:
        render_upkeep.print_checks(checks)
    if not all(check.ok for check in checks):
        raise SystemExit(1)


@db_app.command(epilog="Example: producer db upgrade")
def upgrade() -> None:
    """Create the tables of the configured database, or upgrade them to this version."""
    db = Database(read_settings().store_url)
    before = migrations.current(db)
    render_upkeep.print_upgrade(before, migrations.upgrade(db))


@db_app.command(epilog="Example: producer db current")
def current() -> None:
    """Show the revision of the database. Exits with 1 when this version cannot use it."""
    db = Database(read_settings().store_url)
    render_upkeep.print_revision(migrations.current(db), migrations.head())
    migrations.refuse_other(db)
