"""`summary.csv`: a row a slide, for people and programs."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsi_stain.core.errors import OutputError
from wsi_stain.core.text import escape_formula, unescape_formula, write_table
from wsi_stain.results.slide_row import SlideRow

_COLUMNS = (
    *("slide", "status", "reason", "remedy", "tiles", "seconds"),
    *("slide_id", "output", "other_outputs", "width", "height", "mpp_x", "mpp_y", "mpp_origin", "suspect"),
    *("seam", "hallucination", "table_distance", "nuclear_contrast", "nuclear_dark"),
)

_OUTCOME = ("slide", "slide_id", "status", "reason", "remedy", "tiles", "seconds", "output")


def write_summary(path: Path, rows: Sequence[SlideRow]) -> None:
    """Write the table of all slides."""
    write_table(path, _COLUMNS, [_cells(row) for row in rows])


def read_summary(path: Path) -> list[dict[str, str]]:
    """Read the rows of such a table, by column; OutputError where there is none, or it has other columns."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != _COLUMNS:
                raise ValueError(f"its columns are {reader.fieldnames}")
            return list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise OutputError(
            f"{path} is not a run's summary: {error}", "Name the output directory of a finished run"
        ) from error


def read_rows(path: Path) -> list[SlideRow]:
    """Read the rows of such a table, as far as they tell how a slide ended."""
    return [
        SlideRow.model_validate({name: unescape_formula(row[name]) for name in _OUTCOME if row[name]})
        for row in read_summary(path)
    ]


def summary_row(row: SlideRow) -> dict[str, str]:
    """Return a slide's row as it stands in the table, by column."""
    return {name: str(escape_formula(cell)) for name, cell in zip(_COLUMNS, _cells(row), strict=True)}


def _cells(row: SlideRow) -> list[Any]:
    """Return the values of a row in the order of `_COLUMNS`."""
    width, height = row.size or ("", "")
    mpp_x, mpp_y = row.mpp or ("", "")
    measured = [width, height, mpp_x, mpp_y, row.mpp_origin, row.suspect]
    outcome = [row.slide, row.status, row.reason, row.remedy, row.tiles, round(row.seconds, 1)]
    nuclei = [row.nuclei.contrast_kept, row.nuclei.after.dark] if row.nuclei else [None, None]
    quality = [row.seam.score if row.seam else None, row.hallucination_p95, row.table_distance, *nuclei]
    scores = ["" if value is None else round(value, 3) for value in quality]
    return [*outcome, row.slide_id, row.output, "; ".join(row.other_outputs), *measured, *scores]
