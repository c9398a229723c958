"""The words of `worker` on the command line, nothing else."""

import os
import signal
import threading
from typing import Annotated

import structlog
import typer

import migrations
from captioning.cli import command_line
from captioning.errors import CaptioningError, StoreUnavailable
from captioning.settings import PREFIX, read_settings
from captioning.store.database import Database

app = typer.Typer(
    help="Caption what producers have queued. `worker` alone starts one; stop it with Ctrl-C or SIGTERM.",
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Example: CAPTIONING_BROKER_URL=redis://... CAPTIONING_DATABASE_URL=postgresql+psycopg://... worker",
)


@app.callback(invoke_without_command=True)
def work(
    context: typer.Context,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda:N.")] = None,
    runtime: Annotated[str | None, typer.Option(help="auto, torch or openvino.")] = None,
    batch_size: Annotated[str, typer.Option(help="Images that the model sees at once; auto is 32.")] = "auto",
    until_eof: Annotated[bool, typer.Option("--until-eof", help="Stop when standard input closes.")] = False,
) -> None:
    """Check that everything is there, then work until stopped."""
    size = None if batch_size == "auto" else batch_size
    for name, value in (("DEVICE", device), ("RUNTIME", runtime), ("BATCH_SIZE", size)):
        if value is not None:
            os.environ[PREFIX + name] = str(value)  # pool processes read their settings from here
    if until_eof:
        threading.Thread(target=_stop_at_eof, name="until-eof", daemon=True).start()
    if context.invoked_subcommand is None:
        raise SystemExit(_start())


def _stop_at_eof() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def _start() -> int:
    from worker.environment import available_bundles
    from worker.log import set_up_log

    settings = read_settings()
    set_up_log()
    for bundle in available_bundles(settings).values():
        bundle.verify()
    db = Database.open(settings)
    _ensure_schema(db, settings.database_retry_seconds)
    db.close()
    if not settings.broker_url:
        raise CaptioningError(
            f"{PREFIX}BROKER_URL is not set: a worker needs the Redis that producers ring on, redis://host:6379/0 say."
            " Without one, `producer submit` brings its own broker and worker."
        )
    from worker import lifecycle
    from worker.celery import app as celery

    celery.worker_main(
        [
            "--quiet",
            "worker",
            "--without-gossip",
            "--without-mingle",
            "-n",
            f"captions-{os.getpid()}@%h",
            "--loglevel",
            "WARNING",
        ]
    )
    failures, asked_to_stop = lifecycle.load_failures(), lifecycle.end()
    if len(failures) >= lifecycle.MAX_LOAD_FAILURES:
        raise CaptioningError(f"the model can't be loaded: {failures[-1]}")
    if not asked_to_stop:  # Celery says 0 even then
        typer.echo("worker: something ended it that it can't go on after; it is said above. Start it again.", err=True)
    return 0 if asked_to_stop else os.EX_SOFTWARE


def _ensure_schema(db: Database, seconds: float) -> None:
    """Check the tables; a database that is just starting is waited for."""
    try:
        migrations.ensure_schema(db)
    except StoreUnavailable as error:
        structlog.get_logger().warning("waiting_for_database", error=str(error), seconds=seconds)
        db.retry(lambda: migrations.ensure_schema(db))


@app.command(epilog="Example: worker doctor")
def doctor() -> None:
    """Say what this machine would work with: runtime, device, models, database, broker."""
    from captioning.model.runtime import choose
    from worker.environment import available_bundles

    settings = read_settings()
    chosen = choose(settings.runtime, settings.device)
    typer.echo(f"runtime   {chosen.name} on {chosen.device}, {chosen.precision}: {chosen.why}")
    for bundle in available_bundles(settings).values():
        bundle.verify()
        typer.echo(
            f"model     {bundle.name} {bundle.digest[:16]}{' (default)' if bundle.name == settings.model else ''}"
        )
    typer.echo(f"database  {Database.open(settings).engine.url.render_as_string(hide_password=True)}")
    typer.echo(
        f"roots     {', '.join(f'{n}={p}' for n, p in settings.roots.items()) or 'wherever they were submitted'}"
    )


def main() -> None:
    """Run `worker`."""
    command_line(app, "worker")
