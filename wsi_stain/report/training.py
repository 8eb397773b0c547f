"""Results of a training on the page: its table of epochs and its panels."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_stain.report.charts import Chart, Point, Series, chart

_METHODS = ("perturbed", "clean", "oracle", "macenko", "reinhard", "untouched")
_CHARTS = (
    ("L1 loss", "mean |generated - target|", ("l1",)),
    ("Adversarial losses", "binary cross-entropy", ("gan", "discriminator")),
    ("Colour difference to the truth", "CIEDE2000", tuple(f"{method}_ciede2000" for method in _METHODS)),
    ("Structure kept", "SSIM", tuple(f"{method}_ssim" for method in _METHODS)),
)


@dataclass(frozen=True)
class Training:
    """A training to show.

    Attributes:
        epochs: A row an epoch, by column; what is no number is left out.
        first: The first epoch's panel: template, generated, target; None where there is none.
        last: The last one's.
    """

    epochs: Sequence[Mapping[str, float]]
    first: bytes | None
    last: bytes | None

    def charts(self) -> list[Chart]:
        """Draw losses and scores over the epochs."""
        made = []
        for title, unit, columns in _CHARTS:
            series = [self._series(number, name) for number, name in enumerate(columns)]
            made.append(chart(title, "epoch", unit, series, counts=True))
        return [found for found in made if found]

    def _series(self, number: int, column: str) -> Series:
        points: list[Point] = [(row["epoch"], row[column]) for row in self.epochs if "epoch" in row and column in row]
        name = column.removesuffix("_ciede2000").removesuffix("_ssim")
        return Series(name, f"series{number}", points)


def read_training(folder: Path) -> Training | None:
    """Read what lies in a training's folder; None where there is no such folder."""
    if not folder.exists():
        return None
    panels = sorted((folder / "panels").glob("epoch_*.png"))
    first, last = (panels[0].read_bytes(), panels[-1].read_bytes()) if panels else (None, None)
    return Training(_epochs(folder / "metrics.csv"), first if len(panels) > 1 else None, last)


def _epochs(path: Path) -> list[dict[str, float]]:
    """Read the table's rows; none where it is missing or damaged."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
        return [
            {name: float(cell) for name, cell in row.items() if _is_number(cell)}
            for row in csv.DictReader(text.splitlines())
        ]
    except (OSError, csv.Error):
        return []


def _is_number(cell: str | None) -> bool:
    try:
        return cell is not None and float(cell) == float(cell)
    except ValueError:
        return False
