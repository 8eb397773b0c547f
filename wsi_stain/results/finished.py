"""A finished slide as it is kept beside its receipts: its row, what it was made from, and which tiles it has.

    row.json    key, row (pictures in base64), origin; written last
    grid.npz    kept, tissue, blank

A rerun finds the row again, and verification what the slide's pyramid must agree with.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.errors import OutputError
from wsi_stain.core.geometry import ceil_div
from wsi_stain.core.journal import read_json, write_json
from wsi_stain.core.records import StrictRecord
from wsi_stain.results.slide_row import SlideRow
from wsi_stain.slides.slide import SlideConfig
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.store import TiledSlide
from wsi_stain.store.artifact import load_artifact, save_artifact
from wsi_stain.tissue.exempt import AS_GLASS
from wsi_stain.tissue.grid import TileGrid

ROW = "row.json"

_MOST_BYTES = 2**26
"""Largest row that is read: a run's has 1 or 2 MB, pictures and all."""

_BLANK = 1024
"""Most pixels along a side of what is kept of the exempt areas."""


class Origin(StrictRecord):
    """Source of a finished slide.

    Attributes:
        slide: The slide's file, absolute; None where the run knew only its tiles.
        tiles: The slide's folder in the tile store, which a run drops unless it has to keep it; None where its
            tiles were never stored.
        reading: How the file becomes the working frame.
        fingerprint: Fingerprint of the file, as the tile store has it.
        icc_sha256: SHA-256 of the colour profile that outputs embed, or None.
        dicom_icc_sha256: SHA-256 of the profile that DICOM embeds: the same as an input device's, or sRGB's.
        mode: How its pixels were made: the mode, or the classical method.
        tiles_key: Fingerprint of everything that its tiles depend on.
        stain: Its own stain, as measured on these tiles.
    """

    slide: Path | None
    tiles: str | None
    reading: SlideConfig
    fingerprint: dict[str, str | int]
    icc_sha256: str | None
    dicom_icc_sha256: str | None = None
    mode: str = ""
    tiles_key: str = ""
    stain: StainStatistics | None = None


@dataclass(frozen=True)
class FinishedSlide:
    """Finished slide as it is kept.

    Attributes:
        key: Fingerprint of everything that decides its pyramid's bytes.
        row: Its row in the summary, thumbnails included.
        origin: What it was made from.
        grid: Its tiles.
        blank: (h, w) of the whole frame: what is shown as glass on purpose.
    """

    key: str
    row: SlideRow
    origin: Origin
    grid: TileGrid
    blank: NDArray[np.bool_]


def blank_areas(slide: TiledSlide) -> NDArray[np.bool_]:
    """Return what is shown as glass on purpose, (h, w), as finely as a row's thumbnail."""
    step = max(1, ceil_div(max(slide.exempt.shape), _BLANK))
    return np.asarray(slide.exempt[::step, ::step] == AS_GLASS)


def save_finished(folder: Path, slide: FinishedSlide) -> None:
    """Keep a finished slide in its corner of the output directory."""
    arrays = {"kept": slide.grid.kept, "tissue": slide.grid.tissue, "blank": slide.blank}
    save_artifact(folder / "grid.npz", arrays)
    row, origin = slide.row.model_dump(mode="json"), slide.origin.model_dump(mode="json")
    write_json(folder / ROW, {"key": slide.key, "row": row, "origin": origin})


def load_finished(folder: Path) -> FinishedSlide | None:
    """Load the slide that was kept there; None where none was, or not all of it, or by another version."""
    try:
        if (folder / ROW).stat().st_size > _MOST_BYTES:
            return None
        saved: Any = read_json(folder / ROW)
        row = SlideRow.model_validate_json(json.dumps(saved["row"]))
        arrays = load_artifact(folder / "grid.npz")
        grid = TileGrid(row.size, arrays["tissue"], arrays["kept"]) if row.size else None
        origin = Origin.model_validate(saved["origin"])
        return FinishedSlide(saved["key"], row, origin, grid, arrays["blank"]) if grid else None
    except (AttributeError, KeyError, OSError, TypeError, ValueError, OutputError):
        return None
