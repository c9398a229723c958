"""What lasts and a person should know: each condition is reported once, until it is over."""

import time
from collections.abc import Callable, Hashable
from typing import TypeVar

from captioning.errors import StoreRefused, StoreUnavailable

T = TypeVar("T")
RETRY_SECONDS = 2.0  # between two attempts while the database does not answer


class Notices:
    """The conditions that last. `show` receives a line for each one when it begins."""

    def __init__(self, show: Callable[[str], object]) -> None:
        self._show = show
        self._lasting: set[Hashable] = set()

    def update(self, condition: Hashable, line: str) -> None:
        """Show a line about a condition, unless it lasts already. An empty line means that it is over."""
        if not line:
            self._lasting.discard(condition)
        elif condition not in self._lasting:
            self._lasting.add(condition)
            self._show(line)

    def when_database_answers(self, action: Callable[[], T]) -> T:
        """Return what an action returns; repeat it as long as the database does not answer. Raises StoreRefused."""
        while True:
            try:
                result = action()
            except StoreRefused:
                raise
            except StoreUnavailable as error:  # the reason changes while a server stops: the first one is shown
                self.update("database", f"{error} Waiting for it.")
                time.sleep(RETRY_SECONDS)
            else:
                self.update("database", "")
                return result
