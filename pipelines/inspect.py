"""The `inspect` command: a table of what is known of slides, before anything is done to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines.shared.config import RunConfig
from pipelines.shared.inspection import SlideInspection, inspect_slides, print_inspections
from pipelines.shared.messages import print_line
from pipelines.shared.progress import Progress
from wsi_stain.core.text import write_table
from wsi_stain.slides.listing.find import find_slides

COLUMNS = (
    *("slide", "path", "verdict", "reason", "remedy", "remarks"),
    *("width", "height", "levels", "mpp_x", "mpp_y", "mpp_origin", "objective_power", "vendor"),
    *("tissue", "tiles", "suspect", "bytes"),
    "reader",
)
"""Columns of the CSV file: new ones come last, none is renamed. Sizes and mpp are those of level 0."""


@dataclass(frozen=True)
class Request:
    """Arguments of `wsi-stain inspect`."""

    slides: Sequence[Path]
    config: RunConfig
    masks: Path | None = None
    overlay: Path | None = None
    csv: Path | None = None


def plan(request: Request, progress: Progress) -> list[SlideInspection]:
    """Inspect each slide; nothing is written."""
    sources = find_slides(request.slides, request.masks, progress.warn)
    return inspect_slides(sources, request.config.tiling, request.config.executor, progress, request.overlay)


def run(request: Request, console: Console) -> int:
    """Print the table, and write it where that was asked for.

    Returns:
        0, or 3 when some slides cannot be used.
    """
    with Progress(console) as progress:
        inspections = plan(request, progress)
    code = print_inspections(inspections, console)
    if request.csv is not None:
        write_table(request.csv, COLUMNS, map(_row, inspections))
        print_line(console, f"table: {request.csv}")
    return code


def _row(inspection: SlideInspection) -> list[Any]:
    """Return one slide's cells in the order of COLUMNS."""
    verdict_cells = [
        inspection.source.relative,
        str(inspection.source.path),
        inspection.verdict,
        inspection.reason,
        inspection.remedy,
    ]
    facts = inspection.facts
    if facts is None:
        return [*verdict_cells, *[None] * (len(COLUMNS) - len(verdict_cells))]
    scan_cells = [facts[name] for name in ("mpp_origin", "objective_power", "vendor")]
    tissue_cells = [round(facts["tissue"], 4), inspection.tiles, facts["suspect"], facts["bytes"], facts["reader"]]
    return [
        *(*verdict_cells, " ".join(facts["remarks"])),
        *(*facts["size_l0"], facts["levels"], *facts["mpp_l0"], *scan_cells, *tissue_cells),
    ]
