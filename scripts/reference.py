"""Write the reference pages in docs/reference/ from the code, or check that they are up to date.

python -m scripts.reference            # write cli.md, settings.md and schema.md
python -m scripts.reference --check    # exit 1 with one line if a page is stale
"""

import ast
import enum
import io
import sys
import textwrap
import tokenize
import types
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from inspect import cleandoc, getsource
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import sqlalchemy as sa
from pydantic.fields import FieldInfo

import producer.cli
import training.cli
import worker.cli
from captioning import settings, values
from captioning.command_tree import UNLIMITED, argument_name, command_tree, summary
from captioning.environment import PREFIX
from captioning.store import captions, schema
from worker.bench import result

PROJECT = Path(__file__).parents[1]
FOLDER = PROJECT / "docs" / "reference"
NOTE = "This page is generated from the code by `make docs`. Do not edit it."
TRAIN_CONFIG_INTRO = (
    "The hyper-parameters of a run. `training train` has options for the most common ones; `--set NAME=VALUE` sets any"
    " other one."
)
WIDTH = 100  # columns, outside tables and code
PROGRAMS = {"producer": producer.cli.app, "worker": worker.cli.app, "training": training.cli.app}
COMPUTED_DEFAULTS = {"data_dir": "`captionmill` in the user's data folder (Linux: `~/.local/share`)"}
TYPE_NAMES: dict[Any, str] = {
    str: "text", int: "integer", float: "number", Path: "path", bool: "`true`, `false`", IPv4Network: "network"
}  # fmt: skip


def main(arguments: Sequence[str], folder: Path = FOLDER) -> int:
    """Write the pages to a folder, or check them there with `--check`; return the exit code."""
    pages = {"cli.md": cli_page(), "settings.md": settings_page(), "schema.md": schema_page()}
    if "--check" in arguments:
        stale = [name for name, text in pages.items() if not _is_fresh(folder / name, text)]
        if stale:
            print(f"docs/reference is stale ({', '.join(stale)}): run `make docs`.", file=sys.stderr)
        return 1 if stale else 0
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")
    return 0


def _is_fresh(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


# -- command lines --


def cli_page() -> str:
    """Return the page on the commands and options of all three programs."""
    intro = "The commands and options of `producer`, `worker` and `training`, as `--help` shows them."
    page = ["# Command line", NOTE, _wrapped(intro)]
    for program, app in PROGRAMS.items():
        page += _command(program, command_tree(app), level=2)
    page += ["## Fields of TrainConfig", _wrapped(TRAIN_CONFIG_INTRO)]
    return _joined([*page, _train_config()])


def _train_config() -> str:
    """Return a table of the hyper-parameters. The source is read, not imported: importing it would load torch."""
    source = (PROJECT / "training" / "config.py").read_text(encoding="utf-8")
    comments = _comments(source)
    rows = (
        (f"`{name}`", title, f"`{default}`", comments.get(("TrainConfig", name), ""))
        for name, default, title in _fields(source, "TrainConfig")
    )
    return _table(("field", "part", "default", "meaning"), rows)


def _command(path: str, command: Any, level: int) -> Iterator[str]:
    """Yield the Markdown blocks of a command, then those of its subcommands."""
    yield f"{'#' * level} {path}"
    yield _wrapped(cleandoc(command.help or ""))
    parameters = [p for p in command.params if p.name != "help" and not getattr(p, "hidden", False)]
    subcommands: dict[str, Any] = getattr(command, "commands", {})
    usage, example = _usage(path, parameters), (command.epilog or "").removeprefix("Example: ")
    if not subcommands or parameters:
        yield f"    {usage}"
    if parameters:
        rows = ((_names(p), _values(p), _default(p), p.help or "") for p in parameters)
        yield _table(("argument or option", "value", "default", "meaning"), rows)
    if example not in ("", usage):
        yield "For example:"
        yield f"    {example}"
    if subcommands:
        summaries = ((f"[{name}](#{path.replace(' ', '-')}-{name})", summary(c)) for name, c in subcommands.items())
        yield _table(("command", "what it does"), summaries)
    if path == "worker bench":
        yield from _bench_fields()
    for name, subcommand in subcommands.items():
        yield from _command(f"{path} {name}", subcommand, level + 1)


def _bench_fields() -> Iterator[str]:
    """Yield what `worker bench --json` prints. The comments are those of the source."""
    source = getsource(result)
    comments = _comments(source)
    yield "`--json` prints an object with these fields:"
    for shown, intro in ((result.BenchResult, ""), (result.StageResult, "Each of `stages` has:")):
        yield intro
        names = [field.name for field in fields(shown)]
        yield _table(("field", "meaning"), ((f"`{name}`", comments.get((shown.__name__, name), "")) for name in names))


def _usage(path: str, parameters: Iterable[Any]) -> str:
    options = "[OPTIONS]" if any(p.param_type_name == "option" for p in parameters) else ""
    arguments = [argument_name(p) for p in parameters if p.param_type_name == "argument"]
    return " ".join(part for part in (path, options, *arguments) if part)


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{argument_name(parameter)}`"
    return ", ".join(f"`{name}`" for name in parameter.opts)


def _values(parameter: Any) -> str:
    """Return which values a parameter takes; nothing for a flag."""
    if getattr(parameter, "is_bool_flag", False):
        return ""
    annotation = parameter.type_descriptor.annotation
    words = _type_name(annotation) + _range(parameter.min, None, parameter.max)
    return words + (", repeatable" if parameter.param_type_name == "option" and parameter.multiple else "")


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if parameter.default in (None, "", False, (), []):
        return ""
    default = parameter.default
    return f"`{default.value if isinstance(default, enum.Enum) else default}`"


# -- settings --


def settings_page() -> str:
    """Return the page on the environment variables."""
    rule = (
        "Every setting is an environment variable and has a default. Each program reads them once, when it starts."
        " A variable that is empty counts as not set."
    )
    page = ["# Settings", NOTE, _wrapped(rule)]
    sections = {name: title for name, _, title in _fields(getsource(settings), "Settings")}
    for title in dict.fromkeys(sections.values()):
        fields = [(n, f) for n, f in settings.Settings.model_fields.items() if sections[n] == title]
        rows = (
            (
                f"`{PREFIX}{n.upper()}`",
                _field_values(f.annotation, f.metadata),
                _field_default(n, f),
                f.description or "",
            )
            for n, f in fields
        )
        page += [f"## {title[:1].upper()}{title[1:]}", _table(("variable", "value", "default", "meaning"), rows)]
    return _joined(page)


def _field_values(annotation: Any, metadata: Sequence[Any]) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType) and type(None) not in arguments:
        return " or ".join(_field_values(each, ()) for each in arguments)
    if origin is Annotated:
        return _field_values(arguments[0], arguments[1].metadata)
    bounds: dict[type, Any] = {type(rule): rule for rule in metadata}
    least, above, most = (bounds.get(bound) for bound in (annotated_types.Ge, annotated_types.Gt, annotated_types.Le))
    return _type_name(annotation) + _range(least and least.ge, above and above.gt, most and most.le)


def _field_default(name: str, field: FieldInfo) -> str:
    if name in COMPUTED_DEFAULTS:
        return COMPUTED_DEFAULTS[name]
    default = field.default
    if default in (None, "", ()) or default == {}:
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


# -- tables of the database --


def schema_page() -> str:
    """Return the page on the tables, the export view and the values of their state columns."""
    intro = (
        "Times are seconds since 1970 in UTC by the database's clock. Paths are stored as bytes, which are exact, and"
        " as text for people. Tables are listed in the order of `captioning/store/schema.py`."
    )
    page = ["# Database schema", NOTE, _wrapped(intro)]
    for table in schema.Base.metadata.tables.values():
        rows = ((f"`{c.name}`", str(c.type).lower(), _constraints(c), c.comment or "") for c in table.columns)
        page += [f"## {table.name}", _wrapped(table.comment or "")]
        page += [_table(("column", "type", "key", "meaning"), rows), *_indexes(table)]
    view = schema.EXPORT_VIEW
    columns = ((f"`{c.name}`", c.comment or "") for c in view.columns)
    page += [f"## {view.name}", _wrapped(f"A view. {view.comment}"), _table(("column", "meaning"), columns)]
    page += ["## Fields of an export", *_export_fields()]
    page += ["## Values of state and reason columns", *_enumerations()]
    return _joined(page)


def _constraints(column: "sa.Column[Any]") -> str:
    words = ["primary key"] if column.primary_key else []
    words += [f"references `{key.target_fullname}`" for key in column.foreign_keys]
    words += ["unique"] if column.unique else []
    words += ["may be NULL"] if column.nullable else []
    return ", ".join(words)


def _indexes(table: Any) -> Iterator[str]:
    """Yield one paragraph on what a table is unique by and what its indexes cover, if there is anything."""
    unique = [c for c in table.constraints if isinstance(c, sa.UniqueConstraint) and len(c.columns) > 1]
    lines = [f"Unique: {_columns(c.columns)}." for c in unique]
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        where = index.dialect_options["sqlite"].get("where")
        only = f" where `{where}`" if where is not None else ""
        lines.append(f"{'Unique' if index.unique else 'Index'}: {_columns(index.columns)}{only}.")
    if lines:
        yield _wrapped(" ".join(sorted(lines, reverse=True)))


def _columns(columns: Iterable[Any]) -> str:
    return ", ".join(f"`{column.name}`" for column in columns)


def _export_fields() -> Iterator[str]:
    """Yield a sentence and a table of the fields that every export format writes."""
    yield _wrapped("`producer export` writes one row per file with these fields, in this order.")
    comments = _comments(getsource(captions))
    comments["FileRow", "path_b64"] = "the path's bytes in Base64, only where the path is not UTF-8"
    fields = (*captions.EXPORT_FIELDS, *captions.LATER_FIELDS)
    yield _table(("field", "meaning"), ((f"`{name}`", comments.get(("FileRow", name), "")) for name in fields))


def _enumerations() -> Iterator[str]:
    comments = _comments(getsource(values))
    for values_of in (values.ItemState, values.Reason, values.JobState, values.ChunkState, values.Source):
        yield f"### {values_of.__name__}"
        yield _wrapped(cleandoc(values_of.__doc__ or ""))
        yield _table(
            ("value", "meaning"),
            ((f"`{member}`", comments.get((values_of.__name__, member.name), "")) for member in values_of),
        )


# -- reading the source --


def _comments(source: str) -> dict[tuple[str, str], str]:
    """Return the comment at the end of each attribute's line, by class and attribute."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    by_line = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    found = {}
    for node in (n for n in ast.parse(source).body if isinstance(n, ast.ClassDef)):
        for attribute in node.body:
            if isinstance(attribute, ast.AnnAssign | ast.Assign):
                target = attribute.target if isinstance(attribute, ast.AnnAssign) else attribute.targets[0]
                if isinstance(target, ast.Name) and attribute.end_lineno in by_line:
                    found[node.name, target.id] = by_line[attribute.end_lineno]
    return found


def _fields(source: str, class_name: str) -> list[tuple[str, str, str]]:
    """Return the fields of a class: name, default as it is written, and title of the section in which it is.

    A section begins with a comment such as `# -- limits --`.
    """
    lines = enumerate(source.splitlines(), start=1)
    titles = {number: line.strip(" #-") for number, line in lines if line.startswith("    # -- ")}
    (node,) = (n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == class_name)
    return [
        (field.target.id, ast.unparse(field.value), next(titles[n] for n in reversed(titles) if n < field.lineno))
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.value is not None
    ]


def _type_name(annotation: Any) -> str:
    """Return the name of a type for people; the choices of a Literal or an Enum."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return _type_name(next(a for a in arguments if a is not type(None)))
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return ", ".join(f"`{member.value}`" for member in annotation)
    if origin in (list, tuple):
        return _type_name(arguments[0]) + ("s" if origin is tuple else "")
    return "`name=path,...`" if origin is dict else TYPE_NAMES[annotation]


def _range(least: Any, above: Any, most: Any) -> str:
    """Return the bounds of a number, each after a comma."""
    is_bounded = most not in (None, UNLIMITED)
    if least is not None and is_bounded:
        return f", {_number(least)} to {_number(most)}"
    bounds = []
    if least is not None:
        bounds.append(f"at least {_number(least)}")
    elif above is not None:
        bounds.append(f"more than {_number(above)}")
    if is_bounded:
        bounds.append(f"at most {_number(most)}")
    return "".join(f", {bound}" for bound in bounds)


def _number(number: Any) -> str:
    if isinstance(number, int):
        return f"{number:,}"
    return f"{number:g}" if isinstance(number, float) else str(number)


# -- Markdown --


def _joined(blocks: Iterable[str]) -> str:
    return "\n\n".join(block for block in blocks if block) + "\n"


def _wrapped(text: str) -> str:
    paragraphs = text.split("\n\n")
    return "\n\n".join(
        textwrap.fill(" ".join(p.split()), WIDTH, break_on_hyphens=False, break_long_words=False) for p in paragraphs
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [
        head,
        ["---"] * len(head),
        *([" ".join(value.split()).replace("|", r"\|") for value in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
