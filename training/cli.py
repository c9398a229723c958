"""The command line of `training`: options and printing only, all work is in the other modules.

They are imported inside the commands, because torch and the scorers take seconds to import.
"""

import json
import shlex
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from captioning.bundles import Bundle, find_bundles, named, read_bundle
from captioning.calibration import calibration_of
from captioning.cli import command_line
from captioning.command_tree import new_app
from captioning.settings import read_settings
from captioning.values import Cell, DecodeOptions
from training.progress import progress

if TYPE_CHECKING:
    from training.data.data_sets import DataFolder

app = new_app(help="Train and evaluate caption models on captioned images: Flickr8k, or a folder of the same form.")

Stride = Literal["1x1", "3x3"]
Split = Literal["train", "val", "test"]

Data = Annotated[
    list[str],
    typer.Option(
        metavar="FOLDER",
        help="Folder with Images/ and captions in one of three forms, see docs/how-to; may be repeated.",
    ),
]
WeightedData = Annotated[
    list[str],
    typer.Option(
        metavar="FOLDER",
        help="Folder with Images/ and captions in one of three forms, see docs/how-to; may be repeated."
        " FOLDER=2 draws each of its images twice an epoch.",
    ),
]
Run = Annotated[Path, typer.Option(help="Folder of the run: checkpoints, log and results.")]
Encoder = Annotated[
    Path,
    typer.Option(help="A run that tuned an encoder, a model, a ResNet50 safetensors file, imagenet-v1 or imagenet-v2."),
]
EncoderStride = Annotated[
    Stride | None, typer.Option("--stride", help="Convolution that has the stride, if the encoder is a bare file.")
]
Cache = Annotated[
    Path,
    typer.Option(
        help="Folder for cached features (for each view of Flickr8k, 2.4 GB to tune the encoder, 1.2 GB otherwise)."
    ),
]
Kind = Annotated[  # not a Literal: the kinds are in captioning.model.decoder, which imports torch
    str, typer.Option(help="Kind of decoder: plain, attention or updown, for example; a wrong one lists all.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint of this run.")]
Seed = Annotated[int, typer.Option(help="Seed of weights, batches and dropout.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads of torch; 0: torch decides.")]
Model = Annotated[str, typer.Argument(help="Name of a model, or the folder of a bundle.")]
Naming = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Folder with labelled Images/ and words.json, for the naming rate."),
]
NeutralGender = Annotated[
    float | None,
    typer.Option(
        min=0.5,
        max=1,
        help='Share that "man" or "woman" must have of both, for example 0.8; otherwise the model writes "person".',
    ),
]
Demand = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        max=1,
        help="Probability from which the caption must name what the classifier sees, for example 0.6.",
    ),
]
Absent = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        max=1,
        help="Probability below which the caption must not name people or dogs, for example 0.2.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Setting = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any other field of TrainConfig; may be repeated."),
]


@app.command(epilog="Example: training fetch flickr8k -o flickr8k")
def fetch(
    name: Annotated[str, typer.Argument(help="flickr8k, imagenet-v1 or imagenet-v2.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to download to.")],
) -> None:
    """Download a corpus or an encoder, check it and unpack it. Needs internet access."""
    from training.data.download import fetch as download

    typer.echo(download(name, output))


@app.command(epilog="Example: training train --data flickr8k --encoder runs/encoder --cell gru --run runs/gru")
def train(
    data: WeightedData,
    encoder: Encoder,
    run: Run,
    stride: EncoderStride = None,
    cache: Cache = Path("cache"),
    origin: Annotated[str | None, typer.Option(help="Origin of a bare encoder file, for the model card.")] = None,
    resume: Resume = False,
    seed: Seed = 1,
    threads: Threads = 0,
    cell: Annotated[
        Literal["lstm", "gru", "lstm,gru"],
        typer.Option(help="Recurrent cell; both: two decoders that share the encoder."),
    ] = "lstm",
    kind: Kind = "attention",
    hidden: Annotated[int, typer.Option(min=8, help="Size of the recurrent state.")] = 512,
    epochs: Annotated[int, typer.Option(min=0, help="Epochs of cross-entropy training.")] = 10,
    scst_epochs: Annotated[int, typer.Option(min=0, help="Epochs of self-critical training (SCST) after it.")] = 0,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate of the decoder.")] = 1e-3,
    tune_encoder: Annotated[
        float, typer.Option(help="Peak learning rate of the encoder, for example 1e-4; 0: it is frozen.")
    ] = 0.0,
    tune_from: Annotated[
        Literal["layer1", "layer2", "layer3", "layer4"] | None,
        typer.Option(
            help="First stage of the encoder that learns, with augmented images. Without it, layer4 learns from cached"
            " maps: faster on a CPU, less accurate."
        ),
    ] = None,
    classifier: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Weights of the encoder's classifier, fc.weight and fc.bias: tuning keeps what it sees.",
        ),
    ] = None,
    concepts: Annotated[
        int, typer.Option(min=0, max=100, help="Words of what the classifier sees that the decoder reads, with --text.")
    ] = 0,
    patience: Annotated[int, typer.Option(min=0, help="Epochs without a better CIDEr that end a phase; 0: never.")] = 4,
    start: Annotated[
        str | None, typer.Option(help="Run or model; its decoders and vocabulary are trained further.")
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(help="File of captions without images, one a line, plain or gzip; may be repeated."),
    ] = None,
    devices: Annotated[int, typer.Option(min=1, help="GPUs, or processes without a GPU, that share each batch.")] = 1,
    settings: Setting = None,
    as_json: Json = False,
) -> None:
    """Train one or more decoders on an encoder, which is frozen or trained with them."""
    from training.config import TrainConfig, with_settings
    from training.data.data_sets import parse_data
    from training.data.encoders import open_encoder
    from training.fit.train import run_training

    cells: tuple[Cell, ...] = ("lstm", "gru") if cell == "lstm,gru" else (cell,)
    config = TrainConfig(
        cells=cells, kind=kind, hidden_size=hidden, epochs=epochs, scst_epochs=scst_epochs,
        learning_rate=learning_rate, encoder_learning_rate=tune_encoder, tune_from=tune_from, seed=seed,
        threads=threads,
        patience=patience, start=_start_folder(start), classifier=str(classifier or ""),
        concepts=concepts,
    )  # fmt: skip
    config = with_settings(config, settings or ())
    folders = parse_data(data)
    file = open_encoder(encoder, stride, cache, _bundle_folders(), origin)
    about = run_training(folders, file, config, run, cache, resume=resume, texts=text or (), devices=devices)
    if about:
        print_values({"best_epoch": about["best_epoch"], **about["val"]}, as_json=as_json)
        options = "" if config.encoder_learning_rate else f" --encoder {file.name}"
        options += " --cell " + " or ".join(config.cells) if len(config.cells) > 1 else ""
        options += f" --name NAME -o FOLDER {_data_options(folders)} --cache {cache}"
        typer.echo(f"next: training export --run {run}{options}", err=True)


@app.command(epilog="Example: training tune --data flickr8k --encoder runs/encoder --run runs/tune --trials 30")
def tune(
    data: Data,
    encoder: Encoder,
    run: Run,
    stride: EncoderStride = None,
    cache: Cache = Path("cache"),
    cell: Annotated[Cell, typer.Option(help="Recurrent cell.")] = "lstm",
    kind: Kind = "attention",
    trials: Annotated[int, typer.Option(min=1, help="Trials in all, with those of earlier calls.")] = 20,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each trial.")] = 5,
    seed: Seed = 1,
    threads: Threads = 0,
    settings: Setting = None,
    as_json: Json = False,
) -> None:
    """Search learning rate, optimizer and sizes with Optuna. The same command with more --trials continues."""
    from training.config import TrainConfig, with_settings
    from training.data.data_sets import parse_data
    from training.data.encoders import open_encoder
    from training.fit.tune import search

    config = TrainConfig(cells=(cell,), kind=kind, epochs=epochs, seed=seed, threads=threads)
    config = with_settings(config, settings or ())
    folders = parse_data(data)
    best = search(folders, open_encoder(encoder, stride, cache, _bundle_folders()), config, run, cache, trials)
    print_values(best, as_json=as_json)


@app.command(epilog="Example: training evaluate lstm --data flickr8k")
def evaluate(
    model: Model,
    data: Data,
    cache: Cache = Path("cache"),
    split: Annotated[Split, typer.Option(help="Images to caption.")] = "val",
    beam_size: Annotated[int, typer.Option(min=1, max=20, help="Hypotheses of the beam search; 1 is greedy.")] = 3,
    spice: Annotated[
        bool, typer.Option("--spice", help="Compute SPICE too: needs Java, downloads 384 MB once.")
    ] = False,
    naming: Naming = None,
    neutral_gender: NeutralGender = None,
    demand: Demand = None,
    absent: Absent = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File for all captions, as JSON lines.")] = None,
    as_json: Json = False,
) -> None:
    """Print the scores of a model: BLEU, METEOR (with Java), ROUGE-L, CIDEr-D, diversity and calibration."""
    from training.data.data_sets import open_data, parse_data
    from training.evaluate.fit_calibration import reliability
    from training.evaluate.metrics import check_spice
    from training.evaluate.score_bundle import diversity_of, evaluate_bundle, evaluate_naming

    bundle = _open_bundle(model)
    bundle.require_current()
    options = {"neutral_gender": neutral_gender, "demand": demand, "absent": absent}
    given = {name: value for name, value in options.items() if value is not None}  # instead of what the bundle says
    bundle = replace(bundle, description=bundle.description | given)
    folders = parse_data(data)
    if spice:
        check_spice()
    corpus, sets = open_data(folders, cache)
    search = DecodeOptions(beam_size=beam_size)
    with progress("captioning") as tick:
        scores, captions = evaluate_bundle(bundle, corpus, sets, split, search, cache=cache, spice=spice, tick=tick)
    if output is not None:
        rows = [{"image": name, "caption": c.text, "confidence": c.confidence} for name, c in captions.items()]
        output.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    errors = reliability(captions, corpus.captions, calibration_of(bundle.description))
    result = {"model": bundle.name, "split": split, "beam_size": beam_size, **scores}
    result |= {"diversity": diversity_of(captions, corpus), "confidence": errors}
    if naming is not None:
        with progress("captioning labelled images") as tick:
            result["naming"], _ = evaluate_naming(bundle, naming, search, cache=cache, tick=tick)
    print_values(result, as_json=as_json)


@app.command(epilog="Example: training compare --data flickr8k --encoder runs/encoder --run runs/compare --seeds 5")
def compare(
    data: Data,
    encoder: Encoder,
    run: Run,
    stride: EncoderStride = None,
    cache: Cache = Path("cache"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Few images, seeds and epochs: shows that it works, proves nothing.")
    ] = False,
    seeds: Annotated[int, typer.Option(min=2, help="Runs of each decoder.")] = 5,
    epochs: Annotated[int, typer.Option(min=2, help="Epochs of each run.")] = 5,
    size: Annotated[int, typer.Option(min=8, help="Size of the LSTM's recurrent state.")] = 256,
    limit: Annotated[int, typer.Option(min=0, help="Training images that are used, from the first; 0: all.")] = 0,
    classifier: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The encoder's classifier: decoders that read its words are compared too."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at once; they share the cores.")] = 1,
    show: Annotated[Path | None, typer.Option(help="Folder of images for the report, instead of the corpus's.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File for the report; default: RUN/report.html.")
    ] = None,
) -> None:
    """Compare LSTM and GRU decoders under equal conditions; write an HTML report. The same command resumes it."""
    from training.compare.plan import QUICK, Plan
    from training.compare.report import images_in, write_report
    from training.compare.study import compare as run_comparison
    from training.data.data_sets import parse_data
    from training.data.encoders import open_encoder

    folders = parse_data(data)
    if show is not None:
        images_in(show)  # fail before hours of training
    tuning_epochs = max(2, epochs // 3)  # enough to be past the warm-up
    plan = QUICK if quick else Plan(seeds, epochs, tuning_epochs=tuning_epochs, size=size, limit=limit)
    plan = replace(plan, classifier=str(classifier or ""))
    file = open_encoder(encoder, stride, cache, _bundle_folders())
    comparison = run_comparison(folders, file, run, cache, plan, jobs)
    path = write_report(comparison, output or run / "report.html", show)
    typer.echo(f"{comparison.answer}\nreport: {path}")


@app.command(epilog="Example: training export --run runs/gru --encoder runs/encoder --name gru -o bundles")
def export(
    run: Run,
    name: Annotated[str, typer.Option(help="Name of the model.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to create the bundle in.")],
    encoder: Annotated[
        Path | None, typer.Option(help="Encoder that the run was trained on, unless it tuned its own.")
    ] = None,
    cell: Annotated[Cell | None, typer.Option(help="Decoder to export, if the run has two.")] = None,
    stride: EncoderStride = None,
    cache: Cache = Path("cache"),
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="FOLDER", help="Corpus to score and calibrate the bundle on; may be repeated."),
    ] = None,
    naming: Naming = None,
    neutral_gender: NeutralGender = None,
    demand: Demand = None,
    absent: Absent = None,
) -> None:
    """Export a bundle from a finished run: int8 weights, digests, calibration and a model card."""
    from training.data.data_sets import parse_data
    from training.data.encoders import open_encoder
    from training.export.write_bundle import export_bundle

    folders = parse_data(data or ())
    file = open_encoder(encoder or run, stride, cache, _bundle_folders())
    with progress("captioning") as tick:
        bundle = export_bundle(
            run, file, name, output, cell=cell, data=folders, naming=naming, neutral_gender=neutral_gender,
            demand=demand, absent=absent, cache=cache, tick=tick,
        )  # fmt: skip
    _print_bundle(bundle)


@app.command(epilog="Example: training calibrate bundles/my-gru --data images")
def calibrate(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    data: Data,
    naming: Naming = None,
    cache: Cache = Path("cache"),
) -> None:
    """Score a bundle on a corpus and calibrate its confidences there. The bundle gets a new digest."""
    from training.data.data_sets import parse_data
    from training.export.write_bundle import calibrate_bundle

    opened = read_bundle(bundle)
    opened.require_current()
    folders = parse_data(data)
    opened.verify()
    with progress("captioning") as tick:
        calibrated = calibrate_bundle(bundle, folders, cache, tick, naming=naming)
    _print_bundle(calibrated)


@app.command(epilog="Example: training info lstm")
def info(model: Model) -> None:
    """Print the description of a model as JSON: sizes, scores, origin, digest of the names of its training images."""
    bundle = _open_bundle(model)
    typer.echo(json.dumps({"digest": bundle.digest, "folder": str(bundle.folder), **bundle.card}, indent=1))


def print_values(values: Mapping[str, object], *, as_json: bool) -> None:
    """Print values as JSON, or as a table with a line for each; what is inside another value is `outer.inner`."""
    if as_json:
        typer.echo(json.dumps(values))
        return
    rows = [(key, f"{value:.4g}" if isinstance(value, float) else str(value)) for key, value in _flat(values)]
    width = max(len(key) for key, _ in rows)
    typer.echo("\n".join(f"{key:<{width}}  {value}" for key, value in rows))


def _flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif key.endswith("_interval") and isinstance(value, list):
            yield f"{prefix}{key}", " to ".join(f"{end:.4g}" for end in value)
        elif not isinstance(value, list):  # the words and bins behind a number are in the JSON only
            yield f"{prefix}{key}", value


def _data_options(folders: "Sequence[DataFolder]") -> str:
    return " ".join(f"--data {shlex.quote(str(data.folder))}" for data in folders)


def _print_bundle(bundle: Bundle) -> None:
    typer.echo(f"{bundle.folder}: model {bundle.name}, digest {bundle.digest[:16]}")


def _start_folder(start: str | None) -> str:
    """Return the folder of a run, or of a model given by name; empty for None."""
    if start is None or Path(start).is_dir():
        return start or ""
    return str(named(start, find_bundles(_bundle_folders())).folder)


def _open_bundle(model: str) -> Bundle:
    bundle = read_bundle(Path(model)) if Path(model).is_dir() else named(model, find_bundles(_bundle_folders()))
    bundle.verify()
    return bundle


def _bundle_folders() -> Sequence[Path]:
    """Return the user's folders of bundles, the same as for `producer` and `worker`."""
    return read_settings().bundle_folders


def end_on_sigterm() -> None:
    """Make SIGTERM end this process as Ctrl-C does, so that it removes the files that it is writing: gigabytes."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)


def main() -> None:
    """Run `training`."""
    end_on_sigterm()
    command_line(app, "training")
