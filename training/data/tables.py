"""Tables on disk that are larger than memory: NumPy files, mapped."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

Table = np.memmap[tuple[int, ...], Any]


def new_table(path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> Table:
    """Return an empty table on disk, with its space allocated. Raises OSError when the disk is too full for it.

    Without the allocation, a disk that fills up later would kill the process by SIGBUS, without a message.
    """
    table = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        size = path.stat().st_size
        try:
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise OSError(error.errno, f"{size / 1e9:.1f} GB of images: {error.strerror}", path.parent) from None
    return table
