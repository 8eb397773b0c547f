"""What was decided on a finished slide, area by area, as it is kept beside its row: `areas.npz`.

Masks are kept as finely as a row's thumbnail; tiles one by one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsi_stain.core import html
from wsi_stain.core.arrays import Mask
from wsi_stain.core.errors import OutputError
from wsi_stain.core.geometry import ceil_div
from wsi_stain.metrics.hallucination import PER_UNIT
from wsi_stain.results.finished import ROW
from wsi_stain.results.slide_row import SlideRow
from wsi_stain.store import TiledSlide
from wsi_stain.store.artifact import load_artifact, save_artifact
from wsi_stain.tissue.geojson import SlideAreas

_FINEST = 2048
"""Most pixels along a side of a mask that is kept."""

AREAS = "areas.npz"


def save_areas(folder: Path, slide: TiledSlide, holes: Mask) -> None:
    """Keep what was decided on a slide.

    Args:
        folder: The slide's own below the output directory.
        slide: The slide.
        holes: (rows, cols): tiles that its file could not give.
    """
    step = max(1, ceil_div(max(slide.mask.shape), _FINEST))
    masks = {"mask": slide.mask[::step, ::step], "exempt": slide.exempt[::step, ::step]}
    save_artifact(folder / AREAS, {**masks, "suspect": slide.suspect, "holes": holes})


def load_areas(folder: Path, row: SlideRow) -> SlideAreas:
    """Load what `save_areas` kept, and the hallucination map of the slide's row.

    Raises:
        OutputError: There is no such file, as in runs of versions before there was one, or it is damaged.
    """
    try:
        arrays = load_artifact(folder / AREAS)
    except OutputError as error:
        found = "is damaged" if (folder / AREAS).exists() else "is not there: an earlier version finished the slide"
        remedy = f"Delete {folder / ROW} and give the run's own command again, which makes the slide again, the same"
        raise OutputError(f"{folder / AREAS} {found}", remedy) from error
    assert row.size is not None, "a finished slide has a size"
    change = None
    if row.hallucination is not None:
        change = np.asarray(html.open_picture(row.hallucination, "L"), np.float64) / PER_UNIT
    return SlideAreas(row.size, arrays["mask"], arrays["exempt"], arrays["suspect"], arrays["holes"], change)
