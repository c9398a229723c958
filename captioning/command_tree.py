"""The commands of a program: what all of them share, and help that fits a terminal."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from captioning import __version__

UNLIMITED = 2**31 - 1  # the largest number that the database stores as an integer; help does not mention it
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_VALUE_NAMES: dict[Any, str] = {int: "N", float: "NUMBER", str: "TEXT"}  # where an option does not name its value


def new_app(**options: Any) -> typer.Typer:
    """Return a Typer app, for a program or a group of commands. Without a command it prints its help and exits with 2.

    `options` are those of `Typer`. Help is plain text: rich's tables break words on a narrow terminal.
    """
    return typer.Typer(
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=_CONTEXT,
        callback=_help_alone,
        invoke_without_command=True,
        **options,
    )


def command_tree(app: typer.Typer) -> Any:
    """Return the root command of an app. Every command takes `--version`; only the help of the root shows it."""
    root = typer.main.get_command(app)
    for command in commands(root):
        version: Any = _version_option()
        version.help, version.hidden = "Show the version and exit.", command is not root
        command.short_help = f"{summary(command)}."
        command.params.append(version)
        for parameter in command.params:
            _name_value(parameter)
    return root


def commands(command: Any) -> Iterator[Any]:
    """Yield a command and all commands below it."""
    yield command
    for subcommand in getattr(command, "commands", {}).values():
        yield from commands(subcommand)


def summary(command: Any) -> str:
    """Return the first sentence of a command's help, without its full stop."""
    return " ".join((command.help or "").split()).split(". ")[0].rstrip(".")


def argument_name(parameter: Any) -> str:
    """Return `JOB`, `[JOB]` when it may be left out, `[PATH]...` when there may be several."""
    name = str(parameter.metavar or parameter.name.upper()).strip("[].")
    return (name if parameter.required else f"[{name}]") + ("..." if parameter.nargs == -1 else "")


def _help_alone(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise SystemExit(2)


def _name_value(parameter: Any) -> None:
    """Name the value of a parameter in its help, and leave out the bounds of a number that hardly anybody meets."""
    if getattr(parameter, "max", None) == UNLIMITED:
        parameter.max = None  # of the help; the annotation checks the value
    descriptor = parameter.type_descriptor
    if parameter.param_type_name == "argument":
        parameter.display_type_rich = lambda **_: ""  # an argument has a name, which says enough
        parameter.get_usage_pieces = lambda _: [argument_name(parameter)]
    elif parameter.metavar is None and not descriptor.is_choice and not parameter.is_flag:
        kind = str if descriptor.is_list else descriptor.annotation
        parameter.metavar = "PATH" if descriptor.is_path else _VALUE_NAMES.get(kind)


def _version_option() -> Any:
    """Return the option `--version`. Typer makes options only from the parameters of functions."""

    def only(
        version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
    ) -> None:
        """Do nothing."""

    app = typer.Typer(add_completion=False)
    app.command()(only)
    (option,) = typer.main.get_command(app).params
    option.expose_value = False
    return option


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"captionmill {__version__}")
        raise SystemExit
