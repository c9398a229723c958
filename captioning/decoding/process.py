"""One decode process as its owner sees it: the images that it was given, and what it answers. Nothing here waits."""

import fcntl
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO, cast

from captioning.decoding.messages import (
    ANSWER,
    MAX_HEAD_BYTES,
    REQUEST,
    STARTED,
    Answers,
    DecodedImage,
    Layout,
    Memory,
    Started,
    create_memory,
    json_object,
)
from captioning.decoding.turns import Task
from captioning.environment import child_environment_without_secrets
from captioning.errors import ImageError

_PIPE_BYTES = 1 << 20  # of files that do not fit in the memory; the most that Linux allows everybody
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
_BUFFERS = 64  # that one system call sends
_AHEAD_SECONDS = 0.02  # of work that a process has; its owner may need as long to come back to it


@dataclass(eq=False, slots=True)
class Given:
    """An image that a process was given."""

    number: int
    task: Task
    in_memory: int  # bytes of its file in the shared memory, 0 if it followed in the pipe
    is_withdrawn: bool = False  # another process decodes it; its answer does not count


class DecodeProcess:
    """Starts a decode process, gives it images and reads its answers."""

    def __init__(self, command: list[str], layout: Layout, answers: Answers) -> None:
        """Start a process. Raises OSError when there are no file handles, processes or memory."""
        self.started: Started | None = None
        self.given: deque[Given] = deque()  # the first is being decoded
        self.began = 0.0  # when the first was begun, by time.monotonic()
        self._answers = answers
        self._number = STARTED
        self._seconds = 0.0  # that an image takes, as the last ones did
        self._unread = bytearray()
        self._unsent: deque[memoryview] = deque()
        descriptor = create_memory(layout.total)
        try:
            self._memory = Memory(layout, descriptor)
            self.popen = _start(command, descriptor)
        finally:
            if descriptor is not None:
                os.close(descriptor)
        self.pipe = cast("BinaryIO", self.popen.stdin).fileno()
        self.out = cast("BinaryIO", self.popen.stdout).fileno()
        for pipe in (self.pipe, self.out):
            os.set_blocking(pipe, False)

    @property
    def room(self) -> int:
        """How many images it should be given now: several at once, or none."""
        slots = self._memory.layout.slots if self._memory.is_there else 2  # without memory, none can be withdrawn
        ahead = min(slots, max(2, int(_AHEAD_SECONDS / (self._seconds + 1e-6))))
        have = len(self.given)
        return ahead - have if 2 * have <= ahead else 0

    def give(self, task: Task) -> None:
        """Give it an image; `send` sends what it was given."""
        self._number += 1
        data = task.request.data
        is_held = self._memory.put_file(self._number, data)
        request = REQUEST.pack(self._number, len(data) if is_held else 0, 0 if is_held else len(data))
        self._unsent.append(memoryview(request))
        if not is_held:
            self._unsent.append(memoryview(data))
        if not self.given:
            self.began = time.monotonic()
        self.given.append(Given(self._number, task, len(data) if is_held else 0))

    def send(self) -> bool:
        """Send as much as its pipe takes; return whether that is all."""
        with suppress(BlockingIOError, BrokenPipeError):  # the second: its death is noticed by reading
            while self._unsent:
                count = os.writev(self.pipe, list(islice(self._unsent, _BUFFERS)))
                while self._unsent and count >= len(self._unsent[0]):
                    count -= len(self._unsent.popleft())
                if count:
                    self._unsent[0] = self._unsent[0][count:]
        return not self._unsent

    def answers(self) -> Iterator[tuple[Given, DecodedImage | ImageError]]:
        """Yield the images that it has answered, those that it was given first before.

        Raises EOFError when it has ended, ValueError or LookupError when an answer is not valid. Then the first of
        `given`, if there is one, was being decoded.
        """
        try:
            arrived = os.read(self.out, _PIPE_BYTES)
        except BlockingIOError:
            return
        if not arrived:
            raise EOFError
        self._unread += arrived
        while (frame := self._frame()) is not None:
            number, head, pixels = frame
            if self.started is None and number == STARTED:
                self.started = Started.from_message(json_object(head))
                continue
            first = self.given[0]
            if first.number != number:
                raise ValueError("not an answer for the image that it was to decode")
            result = self._answers.result(head, number, self._memory, pixels)
            self.given.popleft()
            yield first, result

    def _frame(self) -> tuple[int, bytes, bytes] | None:
        """Return the next answer that has arrived as its number, JSON and pixels, None if it has not all arrived."""
        unread = self._unread
        if len(unread) < ANSWER.size:
            return None
        number, head, pixels = ANSWER.unpack_from(unread)
        if head > MAX_HEAD_BYTES or pixels > (0 if self._memory.is_there else self._memory.layout.pixel_bytes):
            raise ValueError(f"an answer of {head} and {pixels} bytes")
        end = ANSWER.size + head + pixels
        if len(unread) < end:
            return None
        parts = bytes(unread[ANSWER.size : ANSWER.size + head]), bytes(unread[ANSWER.size + head : end])
        del unread[:end]
        return number, *parts

    def note_seconds(self) -> float:
        """Return how long the image took that was answered last; the next one begins now."""
        now = time.monotonic()
        seconds, self.began = now - self.began, now
        self._seconds = max(seconds, 0.8 * self._seconds + 0.2 * seconds)
        return seconds

    def withdraw(self) -> list[Task]:
        """Take back the images that it has not begun, and return them."""
        withdrawn = [each for each in list(self.given)[1:] if each.in_memory and not each.is_withdrawn]
        for each in withdrawn:
            each.is_withdrawn = True
            self._memory.erase_file(each.number, each.in_memory)
        return [each.task for each in withdrawn]

    def kill(self) -> None:
        self.popen.kill()

    def end(self) -> None:
        """Kill it and close its pipes."""
        self.popen.kill()
        for stream in (self.popen.stdin, self.popen.stdout):
            with suppress(BrokenPipeError):
                cast("BinaryIO", stream).close()

    def was_killed(self) -> bool:
        """Wait until it has ended; return whether somebody sent it a SIGKILL before `end` was called."""
        return self.popen.wait() == -signal.SIGKILL


def _start(command: list[str], descriptor: int | None) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [*command, str(-1 if descriptor is None else descriptor)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # codecs print about bad files; a log file could not be written anyway
        env=child_environment_without_secrets(_ONE_THREAD),
        pass_fds=() if descriptor is None else (descriptor,),
        bufsize=0,
    )
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with suppress(OSError):  # somebody has many pipes
            fcntl.fcntl(cast("BinaryIO", process.stdin).fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return process
