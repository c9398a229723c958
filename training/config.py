"""What a training run is made of; saved beside its checkpoints and into the bundle."""

from dataclasses import dataclass

from captioning.values import Cell


@dataclass(frozen=True)
class TrainConfig:
    """Hyper-parameters, the same for both cells so that a comparison is fair."""

    cell: Cell = "lstm"
    epochs: int = 10  # passes over the training pictures
    pictures: int = 64  # a step
    captions: int = 5  # of each picture, a step
    learning_rate: float = 1e-3  # AdamW, the peak
    encoder_learning_rate: float = 0.0  # the peak for stage 5; 0 leaves the encoder alone
    weight_decay: float = 1e-4
    warm_up: int = 200  # optimizer steps; then a cosine down to a hundredth
    encoder_rest: int = 0  # epochs before stage 5 begins to learn
    clip_norm: float = 5.0  # of the whole gradient
    label_smoothing: float = 0.1
    average_decay: float = 0.999  # of the running average of weights that is evaluated and exported
    min_count: int = 4  # times a word occurs in the training captions to be in the vocabulary
    hidden_size: int = 512
    seed: int = 1
    threads: int = 0  # of torch on a CPU; 0 leaves it to torch
