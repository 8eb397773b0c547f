"""What a part found, written after each measurement, so that a part that is stopped keeps what it has."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One measurement: what, how much, and where there is one its goal and whether that was met."""

    what: str
    found: str
    goal: str = ""
    met: bool | None = None


@dataclass
class Results:
    """The rows of one part in a JSON file.

    Attributes:
        path: The file.
        rows: What was found, in order.
        details: Whatever else is worth keeping, such as curves.
        ended: How the part ended: `done`, or why it did not; empty while it is at work.
    """

    path: Path
    rows: list[Row] = field(default_factory=list)
    details: dict[str, object] = field(default_factory=dict)
    ended: str = ""

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read a file; empty where there is none."""
        if not path.exists():
            return cls(path)
        stored = json.loads(path.read_text(encoding="utf-8"))
        return cls(path, [Row(**row) for row in stored["rows"]], stored["details"], stored["ended"])

    def add(self, what: str, found: str, goal: str = "", met: bool | None = None) -> None:
        """Print and keep a measurement."""
        row = Row(what, found, goal, met)
        verdict = f" (goal {goal}: {'met' if met else 'MISSED'})" if goal else ""
        print(f"    {what}: {found}{verdict}", flush=True)
        self.rows.append(row)
        self.save()

    def end(self, how: str) -> None:
        """Say how the part ended."""
        self.ended = how
        self.save()

    def save(self) -> None:
        """Write the file, whole."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        stored = {"rows": [asdict(row) for row in self.rows], "details": self.details, "ended": self.ended}
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
        partial.replace(self.path)


def write_table(parts: dict[str, Results], path: Path) -> str:
    """Write all parts as one table in Markdown, missed goals in bold; returns its text."""
    lines = ["| part | what | found | goal |", "|---|---|---|---|"]
    for name, results in parts.items():
        for row in results.rows:
            goal = row.goal if row.met is not False else f"**{row.goal}: missed**"
            lines.append(f"| {name} | {row.what} | {row.found} | {goal} |")
        if results.ended != "done":
            lines.append(f"| {name} | | {results.ended or 'not run'} | |")
    text = "\n".join(lines) + "\n"
    path.write_text(text, encoding="utf-8")
    return text
