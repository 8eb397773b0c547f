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
from wsi_stain.stain.statistics import StainStatistics

STAIN_LEVELS = ("h_nuclei", "h_stroma", "e_nuclei", "e_stroma", "lum_nuclei", "lum_stroma")

COLUMNS = (
    *("slide", "path", "verdict", "reason", "remedy", "remarks"),
    *("width", "height", "levels", "mpp_x", "mpp_y", "mpp_origin", "objective_power", "vendor"),
    *("tissue", "tiles", "suspect", "bytes"),
    "reader",
    *("scanner", "white_r", "white_g", "white_b", "white_origin"),
    *(f"{stain}_{channel}" for stain in ("hematoxylin", "eosin") for channel in "rgb"),
    *STAIN_LEVELS,
    *("blurred", "foreign", "ink"),
)
"""Columns of the CSV file: new ones come last, none is renamed.

Sizes and mpp are those of level 0; white is 0 to 255, stain vectors and levels are natural-log OD; shares are 0 to 1.
"""


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
    stain = request.csv is not None
    return inspect_slides(sources, request.config.tiling, request.config.executor, progress, request.overlay, stain)


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
        *(facts["scanner"], *_stain_cells(inspection.stain), facts["ink"]),
    ]


def _stain_cells(stain: StainStatistics | None) -> list[Any]:
    """Return a slide's stain in the order of COLUMNS, from white to foreign."""
    if stain is None:
        return [None] * (12 + len(STAIN_LEVELS))
    vectors = [round(value, 4) for vector in stain.vectors for value in vector]
    levels = [round(getattr(stain, name), 4) for name in STAIN_LEVELS]
    shares = [round(stain.blurred, 4), round(stain.foreign, 4)]
    return [*(round(value, 1) for value in stain.white), stain.white_origin, *vectors, *levels, *shares]
