"""The hyper-parameters of a training run. They are saved with its checkpoints and in its bundles."""

import difflib
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass

from captioning.allowed_values import fault
from captioning.errors import UsageError
from captioning.model.decoder import KINDS, DecoderConfig
from captioning.values import Cell

OptimizerName = Literal["adamw", "nadam", "radam"]
OPTIMIZERS: tuple[OptimizerName, ...] = get_args(OptimizerName)


def _known_kind(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"Kind must be one of {', '.join(KINDS)}")
    return kind


Kind = Annotated[str, AfterValidator(_known_kind)]
Stage = Literal["layer1", "layer2", "layer3", "layer4"]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""The encoder's stages by torchvision's names; the paper calls them 2 to 5 (He et al. 2015, arXiv:1512.03385)."""

Size = Annotated[int, Field(ge=1, lt=1_000_000)]
Fraction = Annotated[float, Field(ge=0, le=1)]
DropoutFactor = Annotated[float, Field(ge=0, le=1.9)]  # times the usual dropout, which is 0.5 at most


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TrainConfig:
    """Hyper-parameters, the same for all decoders of a run. Raises UsageError for values that cannot be used.

    Values may also be given as text ("0.1", "true"); pydantic parses them.
    """

    # -- decoders --
    cells: tuple[Cell, ...] = ("lstm",)  # one decoder for each; several share the encoder and its training
    kind: Kind = "attention"  # of decoder
    hidden_size: Size = 512
    memory_size: Size = 512
    embedding_size: Size = 300
    dropout: DropoutFactor = 1.0  # multiplies the dropout of features, words and outputs: 0.3, 0.3 and 0.5
    concepts: Annotated[int, Field(ge=0, le=100)] = 0  # of the encoder's classifier, that decoders read beside the grid
    start: str = ""  # folder of a finished run or a bundle, to train its decoders further
    distilled: bool = False  # with a start: its beam search writes the training captions, for a better greedy search
    new_words: bool = False  # with a start: also words that it lacks and the training captions have, not only its own

    # -- data --
    batch_size: PositiveInt = 64  # images in a step
    captions_per_image: PositiveInt = 5  # in a step
    max_length: PositiveInt = 18  # words; longer training captions are truncated, 5 % of Flickr8k's
    views: Annotated[int, Field(ge=1, le=4)] = 2  # of an image: whole, mirrored, cropped, cropped and mirrored
    min_count: PositiveInt = 4  # times a word must occur in the training captions to enter the vocabulary
    limit: NonNegativeInt = 0  # training images that are used of each data set, from the first; 0: all
    val_limit: NonNegativeInt = 0  # val images that are scored after each epoch, from the first; 0: all

    # -- augmentation, of training from pixels --
    train_size: Annotated[int, Field(ge=0, le=1024)] = 0  # side of the crops in pixels; 0: that of captioned images
    smallest_crop: Annotated[float, Field(gt=0, le=1)] = 0.6  # of the image's area; 1: always the whole image
    mirrored: Fraction = 0.5  # share of images that are mirrored
    light: Annotated[float, Field(ge=0, lt=1)] = 0.25  # most by which contrast and brightness change; 1 is all

    # -- captions without images, in cross-entropy training --
    text_captions: PositiveInt = 160  # in a step, when there are any
    text_weight: NonNegativeFloat = 0.3  # of their loss, beside that of captions with images

    # -- concepts, in cross-entropy training --
    swapped: Fraction = 0.0  # share of images with concepts and captions that name another thing than they show

    # -- cross-entropy training --
    epochs: NonNegativeInt = 10
    learning_rate: NonNegativeFloat = 1e-3  # peak, for decoders
    encoder_learning_rate: NonNegativeFloat = 0.0  # peak, for the encoder; 0: it is frozen
    tune_from: Stage | None = None  # first stage that learns, from pixels; None: layer4, from cached maps before it
    encoder_freeze_epochs: NonNegativeInt = 0  # epochs before the encoder starts to learn
    classifier: str = ""  # file with fc.weight and fc.bias, of the classes that a tuned encoder must not forget
    classifier_weight: NonNegativeFloat = 0.5  # of their divergence from the original's, in nats, in the loss
    label_smoothing: Fraction = 0.1

    # -- self-critical training (SCST), after it --
    scst_epochs: NonNegativeInt = 0
    scst_learning_rate: NonNegativeFloat = 2e-4
    scst_encoder_learning_rate: NonNegativeFloat = 2e-5
    scst_dropout: DropoutFactor = 0.0  # as `dropout`; 0 because captions are sampled without dropout
    samples: Annotated[int, Field(ge=2)] = 5  # captions sampled for an image; each is compared with the others
    temperature: PositiveFloat = 1.0  # of the softmax that captions are sampled from and that is trained
    entropy_weight: NonNegativeFloat = 0.0  # of the mean entropy of the next word, in nats, which is rewarded
    repeat_penalty: NonNegativeFloat = 0.0  # reward that a caption loses for each content word that occurs again
    invention_penalty: NonNegativeFloat = 0.0  # for people, and for dogs, that no reference of the image has

    # -- optimization, of both --
    optimizer: OptimizerName = "adamw"
    weight_decay: NonNegativeFloat = 1e-4
    # The learning rate is its peak, times the linear warm-up, times a cosine that falls from 1 at the first step of the
    # phase to 0.01 at its end. The warm-up of the encoder begins after encoder_freeze_epochs.
    warmup_steps: NonNegativeInt = 200  # steps of linear warm-up, a quarter in SCST; times a cosine over the phase
    clip_norm: NonNegativeFloat = 5.0  # norm to which the whole gradient is clipped
    ema_decay: Fraction = 0.999  # of the moving average of the weights, which is evaluated and exported
    patience: NonNegativeInt = 0  # epochs without a better val CIDEr after which a phase ends; 0: it never does
    keep_last: bool = False  # keep the weights of the last epoch instead of the best: no selection on val images

    # -- the run --
    seed: int = 1
    threads: NonNegativeInt = 0  # CPU threads of torch; 0: torch decides
    reward_processes: NonNegativeInt | None = None  # that compute rewards; None: one a core beside a GPU, else 0

    @model_validator(mode="wrap")
    @classmethod
    def _as_usage_error(cls, values: Any, validate: ModelWrapValidatorHandler["TrainConfig"]) -> "TrainConfig":
        try:
            return validate(values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise UsageError(
                f"{first['loc'][0]}={first['input']}: {fault(error, vars(cls)['__pydantic_fields__'])}."
            ) from None

    def __post_init__(self) -> None:
        if not self.cells or len(set(self.cells)) < len(self.cells):
            raise UsageError(f"cells={','.join(self.cells)}: give lstm, gru or both, each once.")
        if self.epochs + self.scst_epochs < 1:
            raise UsageError("epochs and scst_epochs are both 0: there is nothing to train.")
        if self.distilled and not (self.start and self.epochs and not self.scst_epochs):
            raise UsageError(
                "distilled=true: name the decoders that write the captions, --start RUN, and give --epochs only; the"
                " rewards of --scst-epochs need people's captions."
            )
        if self.tune_from and not self.encoder_learning_rate:
            raise UsageError(f"tune_from={self.tune_from}: give the encoder a learning rate too, --tune-encoder 1e-4.")
        if self.classifier and not (self.encoder_learning_rate or self.concepts):
            raise UsageError(
                f"classifier={self.classifier}: a frozen encoder forgets nothing; tune it, --tune-encoder 1e-4, or read"
                " concepts, --concepts 6."
            )
        if self.concepts and not (self.classifier or self.start):
            raise UsageError(f"concepts={self.concepts}: give the classifier that sees them, --classifier FILE.")
        if self.memory_size % DecoderConfig.heads:
            heads = DecoderConfig.heads
            raise UsageError(f"memory_size={self.memory_size}: give a multiple of {heads}, the number of heads.")


def with_settings(config: TrainConfig, settings: Iterable[str]) -> TrainConfig:
    """Return a config with `name=value` settings applied. Raises UsageError for an unknown name or a wrong value."""
    known = [field.name for field in fields(config) if field.name != "cells"]  # an option of its own
    changes: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"--set takes name=value, not {setting!r}; names are {', '.join(known)}.")
        if name not in known:
            nearest = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"names are {', '.join(known)}."
            raise UsageError(f"--set {setting}: there is no setting {name}; {hint}")
        changes[name] = value
    return replace(config, **changes)
