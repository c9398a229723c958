"""An iterator that runs on a thread of its own, a few results in advance."""

import contextvars
import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


def read_ahead(source: Iterator[T], ahead: int) -> Iterator[T]:
    """Yield what `source` yields. A thread runs `source`, `ahead` results and one more in advance, in this context.

    An exception of `source` is raised here, after the results before it.
    """
    results: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(maxsize=ahead)
    abandoned = threading.Event()

    def put(result: tuple[T] | BaseException | None) -> bool:
        """Wait for room and add a result; return False when nobody reads the results any more."""
        while not abandoned.is_set():
            try:
                results.put(result, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        try:
            for result in source:
                if not put((result,)):
                    return
            put(None)
        except BaseException as error:
            put(error)

    context = contextvars.copy_context()  # the log's job and chunk ids
    thread = threading.Thread(target=context.run, args=(produce,), name="read-ahead", daemon=True)
    thread.start()
    try:
        while (result := results.get()) is not None:
            if isinstance(result, BaseException):
                raise result
            yield result[0]
    finally:
        abandoned.set()
        thread.join()
