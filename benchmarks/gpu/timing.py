"""Rates of functions on a device, each measured for a limited time."""

import time
from collections.abc import Callable

import torch


def rate(run: Callable[[], object], images: int, device: str, seconds: float) -> float:
    """Return images per second. The first run prepares and is not counted."""
    run()
    finish(device)
    done, began = 0, time.perf_counter()
    while done == 0 or time.perf_counter() - began < seconds:
        for _ in range(4 if done else 1):
            run()
            done += images
        finish(device)
    return done / (time.perf_counter() - began)


def finish(device: str) -> None:
    """Wait until a device has done all of its work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
