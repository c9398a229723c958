"""What a training run is made of; saved beside its checkpoints and into the bundle."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from captioning.errors import UsageError
from captioning.model.decoder import KINDS, Kind
from captioning.values import Cell

OPTIMIZERS = ("adamw", "nadam", "radam")
_BOUNDS: dict[str, tuple[int, float]] = {
    **dict.fromkeys(("images", "captions", "longest", "hidden_size", "memory_size", "embedding_size"), (1, math.inf)),
    **dict.fromkeys(("learning_rate", "encoder_learning_rate"), (0, math.inf)),
    **dict.fromkeys(("scst_learning_rate", "scst_encoder_learning_rate"), (0, math.inf)),
    **dict.fromkeys(("epochs", "scst_epochs", "encoder_freeze_epochs", "warmup_steps", "patience"), (0, math.inf)),
    **dict.fromkeys(("limit", "val_limit", "threads", "weight_decay", "clip_norm"), (0, math.inf)),
    **dict.fromkeys(("label_smoothing", "ema_decay"), (0, 1)),
    **dict.fromkeys(("dropout", "scst_dropout"), (0, 1.9)),  # as a share of 0.5 at most
    "min_count": (1, math.inf),
    "views": (1, 4),
}


@dataclass(frozen=True)
class TrainConfig:
    """Hyper-parameters, the same for both cells so that a comparison is fair."""

    cells: tuple[Cell, ...] = ("lstm",)  # decoders; several share the encoder and its training
    kind: Kind = "attention"
    hidden_size: int = 512
    memory_size: int = 512
    embedding_size: int = 300
    epochs: int = 10  # passes over the training images, learning each next word
    images: int = 64  # a step
    captions: int = 5  # of each image, a step
    longest: int = 18  # words of a caption that are learned; the twentieth part of Flickr8k's are longer
    views: int = 2  # of an image: whole, mirrored, cropped, cropped and mirrored
    learning_rate: float = 1e-3  # of decoders, the peak
    encoder_learning_rate: float = 0.0  # the peak for stage 5; 0 leaves the encoder alone
    optimizer: str = "adamw"  # adamw, nadam or radam
    weight_decay: float = 1e-4
    warmup_steps: int = 200  # optimizer steps; then a cosine down to a hundredth
    encoder_freeze_epochs: int = 0  # epochs before stage 5 begins to learn
    clip_norm: float = 5.0  # of the whole gradient
    label_smoothing: float = 0.1
    dropout: float = 1.0  # of features, words and outputs, as a share of the usual 0.3, 0.3 and 0.5
    ema_decay: float = 0.999  # of the running average of weights that is evaluated and exported
    min_count: int = 4  # times a word occurs in the training captions to be in the vocabulary
    patience: int = 0  # epochs without a better val CIDEr after which a phase ends; 0: never
    scst_epochs: int = 0  # passes of self-critical training after those
    scst_learning_rate: float = 2e-4
    scst_encoder_learning_rate: float = 2e-5
    samples: int = 5  # sentences an image, self-critical
    temperature: float = 1.0  # of the softmax that they are drawn from and that is improved
    scst_dropout: float = 0.0  # dropout then, as a share of the usual: sentences are drawn without
    start: str = ""  # folder of a finished run or a bundle whose decoders and words are trained on; empty: none
    limit: int = 0  # training images, the first so many; 0: all
    val_limit: int = 0  # val images that are scored after each epoch, the first so many; 0: all
    keep_last: bool = False  # keep the last epoch's weights, not the best epoch's: nothing is chosen by val
    seed: int = 1
    threads: int = 0  # of torch on a CPU; 0 leaves it to torch

    def __post_init__(self) -> None:
        if not self.cells or not set(self.cells) <= {"lstm", "gru"} or len(set(self.cells)) < len(self.cells):
            raise UsageError(f"cells are lstm, gru or both, not {', '.join(self.cells)}.")
        if self.kind not in KINDS:
            raise UsageError(f"kind is one of {', '.join(KINDS)}, not {self.kind!r}.")
        for name, (least, most) in _BOUNDS.items():
            if not least <= getattr(self, name) <= most:
                said = f"{least} or more" if most == math.inf else f"{least} to {most}"
                raise UsageError(f"{name} is {said}, not {getattr(self, name)}.")
        if self.optimizer not in OPTIMIZERS:
            raise UsageError(f"optimizer is one of {', '.join(OPTIMIZERS)}, not {self.optimizer!r}.")
        if self.epochs + self.scst_epochs < 1:
            raise UsageError("epochs and scst_epochs are both 0: there is nothing to train.")
        if self.temperature <= 0:
            raise UsageError(f"temperature is above 0, not {self.temperature}.")
        if self.memory_size % 8:
            raise UsageError(f"memory_size is divided among 8 heads; {self.memory_size} can't be.")
        if self.samples < 2:
            raise UsageError(f"samples is 2 or more, as each is compared with its siblings; not {self.samples}.")


def with_settings(config: TrainConfig, settings: Iterable[str]) -> TrainConfig:
    """Return a config with `name=value` settings applied. Raises UsageError for what isn't one."""
    kinds = {field.name: type(getattr(config, field.name)) for field in fields(config)}
    changed: dict[str, object] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or kinds.get(name) not in (int, float, bool, str):
            known = ", ".join(n for n, kind in kinds.items() if kind in (int, float, bool, str))
            raise UsageError(f"--set takes name=value, not {setting!r}; names are {known}.")
        try:
            changed[name] = text.lower() in ("1", "true", "yes") if kinds[name] is bool else kinds[name](text)
        except ValueError:
            raise UsageError(f"--set {name} takes {kinds[name].__name__}, not {text!r}.") from None
    return replace(config, **changed)  # type: ignore[arg-type]
