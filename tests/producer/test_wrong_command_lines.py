"""Wrong command lines of all commands, and odd values: one line, the right exit code, never a traceback.

The commands and options are read from the programs, so a new one is tried too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import producer.cli
import training.cli
import worker.cli
from captioning.command_tree import command_tree
from tests.journeys.cli_runner import CliResult, CliRunner

APPS = {"producer": producer.cli.app, "worker": worker.cli.app, "training": training.cli.app}
BLOCKING = {"--wait", "--watch"}  # with these a command may wait for a worker
ENDLESS = {"review", "watch"}  # commands that run until somebody ends them
NUMBERS = ("many", "", "1.5.2", "0x10", "1,2", "\udcff", "-", "1 2", "\n")
CHOICES = ("nothing", "", "\udcff", "a\nb", "?" * 5000)
ODD_NUMBERS = (
    "0",
    "-1",
    "1",
    "2",
    "2147483647",
    "2147483648",
    str(2**40),
    str(2**70),
    "nan",
    "inf",
    "1e400",
    "-0.0",
    "",
)
ODD_TEXTS = (
    "", " ", ".", "..", "/no/such/folder", "x" * 300, "x/" * 3000, "\n", "a\nb", "\udcff", "\udcff/\udc80", "\x1b[2J",
    "-", "--", "*", "[", "(", "'", '"', '"a b', "%s", "{}", "\\", "~nobody/x", "nul", "a\x7fb", "é", "e\u0301",
    "\udced\udca0\udcbd", "-dog", "NEAR", "dog OR cat", "\u202e", "models/none", "file:///etc", "/dev/null", "1",
)  # fmt: skip


@dataclass(frozen=True)
class Leaf:
    """A command, and the words that call it."""

    words: tuple[str, ...]
    command: Any

    def __str__(self) -> str:
        return " ".join(self.words)

    @property
    def parameters(self) -> list[Any]:
        return [p for p in self.command.params if not p.is_eager and "completion" not in p.name]

    @property
    def subcommands(self) -> dict[str, Any]:
        return dict(getattr(self.command, "commands", {}))


def leaves(words: tuple[str, ...], command: Any) -> Iterator[Leaf]:
    yield Leaf(words, command)
    for name, subcommand in getattr(command, "commands", {}).items():
        yield from leaves((*words, name), subcommand)


LEAVES = [leaf for program, app in APPS.items() for leaf in leaves((program,), command_tree(app))]
OF_THE_PRODUCER = [
    leaf for leaf in LEAVES if leaf.words[0] == "producer" and not leaf.subcommands and leaf.words[1] not in ENDLESS
]


def is_number(parameter: Any) -> bool:
    return any(name in str(parameter.type_descriptor.annotation) for name in ("int", "float"))


def mistakes(leaf: Leaf) -> Iterator[list[str]]:
    """Yield command lines that are wrong in one way each."""
    yield [*leaf.words, "--no-such-option"]
    yield [*leaf.words, "-Q"]
    if leaf.subcommands:
        yield [*leaf.words, "no-such-command"]
        yield [*leaf.words, "\udcff\n"]
    arguments = [p for p in leaf.parameters if p.param_type_name == "argument"]
    if not leaf.subcommands and all(p.nargs == 1 for p in arguments):
        yield [*leaf.words, *("1" for _ in arguments), "too", "many"]
    if not leaf.subcommands and any(p.required for p in leaf.parameters):
        yield [*leaf.words]
    for parameter in leaf.parameters:
        name = [parameter.opts[-1]] if parameter.param_type_name == "option" else []
        if name and parameter.is_flag:
            yield [*leaf.words, f"{name[0]}=yes"]
        elif name:
            yield [*leaf.words, *name]
        values = NUMBERS if is_number(parameter) else CHOICES if parameter.type_descriptor.is_choice else ()
        yield from ([*leaf.words, *name, value] for value in values)


@st.composite
def odd_lines(draw: st.DrawFn) -> list[str]:
    """Draw a command line of the producer with odd values for some of its options and for its arguments."""
    leaf = draw(st.sampled_from(OF_THE_PRODUCER))
    line = list(leaf.words)
    for parameter in leaf.parameters:
        values = st.sampled_from(ODD_NUMBERS) if is_number(parameter) else st.sampled_from(ODD_TEXTS)
        if parameter.type_descriptor.is_choice:
            values = st.sampled_from([getattr(c, "value", c) for c in parameter.type_descriptor.choices])
        if parameter.param_type_name == "argument":
            line += draw(st.lists(values, min_size=int(parameter.required), max_size=1 if parameter.nargs == 1 else 3))
        elif not BLOCKING & set(parameter.opts) and draw(st.booleans()):
            line += [parameter.opts[-1]] if parameter.is_flag else [parameter.opts[-1], draw(values)]
    return line


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory, photographs: Path) -> CliRunner:
    """The programs, with a job that no worker takes."""
    folder = tmp_path_factory.mktemp("wrong")
    environment = {"CAPTIONING_BROKER_URL": "redis+socket:///none", "HOME": str(folder)}
    runner = CliRunner(folder / "data", environment, in_process=True)
    assert runner.producer("submit", str(photographs)).code == 0
    return runner


def run(cli: CliRunner, line: list[str]) -> CliResult:
    program, *words = line
    folder = cli.data.parent / "cwd"
    folder.mkdir(exist_ok=True)
    return cli.run(program, *words, cwd=folder)


def check(line: list[str], result: CliResult) -> None:
    """An error is one line of the program, and never a bug of ours."""
    assert "Traceback" not in result.err
    assert "internal error" not in result.err
    if result.code in (1, 2) and result.err:
        assert result.err.count("\n") == 1, result.err
        assert result.err.startswith(f"{line[0]}: ")


@pytest.mark.parametrize("leaf", LEAVES, ids=str)
def test_a_wrong_command_line_gets_one_line_and_exit_code_2(cli: CliRunner, leaf: Leaf) -> None:
    for line in mistakes(leaf):
        result = run(cli, line)
        assert result.code == 2, (line, result)
        assert result.out == ""
        assert result.err
        check(line, result)


@settings(max_examples=max(200, settings.default.max_examples))
@given(line=odd_lines())
def test_odd_values_are_used_or_refused_in_one_line(cli: CliRunner, line: list[str]) -> None:
    result = run(cli, line)
    assert result.code in (0, 1, 2, 3)
    check(line, result)
