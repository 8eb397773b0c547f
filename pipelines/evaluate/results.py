"""The results of an evaluation: a table on the terminal, CSV, JSON, figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines.shared.messages import print_line
from pipelines.shared.tables import Column, print_table
from wsi_stain import __version__
from wsi_stain.core.journal import file_digest, write_json
from wsi_stain.core.text import write_table
from wsi_stain.evaluation.intervals import Estimate

Rows = Mapping[str, Mapping[str, float]]
"""By method, its scores by name."""


def print_scores(rows: Rows, headings: Mapping[str, str], console: Console) -> None:
    """Print a table, a line a method.

    Args:
        rows: The scores.
        headings: Which of them to show, and under which heading; columns without any value are left out.
        console: Where to.
    """
    visible = {name: text for name, text in headings.items() if any(_text(row.get(name)) for row in rows.values())}
    columns = [Column("method"), *(Column(text, number=True, rank=rank) for rank, text in enumerate(visible.values()))]
    lines = [[method, *(_text(row.get(name)) for name in visible)] for method, row in rows.items()]
    print_table(columns, lines, console)


def write_scores(path: Path, rows: Rows) -> None:
    """Write the scores as CSV, a row a method."""
    names = list(next(iter(rows.values())))
    write_table(
        path, ["method", *names], [[method, *(_cell(row[name]) for name in names)] for method, row in rows.items()]
    )


def write_record(
    path: Path, rows: Mapping[str, Any], facts: Mapping[str, Any], slides: Sequence[Mapping[str, Any]]
) -> None:
    """Write everything as JSON: what was compared, the scores, and those of each slide."""
    write_json(path, {"version": __version__, **facts, "methods": _plain(rows), "slides": _plain(slides)})


def describe_estimate(estimate: Estimate | None) -> str:
    """Return a score with its interval, for a table; nothing where there is none."""
    return "" if estimate is None else f"{estimate.value:.3f} ({estimate.low:.2f}-{estimate.high:.2f})"


def write_estimates(path: Path, estimates: Mapping[str, Mapping[str, Estimate]]) -> None:
    """Write scores with their intervals as CSV, a row for each score of each method."""
    rows = [
        [method, name, *(_cell(value) for value in estimate)]
        for method, scores in estimates.items()
        for name, estimate in scores.items()
    ]
    write_table(path, ["method", "score", *Estimate._fields], rows)


def checkpoint_facts(path: Path | None) -> dict[str, str] | None:
    """Return the name and SHA-256 of the checkpoint that was compared; None where there was none."""
    return {"file": path.name, "sha256": file_digest(path)} if path else None


def print_files(out: Path, console: Console) -> None:
    """Print where everything lies."""
    names = sorted(path.name for path in out.iterdir() if path.suffix in (".csv", ".json", ".png"))
    print_line(console, f"{out}: {', '.join(names)}")


def _text(value: float | None) -> str:
    if value is None or math.isnan(value):
        return ""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _cell(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _plain(value: Any) -> Any:
    """Convert values to what JSON knows: rounded, and null for what is no number."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return _cell(value) if isinstance(value, float) else value
