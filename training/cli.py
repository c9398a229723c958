"""The words of `training` on the command line, nothing else."""

import json
from pathlib import Path
from typing import Annotated

import typer

from captioning.bundles import find_bundles, named, read_bundle
from captioning.commands import command_line
from training.config import TrainConfig

app = typer.Typer(
    help="Build and judge caption models from captioned pictures (Flickr8k, or a folder made like it).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Data = Annotated[Path, typer.Option(help="Folder with captions.txt or Flickr8k.token.txt and Images/.")]
Run = Annotated[Path, typer.Option(help="Folder for checkpoints, the log and the result.")]
Encoder = Annotated[Path, typer.Option(help="Folder of `training tune`, a ResNet50 safetensors file, or imagenet.")]
StrideOf = Annotated[str | None, typer.Option("--stride", help="Where a bare file has its stride: 1x1 or 3x3.")]
Cache = Annotated[Path, typer.Option(help="Folder for cached features (5 GB for tune, 2.5 GB for train).")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint of this run.")]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over the training pictures.")]
Seed = Annotated[int, typer.Option(help="Of weights, order and dropout.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 takes all cores.")]


@app.command(epilog="Example: training tune --data flickr8k --encoder imagenet --run runs/encoder")
def tune(
    data: Data, encoder: Encoder, run: Run, stride: StrideOf = None, cache: Cache = Path("cache"),
    resume: Resume = False, epochs: Epochs = 9, seed: Seed = 1, threads: Threads = 0,
    learning_rate: Annotated[float, typer.Option(help="Peak for stage 5; the decoder has its own.")] = 1e-4,
) -> None:  # fmt: skip
    """Fine-tune stage 5 of an encoder, together with an LSTM that is thrown away."""
    config = TrainConfig(epochs=epochs, seed=seed, threads=threads, encoder_learning_rate=learning_rate, encoder_rest=1)
    _run(data, encoder, stride, config, run, cache, resume)
    typer.echo(f"the tuned encoder is in {run}; next: training train --encoder {run} --data {data} --run ...")


@app.command(epilog="Example: training train --data flickr8k --encoder runs/encoder --cell gru --run runs/gru")
def train(
    data: Data, encoder: Encoder, run: Run, stride: StrideOf = None, cache: Cache = Path("cache"),
    resume: Resume = False, epochs: Epochs = 12, seed: Seed = 1, threads: Threads = 0,
    cell: Annotated[str, typer.Option(help="lstm or gru.")] = "lstm",
    hidden: Annotated[int, typer.Option(min=8, help="Size of the recurrent state.")] = 512,
) -> None:  # fmt: skip
    """Train a decoder on an encoder that stays as it is."""
    if cell not in ("lstm", "gru"):
        raise typer.BadParameter(f"--cell is lstm or gru, not {cell!r}")
    config = TrainConfig(
        cell="lstm" if cell == "lstm" else "gru", epochs=epochs, seed=seed, threads=threads, hidden_size=hidden
    )
    _run(data, encoder, stride, config, run, cache, resume)
    typer.echo(f"next: training export --run {run} --encoder {encoder} --name NAME -o FOLDER")


def _run(
    data: Path, encoder: Path, stride: str | None, config: TrainConfig, run: Path, cache: Path, resume: bool
) -> None:
    from training.encoders import open_encoder  # loads torch; help must not
    from training.runs import run_training

    about = run_training(data, open_encoder(encoder, stride, cache), config, run, cache, resume=resume)
    typer.echo(f"best epoch {about['best_epoch']}: {json.dumps(about['val'])}")


@app.command(epilog="Example: training evaluate flickr8k-lstm --data flickr8k")
def evaluate(
    model: Annotated[str, typer.Argument(help="Name of a model at hand, or the folder of a bundle.")],
    data: Data,
    cache: Cache = Path("cache"),
) -> None:
    """Score a bundle on the val pictures: BLEU-1..4, ROUGE-L, CIDEr, free-running with beam 3."""
    from training.runs import evaluate_bundle

    bundle = read_bundle(Path(model)) if Path(model).is_dir() else named(model, find_bundles())
    bundle.verify()
    typer.echo(json.dumps({"model": bundle.name, **evaluate_bundle(bundle, data, cache)}))


@app.command(epilog="Example: training export --run runs/gru --encoder runs/encoder --name flickr8k-gru -o bundles")
def export(
    run: Run,
    encoder: Encoder,
    name: Annotated[str, typer.Option(help="What the model will be called.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to make the bundle in.")],
    stride: StrideOf = None,
    cache: Cache = Path("cache"),
    data: Annotated[Path | None, typer.Option(help="Score the bundle itself on this corpus, for its card.")] = None,
) -> None:
    """Make a bundle of a finished run: int8 weights, digests, a model card."""
    from training.encoders import open_encoder
    from training.export import export_bundle

    bundle = export_bundle(run, open_encoder(encoder, stride, cache), name, output, data, cache)
    typer.echo(f"{bundle.folder}: model {bundle.name}, digest {bundle.digest[:16]}")


@app.command(epilog="Example: training info flickr8k-lstm")
def info(model: Annotated[str, typer.Argument(help="Name of a model at hand, or the folder of a bundle.")]) -> None:
    """Print what a bundle says of itself, as JSON."""
    bundle = read_bundle(Path(model)) if Path(model).is_dir() else named(model, find_bundles())
    typer.echo(json.dumps({"digest": bundle.digest, "folder": str(bundle.folder), **bundle.card}, indent=1))


def main() -> None:
    """Run `training`."""
    command_line(app, "training")
