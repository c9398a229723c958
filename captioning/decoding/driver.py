"""One thread that drives all decode processes of a pool: it starts them, gives them images, and replaces the dead."""

import selectors
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

from captioning.decoding.messages import Started
from captioning.decoding.process import DecodeProcess
from captioning.decoding.turns import Caller, Death, Task, Turns
from captioning.decoding.watchdog import Watchdog
from captioning.errors import DecodePoolUnavailable

START_SECONDS = 60.0  # that a process may take to start
_WITHDRAW_SECONDS = 0.25  # that an image waits behind another in a process; then any process may decode it
_SEND_BYTES = 1_000_000  # of files that a process is given at once; one more file than fits


class Driver:
    """Drives up to `count` processes, which start when they are needed. Its methods are for other threads."""

    def __init__(self, start: Callable[[], DecodeProcess], count: int, timeout_seconds: float) -> None:
        """Start the thread. `start` starts a process; `timeout_seconds` is how long decoding one image may take."""
        self.processes: set[DecodeProcess] = set()
        self._start = start
        self._count = count
        self._timeout_seconds = timeout_seconds
        self._turns = Turns()
        self._watchdog = Watchdog()
        self._asked: list[Future[Started]] = []  # who asks what a process says about itself
        self._ended: list[DecodeProcess] = []  # killed, perhaps not gone
        self._selector = selectors.DefaultSelector()
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._is_asleep = False
        self._is_closing = False
        self._looked_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="decode-driver", daemon=True)
        self._watchdog.start()
        self._thread.start()  # the system kills a process when the thread that has started it ends

    def join(self, caller: Caller) -> None:
        """Accept images of a caller until `leave`. Raises DecodePoolUnavailable after `close`."""
        self._turns.join(caller)

    def leave(self, caller: Caller) -> None:
        """Forget the images of a caller that wait; outcomes of the others are of no interest."""
        self._turns.leave(caller)

    def submit(self, task: Task) -> None:
        """Have an image decoded for a caller that has joined. Its outcome is put into the caller's queue."""
        self._turns.add(task)
        if self._is_asleep:
            self._wake()

    @property
    def busy_seconds(self) -> float:
        """How long processes have decoded so far, together."""
        return self._turns.settled_seconds

    def started(self) -> "Future[Started]":
        """Return what a decode process says about itself; one is started if need be."""
        future: Future[Started] = Future()
        self._asked.append(future)
        self._wake()
        return future

    def close(self) -> None:
        """End all processes and the thread. Callers get DecodePoolUnavailable."""
        self._is_closing = True
        self._wake()
        self._thread.join()

    def _wake(self) -> None:
        self._is_asleep = False
        with suppress(OSError):  # it has been woken often, or has ended
            self._waker.send(b"\0")

    # -- on the thread --

    def _run(self) -> None:
        failure = "the decode processes were stopped"
        try:
            while not self._is_closing:
                self._is_asleep = True  # an image that comes from now on wakes this thread
                self._start_processes()
                self._hand_out()
                ready = self._selector.select(self._patience())
                self._is_asleep = False
                for key, _ in ready:
                    self._attend(key)
                self._withdraw()
        except BaseException as error:
            failure = f"the decode processes were stopped by {error!r}"
            raise
        finally:
            self._end(failure)

    def _patience(self) -> float | None:
        """Return how many seconds to wait for something to happen, None for as long as it takes."""
        if not self._is_asleep:
            return 0
        return _WITHDRAW_SECONDS if any(len(process.given) > 1 for process in self.processes) else None

    def _attend(self, key: selectors.SelectorKey) -> None:
        process: DecodeProcess | None = key.data
        if process is None:
            self._woken.recv(4096)
        elif process not in self.processes:  # it was lost a moment ago
            return
        elif key.fd == process.out:
            self._read(process)
        elif process.send():
            self._selector.unregister(key.fd)

    def _start_processes(self) -> None:
        """Start a process for each image that waits and has none, and one for those who ask."""
        if self._asked:
            self._answer_asked()
        while len(self.processes) < self._count:
            without_work = sum(1 for process in self.processes if not process.given)  # or not started
            if len(self._turns) <= without_work and (not self._asked or self.processes):
                return
            try:
                process = self._start()
            except OSError as error:  # no file handles, no processes, no memory
                self._fail(f"cannot start a process that decodes images: {error.strerror}")
                return
            self.processes.add(process)
            self._watchdog.begin(process, START_SECONDS)
            self._selector.register(process.out, selectors.EVENT_READ, process)

    def _answer_asked(self) -> None:
        started = next((process.started for process in self.processes if process.started), None)
        while started is not None and self._asked:
            self._asked.pop().set_result(started)

    def _hand_out(self) -> None:
        """Give processes images, those first that have least, and none much more than its share."""
        if not len(self._turns):
            return
        open_ = [process for process in self.processes if process.started and process.room]
        for process in sorted(open_, key=lambda process: len(process.given)):
            share = max(1, len(self._turns) // self._count)
            if tasks := self._turns.take(min(process.room, share), _SEND_BYTES):
                self._give(process, tasks)

    def _give(self, process: DecodeProcess, tasks: list[Task]) -> None:
        if not process.given:
            self._watchdog.begin(process, self._timeout_seconds)
        for task in tasks:
            process.give(task)
        if not process.send() and process.pipe not in self._selector.get_map():
            self._selector.register(process.pipe, selectors.EVENT_WRITE, process)

    def _read(self, process: DecodeProcess) -> None:
        """Pass on what a process has answered. Replace it if it has died, or if an image controls it."""
        was_starting = process.started is None
        try:
            for given, result in process.answers():
                was_killed = self._watchdog.end(process)
                seconds = process.note_seconds()
                if process.given:
                    self._watchdog.begin(process, self._timeout_seconds)
                if not given.is_withdrawn:
                    self._turns.settle(given.task, seconds)
                    given.task.caller.outcomes.put((given.task, result))
                if was_killed:  # just after it had answered: the next image is not to blame
                    self._lose(process, died=False, blame=False)
                    return
        except (EOFError, OSError):
            self._lose(process, died=True, blame=True)
        except (ValueError, LookupError):
            self._lose(process, died=False, blame=True)
        else:
            if was_starting and process.started and not process.given:
                self._watchdog.end(process)

    def _lose(self, process: DecodeProcess, *, died: bool, blame: bool) -> None:
        """End a process. The image that it was decoding is to blame, the others that it has wait again."""
        timed_out = self._watchdog.end(process)
        self._forget(process)
        if process.started is None:
            self._fail("the process that decodes images does not start")
            return
        given = list(process.given)
        if blame and given and not (first := given.pop(0)).is_withdrawn:
            death = Death(timed_out, lambda: died and process.was_killed() and not timed_out)
            first.task.caller.outcomes.put((first.task, death))
        self._turns.put_back([each.task for each in given if not each.is_withdrawn])

    def _forget(self, process: DecodeProcess) -> None:
        for pipe in (process.out, process.pipe):
            if pipe in self._selector.get_map():
                self._selector.unregister(pipe)
        self.processes.discard(process)
        process.end()
        self._ended = [each for each in (*self._ended, process) if each.popen.poll() is None]

    def _withdraw(self) -> None:
        """Let others decode the images that wait in a process behind one that takes long."""
        now = time.monotonic()
        if now - self._looked_at < _WITHDRAW_SECONDS:
            return
        self._looked_at = now
        for process in self.processes:
            if len(process.given) > 1 and now - process.began > _WITHDRAW_SECONDS:
                self._turns.put_back(process.withdraw())

    def _fail(self, message: str) -> None:
        """Tell everybody who waits that there are no decode processes."""
        self._turns.end(DecodePoolUnavailable(message))
        while self._asked:
            self._asked.pop().set_exception(DecodePoolUnavailable(message))

    def _end(self, failure: str) -> None:
        self._is_closing = True
        self._watchdog.stop()
        for process in list(self.processes):
            self._forget(process)
        for process in self._ended:
            process.popen.wait()
        self._turns.close(DecodePoolUnavailable(failure))
        self._fail(failure)
        self._selector.close()
        self._waker.close()
        self._woken.close()
