"""Rows of a measurement, printed and written at once, so that a run that is cut keeps those that it has."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HEADER = "| | measured | goal | of the goal | |\n|---|---|---|---|---|\n"


@dataclass(frozen=True)
class Row:
    """One figure. More is better, except where `at_most`."""

    name: str
    value: float | None  # None: not measured, and the note says why
    unit: str = ""
    goal: float | None = None
    at_most: bool = False
    note: str = ""

    @property
    def share(self) -> float | None:
        """How much of the goal is reached; 1 and more: all of it."""
        if self.value is None or self.goal is None or not self.value:
            return None
        return self.goal / self.value if self.at_most else self.value / self.goal

    def to_markdown(self) -> str:
        """Return the row of a table."""
        value = "-" if self.value is None else f"{self.value:,.4g} {self.unit}"
        goal = "" if self.goal is None else f"{'<=' if self.at_most else '>='} {self.goal:,.4g}"
        share = "" if self.share is None else f"{self.share:.2f}"
        return f"| {self.name} | {value} | {goal} | {share} | {self.note} |"


@dataclass
class Report:
    """The rows so far, in a folder as `gpu.json` and `gpu.md`. After `seconds` only what has begun is finished."""

    folder: Path
    machine: dict[str, str]
    seconds: float
    row_seconds: float  # that a rate is measured
    rows: list[Row] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)

    def add(self, row: Row) -> None:
        """Print a row, and write all rows."""
        self.rows.append(row)
        print(f"{time.monotonic() - self._began:6.1f} s  {row.to_markdown()}", flush=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        document = {"machine": self.machine, "rows": [asdict(row) | {"share": row.share} for row in self.rows]}
        (self.folder / "gpu.json").write_text(json.dumps(document, indent=1))
        machine = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        table = "".join(f"{row.to_markdown()}\n" for row in self.rows)
        (self.folder / "gpu.md").write_text(f"{machine}\n\n{HEADER}{table}")

    def measure(self, name: str, value: Callable[[], float], unit: str = "images/s", **more: Any) -> None:
        """Add a row, or the reason why it cannot be measured."""
        self.attempt(name, lambda: self.add(Row(name, value(), unit, **more)))

    def attempt(self, name: str, run: Callable[[], object]) -> None:
        """Run a part of the measurement. What ends it early becomes a row: the others are wanted all the same."""
        try:
            if time.monotonic() - self._began > self.seconds:
                raise TimeoutError("no time left")
            run()
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0].replace("|", "/")
            self.add(Row(name, None, note=f"{type(error).__name__}: {reason}"))
