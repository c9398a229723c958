"""The command line of `producer`: the commands are in `producer.commands`, imported in the order of the help."""

# ruff: noqa: F401, I001
from captioning.cli import command_line
from producer.commands import submit, watch, jobs, captions, similar, gallery, review, export, edits, upkeep
from producer.commands.shared import app, db_app

app.add_typer(db_app, name="db")


def main() -> None:
    """Run `producer`."""
    command_line(app, "producer")
