"""The table of fault scenarios: what was broken, whether the invariants held, and how long the recovery took."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

BEGIN, END = "<!-- scenarios -->", "<!-- end of scenarios -->"
GROUPS = "PWMBDTXG"
"""Producer, worker, messages, broker, database, time, images, device: the order of the table."""


@dataclass
class Row:
    what: str
    rounds: dict[int, tuple[bool, float]] = field(default_factory=dict)  # passed, and seconds until recovery


@dataclass
class Table:
    """Collect pytest's reports, so that scenarios may run in several processes, and write the table."""

    path: Path
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        scenario = dict(report.user_properties).get("scenario")
        if report.when == "call" and isinstance(scenario, list) and not report.skipped:
            name, what, store, round_, seconds = scenario
            self.rows.setdefault((name, store), Row(what)).rounds[round_] = (report.passed, seconds)

    def lines(self) -> list[str]:
        """Return the table as Markdown."""
        head = [
            "| scenario | what is broken, and when | store | passed | recovered after, s |",
            "|---|---|---|---|---|",
        ]
        rows = sorted(self.rows.items(), key=lambda row: (GROUPS.index(row[0][0][0]), _number(row[0][0]), row[0]))
        return head + [f"| {' | '.join((name, row.what, store, *_results(row)))} |" for (name, store), row in rows]

    def pytest_sessionfinish(self) -> None:
        """Replace the last table on its page."""
        text = self.path.read_text() if self.path.exists() else f"# Faults\n\n{BEGIN}\n{END}\n"
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        self.path.write_text(f"{before}{BEGIN}\n" + "\n".join(self.lines()) + f"\n{END}{after}")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for line in ["", *self.lines()]:
            terminalreporter.write_line(line)


def _number(name: str) -> int:
    return int("".join(c for c in name if c.isdigit()) or 0)


def _results(row: Row) -> tuple[str, str]:
    rounds = [row.rounds[n] for n in sorted(row.rounds)]
    passed = ", ".join("yes" if passed else "**NO**" for passed, _ in rounds)
    return passed, ", ".join(f"{seconds:.1f}" for _, seconds in rounds)
