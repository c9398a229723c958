"""The table of the fault matrix: what was broken, whether all held, and how long recovering took."""

from dataclasses import dataclass, field
from pathlib import Path

BEGIN, END = "<!-- cells -->", "<!-- end of cells -->"


@dataclass
class Row:
    what: str
    green: list[bool] = field(default_factory=list)
    recovered: list[float] = field(default_factory=list)


@dataclass
class Table:
    """Rows by cell and store, in the order in which they ran first."""

    path: Path
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)

    def add(self, name: str, what: str, store: str, _round: int, green: bool, recovered: float, _took: float) -> None:
        row = self.rows.setdefault((name, store), Row(what))
        row.green.append(green)
        row.recovered.append(recovered)

    def lines(self) -> list[str]:
        """Return the table as Markdown."""
        head = ["| cell | what is broken, and when | store | held | recovered after, s |", "|---|---|---|---|---|"]
        return head + [
            f"| {name} | {row.what} | {store} | {' '.join('yes' if ok else '**NO**' for ok in row.green)} "
            f"| {' / '.join(f'{seconds:.1f}' for seconds in row.recovered)} |"
            for (name, store), row in self.rows.items()
        ]

    def write(self) -> None:
        """Put the table into its page, in place of the last one."""
        text = self.path.read_text() if self.path.exists() else f"# Faults\n\n{BEGIN}\n{END}\n"
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        self.path.write_text(f"{before}{BEGIN}\n" + "\n".join(self.lines()) + f"\n{END}{after}")
