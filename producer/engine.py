"""Who does the work: the embedded stack, or the broker that is configured. Rings, and keeps up."""

import sys

from captioning.errors import ServiceTrouble
from captioning.settings import Settings
from producer.stack import Stack


class Engine:
    """Makes sure that queued work is noticed; used as a context, at whose end an embedded stack may stop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._stack = Stack(settings) if settings.embedded else None

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        if self._stack is not None:
            self._stack.close()

    def begin(self) -> None:
        """Warm up while there is still something else to do."""
        if self._stack is not None:
            self._stack.begin()

    def ring(self, chunks: int) -> None:
        """Ring for some chunks. When the broker is down, say so: the sweeper of a worker rings later."""
        url = self.settings.broker_url
        if self._stack is not None:
            self._stack.attach()
            url = self._stack.broker_url
        from captioning.queue import make_celery, ring  # celery takes a moment to import

        try:
            ring(make_celery(self.settings.model_copy(update={"broker_url": url})), min(chunks, self.settings.bells))
        except ServiceTrouble as trouble:
            print(f"producer: {trouble}; the work is queued and begins when a worker finds it.", file=sys.stderr)

    def keep_up(self) -> None:
        """Hold on to the stack while waiting. Raises CaptioningError when it can't run."""
        if self._stack is not None:
            self._stack.check()
            if not self._stack.attached:
                self._stack.attach()
