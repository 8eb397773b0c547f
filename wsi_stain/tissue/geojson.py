"""Areas and tiles of a slide as GeoJSON that QuPath opens: tissue, ink, missed tissue, holes, hallucination.

Tissue, what is exempt and what may have been missed are annotations, other tiles are detections, each with QuPath's
class and its colour; hallucination tiles carry their value as a measurement. Classes that end in `*` are those that
QuPath ignores. So, corrected in QuPath, the file is a mask of the slide: see `slides.listing.user_masks`.

Knows no slides or files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label
from skimage.measure import find_contours

from wsi_stain.core.arrays import Mask, Rgb8
from wsi_stain.core.geometry import TILE, Size
from wsi_stain.tissue.exempt import AS_GLASS, AS_SCANNED, Exempt

TISSUE, INK, DARK = "Tissue", "Ink*", "Dark*"
MISSED, HOLE, HALLUCINATION = "Missed tissue*", "Hole", "Hallucination"

COLOURS: Mapping[str, Rgb8] = {
    TISSUE: (0, 158, 115),
    INK: (240, 228, 66),
    DARK: (204, 121, 167),
    MISSED: (213, 94, 0),
    HOLE: (0, 0, 0),
    HALLUCINATION: (86, 180, 233),
}
"""Colours of the classes, those of Okabe and Ito (2008), as in overlays."""

CHANGE = "Unexplained change (CIEDE2000)"
"""Name of the measurement of hallucination tiles."""

Point = tuple[float, float]


@dataclass(frozen=True)
class SlideAreas:
    """What was decided on a slide.

    Attributes:
        size: Working frame, px.
        mask: (h, w) of the whole frame, true on tissue.
        exempt: (h, w): what is not normalized; see `exempt`.
        suspect: (rows, cols): tiles without tissue that look as if they had some.
        holes: (rows, cols): tiles that the file could not give; None where that is not known yet.
        hallucination: (rows, cols): change that no colour table explains, CIEDE2000; None where it was not measured.
    """

    size: Size
    mask: Mask
    exempt: Exempt
    suspect: Mask
    holes: Mask | None = None
    hallucination: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class PixelFrame:
    """From the working frame to the pixels that coordinates are given in.

    Attributes:
        scale: Their number along x and y for one pixel of the working frame.
        origin: Where they count from, (x, y), in such pixels.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    origin: tuple[float, float] = (0.0, 0.0)

    def place(self, x: float, y: float) -> Point:
        """Return a point of the working frame, rounded to a tenth of a pixel."""
        return round(x * self.scale[0] - self.origin[0], 1), round(y * self.scale[1] - self.origin[1], 1)


def slide_geojson(areas: SlideAreas, frame: PixelFrame, bound: float) -> dict[str, Any]:
    """Make a FeatureCollection (RFC 7946) of a slide's areas and tiles.

    Args:
        areas: What was decided on the slide.
        frame: The pixels that coordinates are given in.
        bound: Tiles whose change no colour table explains by more than this, CIEDE2000, are listed.
    """
    drawn = {TISSUE: areas.mask, INK: areas.exempt == AS_SCANNED, DARK: areas.exempt == AS_GLASS}
    features = [
        _feature(name, "annotation", rings, {})
        for name, mask in drawn.items()
        for rings in outline_mask(mask, areas.size, frame)
    ]
    change = np.zeros(areas.suspect.shape) if areas.hallucination is None else areas.hallucination
    marked = {MISSED: areas.suspect, HOLE: areas.holes, HALLUCINATION: change > bound}
    for name, tiles in marked.items():
        kind = "annotation" if name == MISSED else "detection"
        for row, col in np.argwhere(tiles).tolist() if tiles is not None else ():
            values = {CHANGE: round(float(change[row, col]), 2)} if name == HALLUCINATION else {}
            features.append(_feature(name, kind, [_outline_tile(row, col, areas.size, frame)], values))
    return {"type": "FeatureCollection", "features": features}


def outline_mask(mask: Mask, size: Size, frame: PixelFrame) -> Iterator[list[list[Point]]]:
    """Yield each piece of a mask as a polygon: its outer ring, counterclockwise for y upwards, then those of its holes.

    Rings are closed, run half a pixel of the mask around its pixels' centres, and do not cross themselves.

    Args:
        mask: (h, w) of the whole frame.
        size: The frame, px.
        frame: The pixels that coordinates are given in.
    """
    names, _ = label(mask)
    for number, place in enumerate(find_objects(names), start=1):
        piece = np.pad(names[place] == number, 1)
        rings = sorted(find_contours(piece, 0.5), key=lambda ring: -abs(_signed_area(ring)))
        top, left = place[0].start - 1, place[1].start - 1
        step_y, step_x = size.height / mask.shape[0], size.width / mask.shape[1]
        yield [
            [
                frame.place((col + left + 0.5) * step_x, (row + top + 0.5) * step_y)
                for row, col in _turn(_drop_collinear(ring), outer=place_in_piece == 0).tolist()
            ]
            for place_in_piece, ring in enumerate(rings)
        ]


def _turn(ring: NDArray[np.float64], outer: bool) -> NDArray[np.float64]:
    """Turn a ring, (n, 2) of (row, col), as RFC 7946 has it: outer ones counterclockwise where x is right and y up."""
    return ring if (_signed_area(ring) > 0) == outer else ring[::-1]


def _signed_area(ring: NDArray[np.float64]) -> float:
    """Compute the area within a closed ring, (n, 2) of (row, col); positive where it turns from x to y."""
    y, x = ring.T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def _drop_collinear(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    """Drop the corners of a closed ring, (n, 2), at which it goes straight on."""
    steps = np.diff(ring, axis=0)
    before = np.roll(steps, 1, axis=0)
    turns = np.abs(before[:, 0] * steps[:, 1] - before[:, 1] * steps[:, 0]) > 1e-9
    corners = ring[:-1][turns]
    return np.vstack([corners, corners[:1]])


def _outline_tile(row: int, col: int, size: Size, frame: PixelFrame) -> list[Point]:
    """Return the ring of a tile, cut to the frame."""
    left, top = col * TILE, row * TILE
    right, bottom = min(left + TILE, size.width), min(top + TILE, size.height)
    return [frame.place(x, y) for x, y in ((left, top), (right, top), (right, bottom), (left, bottom), (left, top))]


def _feature(name: str, kind: str, rings: list[list[Point]], measurements: Mapping[str, float]) -> dict[str, Any]:
    """Make a feature with the properties by which QuPath knows objects, their class and its colour."""
    properties: dict[str, Any] = {
        "objectType": kind,
        "classification": {"name": name, "color": list(COLOURS[name])},
    }
    if measurements:
        properties["measurements"] = dict(measurements)
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": rings}, "properties": properties}
