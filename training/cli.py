"""The words of `training` on the command line, nothing else."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from captioning.bundles import Bundle, find_bundles, named, read_bundle
from captioning.calibration import calibration_of
from captioning.cli import command_line
from captioning.settings import read_settings
from captioning.values import DecodeOptions

app = typer.Typer(
    help="Build and judge caption models from captioned images (Flickr8k, or a folder made like it).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Data = Annotated[Path, typer.Option(help="Folder with captions (captions.txt, Flickr8k.token.txt or dataset*.json) and Images/.")]  # fmt: skip  # noqa: E501
Run = Annotated[Path, typer.Option(help="Folder for checkpoints, the log and the result.")]
Encoder = Annotated[Path, typer.Option(help="A run that tuned one, a model, a ResNet50 safetensors file, imagenet-v1 or imagenet-v2.")]  # fmt: skip  # noqa: E501
StrideOf = Annotated[str | None, typer.Option("--stride", help="Where a bare file has its stride: 1x1 or 3x3.")]
Cache = Annotated[Path, typer.Option(help="Folder for cached features (2.4 GB a view of Flickr8k for a tuned encoder, 1.2 GB for a frozen one).")]  # fmt: skip  # noqa: E501
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint of this run.")]
Seed = Annotated[int, typer.Option(help="Of weights, order and dropout.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 takes all cores.")]
Model = Annotated[str, typer.Argument(help="Name of a model at hand, or the folder of a bundle.")]
Setting = Annotated[list[str] | None, typer.Option("--set", help="Any other field of TrainConfig, as name=value; may be repeated.")]  # fmt: skip  # noqa: E501


@app.command(epilog="Example: training fetch flickr8k -o flickr8k")
def fetch(
    what: Annotated[str, typer.Argument(help="flickr8k, imagenet-v1 or imagenet-v2.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to put it in.")],
) -> None:
    """Download a corpus or an encoder, where there is internet; check it and unpack it."""
    from training.data.download import fetch as fetch_it

    typer.echo(fetch_it(what, output))


@app.command(epilog="Example: training train --data flickr8k --encoder runs/encoder --cell gru --run runs/gru")
def train(
    data: Data, encoder: Encoder, run: Run, stride: StrideOf = None, cache: Cache = Path("cache"),
    origin: Annotated[str | None, typer.Option(help="Where a bare encoder file is from, for the model card.")] = None,
    resume: Resume = False, seed: Seed = 1, threads: Threads = 0,
    cell: Annotated[str, typer.Option(help="lstm, gru, or both on one encoder: lstm,gru.")] = "lstm",
    kind: Annotated[str, typer.Option(help="plain, attention or updown.")] = "attention",
    hidden: Annotated[int, typer.Option(min=8, help="Size of the recurrent state.")] = 512,
    epochs: Annotated[int, typer.Option(min=0, help="Passes over the images, learning the next word.")] = 10,
    scst_epochs: Annotated[int, typer.Option(min=0, help="Passes of self-critical training after them.")] = 0,
    learning_rate: Annotated[float, typer.Option(help="Peak of AdamW for the decoder.")] = 1e-3,
    tune_encoder: Annotated[float, typer.Option(help="Peak for stage 5 of the encoder, 1e-4 say; 0 leaves it.")] = 0.0,
    patience: Annotated[int, typer.Option(min=0, help="Epochs without a better CIDEr that end a phase; 0: never.")] = 4,
    start: Annotated[str | None, typer.Option(help="A run or model whose decoders and words are trained on.")] = None,
    devices: Annotated[int, typer.Option(min=1, help="GPUs (or processes without one) that share each batch.")] = 1,
    settings: Setting = None,
) -> None:  # fmt: skip
    """Train a decoder, or several, on an encoder that stays as it is or learns too."""
    from training.config import TrainConfig, with_settings
    from training.data.encoders import open_encoder
    from training.fit.train import run_training

    config = TrainConfig(
        cells=tuple(cell.split(",")), kind=kind, hidden_size=hidden, epochs=epochs, scst_epochs=scst_epochs,  # type: ignore[arg-type]
        learning_rate=learning_rate, encoder_learning_rate=tune_encoder, seed=seed, threads=threads,
        patience=patience, start=_started(start),
    )  # fmt: skip
    config = with_settings(config, settings or ())
    file = open_encoder(encoder, stride, cache, _folders(), origin)
    about = run_training(data, file, config, run, cache, resume=resume, devices=devices)
    if about:
        typer.echo(f"best epoch {about['best_epoch']}: {json.dumps(about['val'])}")
        words = "" if config.encoder_learning_rate else f" --encoder {file.name}"
        words += " --cell " + " or ".join(config.cells) if len(config.cells) > 1 else ""
        typer.echo(f"next: training export --run {run}{words} --name NAME -o FOLDER --data {data} --cache {cache}")


@app.command(epilog="Example: training tune --data flickr8k --encoder runs/encoder --run runs/tune --trials 30")
def tune(
    data: Data, encoder: Encoder, run: Run, stride: StrideOf = None, cache: Cache = Path("cache"),
    cell: Annotated[str, typer.Option(help="lstm or gru.")] = "lstm",
    kind: Annotated[str, typer.Option(help="plain, attention or updown.")] = "attention",
    trials: Annotated[int, typer.Option(min=1, help="Trainings in all, those of earlier calls included.")] = 20,
    epochs: Annotated[int, typer.Option(min=1, help="Of each trial.")] = 5,
    seed: Seed = 1, threads: Threads = 0, settings: Setting = None,
) -> None:  # fmt: skip
    """Search learning rate, optimizer and sizes with Optuna; the same words, with more --trials, go on."""
    from training.config import TrainConfig, with_settings
    from training.data.encoders import open_encoder
    from training.fit.tune import search

    config = TrainConfig(cells=(cell,), kind=kind, epochs=epochs, seed=seed, threads=threads)  # type: ignore[arg-type]
    config = with_settings(config, settings or ())
    best = search(data, open_encoder(encoder, stride, cache, _folders()), config, run, cache, trials)
    typer.echo(json.dumps(best))


@app.command(epilog="Example: training evaluate flickr8k-lstm --data flickr8k")
def evaluate(
    model: Model, data: Data, cache: Cache = Path("cache"),
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    beam_size: Annotated[int, typer.Option(min=1, max=20, help="BeamResult kept in parallel; 1 is greedy.")] = 3,
    spice: Annotated[bool, typer.Option("--spice", help="SPICE too: Java, and 384 MB at its first run.")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write every caption here, as JSONL.")] = None,
) -> None:  # fmt: skip
    """Score a bundle: BLEU-1..4, METEOR (with Java), ROUGE-L, CIDEr-D, habits, calibration; free-running."""
    from training.evaluate.fit_calibration import reliability
    from training.evaluate.metrics import check_spice
    from training.evaluate.score_bundle import evaluate_bundle, habits_of
    from training.fit.train import open_corpus

    if split not in ("train", "val", "test"):
        raise typer.BadParameter(f"--split is train, val or test, not {split!r}")
    if spice:
        check_spice()
    bundle = _bundle(model)
    corpus = open_corpus(data, cache)
    options = DecodeOptions(beam_size=beam_size)
    with _progress("captioning") as tick:
        scores, said = evaluate_bundle(bundle, corpus, split, options, spice=spice, tick=tick)
    if output is not None:
        lines = [{"image": n, "caption": c.text, "confidence": c.confidence} for n, c in said.items()]
        output.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    errors = reliability(said, corpus.captions, calibration_of(bundle.description))
    told = {"model": bundle.name, "split": split, "beam_size": beam_size, **scores}
    typer.echo(json.dumps(told | {"habits": habits_of(said, corpus), "confidence": errors}))


@app.command(epilog="Example: training compare --data flickr8k --encoder runs/encoder --run runs/compare --seeds 5")
def compare(
    data: Data, encoder: Encoder, run: Run, stride: StrideOf = None, cache: Cache = Path("cache"),
    quick: Annotated[bool, typer.Option("--quick", help="A subset, two seeds, few epochs: proves nothing.")] = False,
    seeds: Annotated[int, typer.Option(min=2, help="Trainings of each decoder.")] = 5,
    epochs: Annotated[int, typer.Option(min=2, help="Of each training.")] = 5,
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at once, which divide the cores.")] = 1,
    show: Annotated[Path | None, typer.Option(help="Folder of images to show instead of the corpus's.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The report, if not RUN/report.html.")] = None,
) -> None:  # fmt: skip
    """Ask which decoder is better, LSTM or GRU, fairly; write one HTML report. The same words go on."""
    from training.compare.report import images_in, write_report
    from training.compare.study import QUICK, Plan
    from training.compare.study import compare as compare_them
    from training.data.encoders import open_encoder

    if show is not None:
        images_in(show)  # better now than after hours
    plan = QUICK if quick else Plan(seeds=seeds, epochs=epochs)
    found = compare_them(data, open_encoder(encoder, stride, cache, _folders()), run, cache, plan, jobs)
    path = write_report(found, output or run / "report.html", show)
    typer.echo(f"{found.answer}\nreport: {path}")


@app.command(epilog="Example: training export --run runs/gru --encoder runs/encoder --name flickr8k-gru -o bundles")
def export(
    run: Run,
    name: Annotated[str, typer.Option(help="What the model will be called.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to make the bundle in.")],
    encoder: Annotated[Path | None, typer.Option(help="What the run was trained on, if not its own.")] = None,
    cell: Annotated[str | None, typer.Option(help="Which decoder of the run, if it has several.")] = None,
    stride: StrideOf = None,
    cache: Cache = Path("cache"),
    data: Annotated[Path | None, typer.Option(help="Score and calibrate the bundle itself on this corpus.")] = None,
) -> None:  # fmt: skip
    """Make a bundle of a finished run: int8 weights, digests, calibration, a model card."""
    from training.data.encoders import open_encoder
    from training.export.write_bundle import export_bundle

    file = open_encoder(encoder or run, stride, cache, _folders())
    with _progress("captioning") as tick:
        bundle = export_bundle(run, file, name, output, cell=cell, data=data, cache=cache, tick=tick)
    typer.echo(f"{bundle.folder}: model {bundle.name}, digest {bundle.digest[:16]}")


@app.command(epilog="Example: training calibrate bundles/my-gru --data images")
def calibrate(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")], data: Data, cache: Cache = Path("cache")
) -> None:  # fmt: skip
    """Score a bundle on a corpus and make its confidence mean what it says there; it gets a new digest."""
    from training.export.write_bundle import calibrate_bundle

    read_bundle(bundle).verify()
    with _progress("captioning") as tick:
        done = calibrate_bundle(bundle, data, cache, tick)
    typer.echo(f"{done.folder}: model {done.name}, digest {done.digest[:16]}")


@app.command(epilog="Example: training info flickr8k-lstm")
def info(model: Model) -> None:
    """Print what a bundle says of itself, as JSON: sizes, scores, origin, the digest of its images' ids."""
    bundle = _bundle(model)
    typer.echo(json.dumps({"digest": bundle.digest, "folder": str(bundle.folder), **bundle.card}, indent=1))


def _started(start: str | None) -> str:
    """Return the folder of a run or of a model."""
    if start is None or Path(start).is_dir():
        return start or ""
    return str(named(start, find_bundles(_folders())).folder)


def _bundle(model: str) -> Bundle:
    bundle = read_bundle(Path(model)) if Path(model).is_dir() else named(model, find_bundles(_folders()))
    bundle.verify()
    return bundle


def _folders() -> Sequence[Path]:
    """Return where the user keeps bundles, as `producer` and `worker` see them."""
    return read_settings().bundle_folders


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task: Any = progress.add_task(what, total=None)
        yield lambda done, of: progress.update(task, completed=done, total=of)


def main() -> None:
    """Run `training`."""
    command_line(app, "training")
