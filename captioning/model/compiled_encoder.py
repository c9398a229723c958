"""The encoder in the form that torch compiles for a GPU, made on a thread while the encoder as it is does the work.

A compiled form has a fixed batch size, so there are few of them: a batch is cut into parts of those sizes, and what is
left is encoded as it is. A form is compiled when batches of its size have come a few times, and is used when it agrees
with the encoder on a batch. A thread and not a process: another process would need a second copy of the encoder and
several hundred megabytes of the GPU. Compiling holds Python's lock for much of its seconds, but only where nothing is
kept yet: what torch generates is kept in a folder, and the next process reads it there.
"""

import functools
import logging
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor, nn

from captioning.environment import set_for_children
from captioning.model.openvino_encoder import is_private
from captioning.model.precision import Precision

SIZES = (32, 256)  # images
_CALLS = 4  # with batches of a size, after which its form is compiled
TOLERANCES = {"fp32": 1e-3, "bf16": 0.1, "fp16": 0.02}
"""How far a compiled form may be from the encoder, see `relative_difference`. Both round, at different places: in bf16
with 0.04 between them on a CPU. The limits are chosen, not measured: what is wrong is off by more than that."""

COMPILING = threading.Lock()
"""Held while a form is compiled: no other thread may capture CUDA graphs meanwhile."""

log = logging.getLogger(__name__)


class CompiledEncoder:
    """An encoder, uint8 pixels (B, S, S, 3) -> float32 grids (B, N, F) on the same device. Not for several threads."""

    def __init__(
        self, network: nn.Module, precision: Precision, cache: Path | None,
        sizes: Sequence[int] = SIZES, backend: str = "inductor",
    ) -> None:  # fmt: skip
        """`cache` is a folder for what torch generates; it must be this user's alone. None: nothing is kept.

        `backend` is that of `torch.compile`.
        """
        self._backend = backend
        self._eager = _Float(network)
        self._tolerance, self._cache, self._sizes = TOLERANCES[precision], cache, sorted(sizes, reverse=True)
        self._calls: Counter[int] = Counter()
        self._compiled: dict[int, Callable[[Tensor], Tensor]] = {}
        self._thread: threading.Thread | None = None

    def __call__(self, pixels: Tensor) -> Tensor:
        """Encode a batch by the forms that there are; begin to compile another one when its time has come."""
        self._count(pixels)
        found, start = [], 0
        for size in parts_of(len(pixels), self._compiled):
            part = pixels[start : start + size]
            found.append(self._encode(part, size))
            start += size
        return found[0] if len(found) == 1 else torch.cat(found)

    def wait(self) -> None:
        """Wait until nothing is being compiled."""
        if self._thread is not None:
            self._thread.join()

    @property
    def sizes(self) -> set[int]:
        """The batch sizes of the forms that are in use."""
        return set(self._compiled)

    def _encode(self, part: Tensor, size: int) -> Tensor:
        compiled = self._compiled.get(size)
        if compiled is None:
            found: Tensor = self._eager(part)
            return found
        return compiled(_filled(part, size))[: len(part)]

    def _count(self, pixels: Tensor) -> None:
        """Count a batch, and compile the form for batches like it when there have been enough."""
        size = next((size for size in self._sizes if 2 * len(pixels) >= size), None)
        if size is None or (self._thread is not None and self._thread.is_alive()):
            return
        self._calls[size] += 1
        if self._calls[size] == _CALLS:
            example = _filled(pixels[:size], size)
            self._thread = threading.Thread(target=self._compile, args=(example,), name="compile", daemon=True)
            self._thread.start()

    def _compile(self, pixels: Tensor) -> None:
        """Compile the form for batches of the size of this one, and use it if it agrees with the encoder."""
        try:
            folder = use_folder(self._cache)
            # another worker on this machine compiles the same: then it is read
            with FileLock(folder / "compiling.lock"), COMPILING, torch.inference_mode(), _current(pixels.device):
                compiled = torch.compile(self._eager, fullgraph=True, dynamic=False, backend=self._backend)
                difference = relative_difference(compiled(pixels), self._eager(pixels))
        except Exception as error:  # of any kind: no compiler, no Triton, no memory
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            log.warning("the encoder cannot be compiled here, so captions take longer: %s", reason)
            return
        if not difference <= self._tolerance:  # NaN too
            message = "the compiled encoder is off by %.3g, more than %.3g, so it is not used and captions take longer"
            log.warning(message, difference, self._tolerance)
            return
        self._compiled = {**self._compiled, len(pixels): compiled}
        log.info("the encoder is compiled for batches of %d images", len(pixels))


class _Float(nn.Module):
    """An encoder that returns float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.network(pixels)
        return found.float()


def parts_of(images: int, sizes: Iterable[int]) -> list[int]:
    """Return the sizes of the parts of a batch: those of `sizes` that are at least half full, then the rest."""
    parts = []
    for size in sorted(sizes, reverse=True):
        while images > 0 and size <= 2 * images:
            parts.append(size)
            images -= size
    return [*parts, images] if images > 0 else parts


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest distance of two grids (B, N, F) of an image, as a share of the length of the expected one."""
    distances = (found - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    return float(distances.max())


def _filled(pixels: Tensor, size: int) -> Tensor:
    """Return a batch of a size, with black images at the end."""
    missing = size - len(pixels)
    return pixels if missing == 0 else torch.cat([pixels, pixels.new_zeros(missing, *pixels.shape[1:])])


def _current(device: torch.device) -> torch.cuda.device:
    """Return a context in which a device is the current one; one that is no GPU changes nothing."""
    return torch.cuda.device(device if device.type == "cuda" else -1)


def use_folder(cache: Path | None) -> Path:
    """Make torch keep what it compiles in a folder, and read it there: in one that only this user can write to.

    Return the folder.

    It keeps programs, and those of its usual folder, below /tmp, may be another user's. Raises OSError.
    """
    folder = _temporary_folder() if cache is None else cache / f"compiled-torch-{torch.__version__}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_private(folder):
        raise PermissionError(f"others can write to {folder}: delete it")
    set_for_children("TORCHINDUCTOR_CACHE_DIR", str(folder))
    set_for_children("TRITON_CACHE_DIR", str(folder / "triton"))
    set_for_children("TORCHINDUCTOR_COMPILE_THREADS", "1")  # else it starts a process for each core, which stay
    return folder


@functools.cache
def _temporary_folder() -> Path:
    holder = tempfile.TemporaryDirectory(prefix="captionmill-compiled-")  # is removed when this process ends
    _holders.append(holder)
    return Path(holder.name)


_holders: list[tempfile.TemporaryDirectory[str]] = []
