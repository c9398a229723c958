"""Ray Data: one stage decodes in tasks, another captions batches in an actor that holds the model; Arrow files out.

That is what its guide to batch inference advises. The actor reserves another number of cores than the stage before:
with the same number, Ray fuses both into the actor. That is TRIED in `benchmarks.compare_rows`, and one thread too.
"""

from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from benchmarks.competitors.careful_script import prepared
from benchmarks.competitors.common import BATCH, arguments, bundle_of, note_finished, plain_captioner
from captioning.environment import available_cores
from captioning.model.pixels import Limits, open_image
from captioning.values import DecodeOptions

OBJECT_STORE = 300_000_000  # bytes; pixels of 2000 images


def decoded(row: dict[str, Any]) -> dict[str, Any]:
    """Replace the bytes of a file by its pixels."""
    return {"name": Path(row["path"]).name, "pixels": open_image(row["bytes"], 224, Limits())[0]}


class Model:
    """The model of an actor."""

    def __init__(self, model: str, options: DecodeOptions, out: Path, threads: int) -> None:
        torch.set_num_threads(threads)  # Ray sets it to the cores that the actor reserves
        self._captioner = plain_captioner(bundle_of(model), prepared)
        self._options, self._out = options, out

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        captions = self._captioner.caption(list(batch["pixels"]), self._options)
        note_finished(self._out, len(captions))
        return {"name": batch["name"], "caption": np.array([caption.text for caption in captions])}


def main() -> None:
    given = arguments(__doc__, actor_cores=0.5, threads=available_cores(), batch=BATCH)
    ray.init(num_cpus=available_cores(), object_store_memory=OBJECT_STORE, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    images = ray.data.read_binary_files([str(path) for path in given.images], include_paths=True)
    captions = images.map(decoded, num_cpus=1).map_batches(
        Model,
        fn_constructor_args=(given.model, given.options, given.out, given.threads),
        batch_size=given.batch,
        num_cpus=given.actor_cores,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    captions.write_parquet(str(given.out / "captions"))


if __name__ == "__main__":
    main()
