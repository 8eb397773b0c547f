"""The `annotate` command: what a run decided on each slide, as GeoJSON that QuPath opens by drag and drop."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from rich.console import Console

from pipelines.run_directory.page import read_run_state
from pipelines.run_directory.partial_results import finished_slide
from pipelines.run_directory.workspace import Workspace
from pipelines.shared.messages import describe_error, print_line
from wsi_stain.core.errors import OutputError, SlideError, WsiStainError
from wsi_stain.core.journal import atomic_write
from wsi_stain.core.storage import real_path
from wsi_stain.results import SlideRow
from wsi_stain.results.areas import load_areas
from wsi_stain.slides.slide import Slide, SlideConfig
from wsi_stain.tissue.geojson import PixelFrame, slide_geojson

Frame = Literal["source", "output"]


@dataclass(frozen=True)
class Request:
    """Arguments of `wsi-stain annotate`.

    Attributes:
        out: Output directory of a run.
        to: Where the files go.
        frame: Whose level-0 pixels coordinates are in: the source's, counted from its scanned bounds as QuPath does, or
            the pyramid's that the run made.
        bound: Hallucination tiles above this are listed, CIEDE2000.
    """

    out: Path
    to: Path
    frame: Frame = "source"
    bound: float = 5.0


def run(request: Request, console: Console) -> int:
    """Write one file a finished slide, named as the slide.

    Returns:
        0, or 3 where that of some finished slides cannot be written.

    Raises:
        OutputError: No run has finished a slide in `out`.
    """
    workspace = Workspace(request.out)
    rows = [row for row in read_run_state(workspace).rows if row.output]
    if not rows:
        raise OutputError(f"{request.out} holds no finished slide", "Name the directory given to run --out")
    faults = 0
    for row in rows:
        try:
            print_line(console, f"annotations: {_write_slide(request, workspace, row)}")
        except WsiStainError as error:
            faults += 1
            print_line(console, f"{row.slide}: {describe_error(error)}")
    return 3 if faults else 0


def _write_slide(request: Request, workspace: Workspace, row: SlideRow) -> Path:
    finished = finished_slide(workspace, row.slide_id, row)
    if finished is None:
        raise OutputError("its row is no longer in OUT/work", "Give run or normalize the same --out again")
    areas = load_areas(workspace.slide(row.slide_id), finished.row)
    frame = PixelFrame()
    if request.frame == "source":
        frame = source_frame(finished.origin.slide, finished.origin.reading)
    path = request.to / PurePosixPath(f"{row.slide}.geojson")
    if not real_path(path).is_relative_to(real_path(request.to)):
        raise OutputError(f"its name leads out of {request.to}", "Name another directory with --to")
    atomic_write(path, json.dumps(slide_geojson(areas, frame, request.bound), separators=(",", ":")).encode())
    return path


def source_frame(path: Path | None, reading: SlideConfig) -> PixelFrame:
    """Return the frame of a slide's own level 0 as QuPath shows it: counted from its scanned bounds.

    Raises:
        SlideError: The slide is not known, or no longer there.
    """
    if path is None:
        raise SlideError("the run knew only its tiles, not its file", "Use --frame output")
    with Slide(path, reading) as slide:
        scale = slide.mpp.x / slide.mpp_l0.x, slide.mpp.y / slide.mpp_l0.y
        return PixelFrame(scale, (slide.bounds.x * scale[0], slide.bounds.y * scale[1]))
