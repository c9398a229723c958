"""What the commands share: the program, options that several have, and the database."""

import functools
import os
import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from captioning.command_tree import UNLIMITED, new_app
from captioning.errors import UsageError
from captioning.settings import Settings, read_settings

if TYPE_CHECKING:  # imports SQLAlchemy
    from captioning.store.database import Database
    from producer.progress import ProgressDisplay

T = TypeVar("T")

FAILED_SOME = 3  # exit code of a command that reports on its job when images of the job have failed

app = new_app(
    help="Caption folders of images; search, correct and export the captions.",
    epilog="Example: producer submit ./images",
)
db_app = new_app(help="Create, upgrade or check the tables of the database.")

# Options that take a pattern, a file or a name.
pattern, file_name, named_value = (
    functools.partial(typer.Option, metavar=metavar) for metavar in ("PATTERN", "FILE", "NAME")
)
# What to caption, and how.
Include = Annotated[list[str] | None, pattern(help="Take only matching files. Repeatable.")]
Exclude = Annotated[list[str] | None, pattern(help="Skip matching files. Repeatable.")]
JobName = Annotated[str, named_value(help="A name for the job. Default: the name of the first path.")]
ModelName = Annotated[str | None, named_value(help="The model that captions, as `producer models` names it.")]
BeamSize = Annotated[int, typer.Option(min=1, max=20, help="Hypotheses in the beam search; 1: greedy search.")]
Priority = Annotated[Literal["normal", "high"], typer.Option(help="high: before all normal jobs.")]
FromFile = Annotated[str | None, file_name(help="Also take the paths in this file; -: standard input.")]
Null = Annotated[bool, typer.Option("-0", help="The file separates paths by NUL, like find -print0.")]
MostImages = Annotated[int | None, typer.Option(min=1, max=UNLIMITED, help="Take at most this many images.")]
Stale = Annotated[bool, typer.Option("--stale", help="Redo captions by older versions of the model.")]
Force = Annotated[bool, typer.Option("--force", help="Redo all captions.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Try files again that failed before.")]
FollowSymlinks = Annotated[bool, typer.Option("--follow-symlinks", help="Follow links inside the folder.")]
ListSkipped = Annotated[bool, typer.Option("--list-skipped", help="Name each path that is not taken.")]
Archives = Annotated[bool, typer.Option("--archives", help="Also look into zip and tar files in folders.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[int, typer.Option(min=1, max=UNLIMITED, help="Show at most this many.")]
Wait = Annotated[
    bool, typer.Option("--wait", help="Wait until the job is done. Without a broker, the command always waits.")
]
Missing = Annotated[bool, typer.Option("--missing", help="Also files that are gone from the disk.")]
JobArgument = Annotated[
    int, typer.Argument(metavar="JOB", max=UNLIMITED, help="The number of the job, as `producer jobs` shows it.")
]


def optional_job(default: str) -> Any:
    return typer.Argument(metavar="JOB", max=UNLIMITED, help=f"The number of the job. Without it: {default}.")


def open_database(settings: Settings | None = None, *, create: bool = False) -> "Database":
    """Open the database. Only with `create` are its file and its tables created or upgraded, where that is allowed."""
    import migrations
    from captioning.store.database import Database

    settings = settings or read_settings()
    if not settings.database_url and settings.data_dir.exists() and not settings.data_dir.is_dir():
        raise UsageError(f"CAPTIONING_DATA_DIR={settings.data_dir} is not a folder: set it to one.")
    db = Database.open(settings)
    if create:
        migrations.ensure_schema(db)
    elif db.is_missing and not settings.database_url:  # nothing was submitted yet: read from empty tables in memory
        db = Database("sqlite://")
        migrations.create_sqlite(db)
    else:
        migrations.refuse_other(db)
    return db


def check_model(settings: Settings, model: str | None) -> None:
    """Raise UsageError for a model that is not there, unless its captions still are."""
    from captioning.bundles import find_bundles, named

    if model is not None:
        bundles = find_bundles(settings.bundle_folders)
        if model not in bundles.outdated:  # its captions are as good as they were
            named(model, bundles)


def confirm(question: str, done: str) -> None:
    """Ask on standard error whether something is to be `done`, for example "removed".

    Raises UsageError when nobody can answer, and exits with 1 after a no.
    """
    if not sys.stdin.isatty():
        raise UsageError(f"{question} There is no terminal to ask on, so nothing was {done}: add --yes.")
    if not typer.confirm(question, err=True):
        print(f"nothing was {done}", file=sys.stderr)
        raise SystemExit(1)


def counted(rows: Iterable[T], what: str, display: "ProgressDisplay | None") -> Iterator[T]:
    """Yield rows, and show how many there were so far."""
    for number, row in enumerate(rows, start=1):
        yield row
        if display is not None and number % 500 == 0:
            display.update(what, number, number)


def not_registered(path: str) -> str:
    """Return the message about a path that the database does not know."""
    if not path:
        return "the path is empty: name an image."
    if Path(path).is_dir():
        return f"{path} is a folder: name an image in it."
    if not os.path.lexists(path):
        return f"{path} is not registered and does not exist: check the path; `producer list` shows the images."
    return f"{path} is not registered: submit it first with `producer submit {shlex.quote(path)}`."
