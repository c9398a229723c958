"""The table of the fault matrix: what was broken, whether all held, and how long recovering took."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

BEGIN, END = "<!-- cells -->", "<!-- end of cells -->"
GROUPS = "PWMBDTXG"
"""Producer, worker, messages, broker, database, time, images, device: the order of the table."""


@dataclass
class Row:
    what: str
    rounds: dict[int, tuple[bool, float]] = field(default_factory=dict)  # held, and recovered after how many seconds


@dataclass
class Table:
    """Made from pytest's reports, so that cells may run in several processes."""

    path: Path
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        cell = dict(report.user_properties).get("cell")
        if report.when == "call" and isinstance(cell, list) and not report.skipped:
            name, what, store, round_, seconds = cell
            self.rows.setdefault((name, store), Row(what)).rounds[round_] = (report.passed, seconds)

    def lines(self) -> list[str]:
        """Return the table as Markdown."""
        head = ["| cell | what is broken, and when | store | held | recovered after, s |", "|---|---|---|---|---|"]
        rows = sorted(self.rows.items(), key=lambda row: (GROUPS.index(row[0][0][0]), _number(row[0][0]), row[0]))
        return head + [f"| {' | '.join((name, row.what, store, *_words(row)))} |" for (name, store), row in rows]

    def pytest_sessionfinish(self) -> None:
        """Put the table into its page, in place of the last one."""
        text = self.path.read_text() if self.path.exists() else f"# Faults\n\n{BEGIN}\n{END}\n"
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        self.path.write_text(f"{before}{BEGIN}\n" + "\n".join(self.lines()) + f"\n{END}{after}")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for line in ["", *self.lines()]:
            terminalreporter.write_line(line)


def _number(name: str) -> int:
    return int("".join(c for c in name if c.isdigit()) or 0)


def _words(row: Row) -> tuple[str, str]:
    rounds = [row.rounds[n] for n in sorted(row.rounds)]
    held = ", ".join("yes" if held else "**NO**" for held, _ in rounds)
    return held, ", ".join(f"{seconds:.1f}" for _, seconds in rounds)
