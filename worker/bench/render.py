"""Shows what `worker bench` measured, for a terminal of any width."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column, Table

from captioning.terminal import count
from worker.bench.result import BenchResult, StageResult

_MEANING = {
    "claim": "claim the next images",
    "read": "read files and hash them",
    "look up": "look for captions that exist",
    "decode": "decode images",
    "encode": "the encoder",
    "search": "the search of words",
    "commit": "commit captions",
    "wait": "the model waits for images",
}


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None]]:
    """Provide a function that shows what is going on. It is shown on a terminal only, and goes away at the end."""
    console = Console(stderr=True)
    text = TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis"))
    with Progress(BarColumn(20), text, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("starting", total=1.0)

        def show(what: str, done: float) -> None:
            progress.update(task, description=what, completed=done)

        yield show


def print_result(result: BenchResult) -> None:
    """Print the rates, a table of the stages, and the bottleneck."""
    console = Console(highlight=False, soft_wrap=False)
    console.print(f"[bold]{result.images_per_second:.4g} images/s[/], {_of_bare(result)}")
    console.print(_setting(result), markup=False)
    console.print(_table(result))
    console.print(result.reason[:1].upper() + result.reason[1:], markup=False)
    console.print(f"What helps: {result.remedy}.", markup=False)


def _of_bare(result: BenchResult) -> str:
    return f"{result.of_bare:.0%} of the {result.bare_images_per_second:.4g} of the model alone"


def _setting(result: BenchResult) -> str:
    failed = f", of which {result.failed} cannot be decoded," if result.failed else ""
    files = count(result.files, "file")
    size = f"{result.megapixels:.2g} megapixels and {result.file_kb:.3g} KB on average"
    model = f"{result.model} in {result.runtime} on {result.device}, {result.precision}, batches of {result.batch_size}"
    return (
        f"{count(result.images, 'caption')} in {result.seconds:.1f} s of {files}{failed} of {size}."
        f" {model} ({result.batch_fill:.0%} full). Most memory: {result.memory_mb:,.0f} MB."
    )


def _table(result: BenchResult) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("stage", no_wrap=True)
    table.add_column("ms/image", justify="right", no_wrap=True)
    table.add_column("busy", justify="right", no_wrap=True)
    wide = table.add_column if Console().width >= 70 else None
    if wide:
        wide("", ratio=1)
    for name, stage in result.stages.items():
        cells = [name, f"{stage.seconds / max(1, result.images) * 1e3:.3g}", f"{stage.share:.0%}"]
        table.add_row(*cells, *([_meaning(name, stage)] if wide else []))
    return table


def _meaning(name: str, stage: StageResult) -> str:
    by = {"decode": "process", "read": "thread", "look up": "thread"}.get(name)
    return _MEANING[name] + (f", in {count(stage.capacity, by, f'{by}es' if by == 'process' else '')}" if by else "")
