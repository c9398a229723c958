"""The command line of `worker`: options and output, no logic."""

import json
import logging
import os
import re
import signal
import socket
import threading
from pathlib import Path
from typing import Annotated, Literal

import typer

from captioning.cli import command_line
from captioning.command_tree import new_app
from captioning.environment import PREFIX, set_for_children, set_up_math_threads
from captioning.errors import CaptioningError
from captioning.locks import require_semaphores
from captioning.settings import MAX_BATCH_SIZE, Settings, describe_lease, is_device, read_settings
from captioning.start import fast_imports

app = new_app(
    help="Caption what producers have queued. `worker` alone starts a worker; Ctrl-C or SIGTERM stops it.",
    epilog="Example: CAPTIONING_BROKER_URL=redis://... CAPTIONING_DATABASE_URL=postgresql+psycopg://... worker",
)


def _device(value: str) -> str:
    if not is_device(value):
        raise typer.BadParameter(f"{value!r} is not one of auto, cpu, cuda, cuda:N and mps.")
    return value


def _batch_size(value: str) -> str:
    if value != "auto" and not (re.fullmatch("[0-9]{1,9}", value) and 1 <= int(value) <= MAX_BATCH_SIZE):
        raise typer.BadParameter(f"{value!r} is neither auto nor a number from 1 to {MAX_BATCH_SIZE}.")
    return value


@app.callback(invoke_without_command=True)
def work(
    context: typer.Context,
    device: Annotated[
        str | None,
        typer.Option(parser=_device, metavar="DEVICE", help="Where the model runs: auto, cpu, cuda, cuda:N or mps."),
    ] = None,
    runtime: Annotated[
        Literal["auto", "torch", "openvino"] | None, typer.Option(help="Library that computes the encoder.")
    ] = None,
    batch_size: Annotated[
        str | None,
        typer.Option(
            parser=_batch_size,
            metavar="<auto|N>",
            help="Images in a batch; auto: as many as the device is fastest with.",
        ),
    ] = None,
    until_eof: Annotated[bool, typer.Option("--until-eof", help="Stop when standard input closes.")] = False,
) -> None:
    """Check the models, the database and the settings, then work until stopped."""
    for name, value in (("DEVICE", device), ("RUNTIME", runtime), ("BATCH_SIZE", batch_size)):
        if value is not None:
            set_for_children(PREFIX + name, value)  # `read_settings` below reads them too
    if until_eof:
        threading.Thread(target=_stop_at_eof, name="until-eof", daemon=True).start()
    if context.invoked_subcommand is None:
        raise SystemExit(_run())


def _stop_at_eof() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def _run() -> int:
    """Run a worker in this process; return the exit code."""
    settings = read_settings()
    with fast_imports():
        from worker.log import set_up_log

        set_up_log(settings.log)
        _check(settings)
        from worker import lifecycle
        from worker.celery import app as celery
        from worker.checks import Checks

    celery.steps["worker"].add(Checks)
    name = f"captions-{os.getpid()}@{socket.gethostname()}"  # of Celery's own command line we need nothing
    celery.Worker(hostname=name, loglevel="WARNING", quiet=True, without_gossip=True, without_mingle=True).start()
    stop_requested, failures = lifecycle.close_parent()
    if Checks.error is not None:
        raise Checks.error
    if len(failures) >= lifecycle.MAX_LOAD_FAILURES:
        raise CaptioningError(f"the model cannot be loaded: {failures[-1]}")
    if stop_requested:
        return 0
    typer.echo("worker: stopped unexpectedly; the reason is in the log above. Start it again.", err=True)
    return os.EX_SOFTWARE  # Celery returns 0 even then


def _check(settings: Settings) -> None:
    """Raise CaptioningError when this worker cannot work: no model, no semaphores, no broker is set."""
    from worker.environment import available_bundles

    bundles = available_bundles(settings)
    bundles.report_outdated()
    for bundle in bundles.values():
        bundle.verify()
    require_semaphores()
    if settings.embedded:
        raise CaptioningError(
            f"{PREFIX}BROKER_URL is not set: a worker needs the Redis that producers send their messages to, for"
            " example redis://host:6379/0. Without one, `producer submit` starts its own broker and worker."
        )


@app.command(epilog="Example: worker doctor")
def doctor() -> None:
    """Show what a worker would use on this machine, from the runtime and the models to the database and the roots."""
    from captioning.decoding import report
    from captioning.model.runtime import choose_runtime
    from captioning.store.database import Database
    from worker.adaptive_batch import describe_batch
    from worker.environment import available_bundles

    settings = read_settings()
    chosen = choose_runtime(settings.runtime, settings.device, settings.precision, settings.compile)
    typer.echo(f"runtime   {chosen.name} on {chosen.device}, {chosen.precisions}: {chosen.why}")
    bundles = available_bundles(settings)
    bundles.report_outdated()
    for bundle in bundles.values():
        bundle.verify()
        default = " (default)" if bundle.name == settings.model else ""
        typer.echo(f"model     {bundle.name} {bundle.digest[:16]}{default}")
    typer.echo(f"decoding  {report.describe(report.start_one(settings))}")
    typer.echo(f"batch     {describe_batch(settings.batch_size, chosen.device)}")
    typer.echo(f"lease     {describe_lease(settings)}")
    typer.echo(f"database  {Database.open(settings).url}")
    roots = ", ".join(f"{name}={path}" for name, path in settings.roots.items())
    typer.echo(f"roots     {roots or 'at the paths from which they were submitted'}")


@app.command("bench", epilog="Example: worker bench photos")
def measure(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with images; nothing is written into it.")],
    images: Annotated[int, typer.Option(min=1, max=100_000, help="Most files of the folder that are used.")] = 1000,
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="Seconds to measure, after a warm-up.")] = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure how fast this machine captions a folder of images, and show what is the limit.

    The images are read, decoded, captioned and committed as a worker does it, again and again, into a temporary SQLite
    database. The configured database and broker are not used. `model alone` is the encoder and the search of words on
    images in memory.
    """
    set_up_math_threads()  # as in a worker's pool process
    import structlog

    from worker.bench.job import find_files

    found = find_files(folder, images)  # before torch is loaded
    from worker.bench.measure import bench
    from worker.bench.render import print_result, progress_bar

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with progress_bar() as show:
        result = bench(read_settings(), folder, found, seconds, show)
    if as_json:
        typer.echo(json.dumps(result.as_json()))
    else:
        print_result(result)


def main() -> None:
    """Run `worker`."""
    command_line(app, "worker")
