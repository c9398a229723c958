"""A progress bar on stderr for work that takes minutes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Tick = Callable[[int, int], None]
"""Called as work proceeds, with what is done and the total."""


@contextmanager
def progress(description: str) -> Iterator[Tick]:
    """Show a progress bar for the duration of the block, and yield what moves it."""
    from rich.console import Console  # the help of the commands should not wait for it
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
