"""A few places of a slide before and after, at several magnifications, chosen by the slide alone.

Memory bound: the pixels under the coarsest picture, 33 MB of the slide and 77 MB of the pyramid.
"""

from __future__ import annotations

from math import log2

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import uniform_filter

from wsi_stain.core.geometry import TILE, TILES_PER_BLOCK, Region, Size, TileIndex, ceil_div
from wsi_stain.core.html import thumbnail_jpeg
from wsi_stain.results.slide_row import FieldOfView
from wsi_stain.store import TiledSlide

_SIZE = Size(480, 360)
"""Of each picture, px; smaller where the slide is."""

_COARSE, _MIDDLE, _FINE = 2.0, 0.5, 0.25
"""Resolutions, um per px: 5x, 20x, 40x."""

_COARSEST_LEVEL = 3
_TISSUE_MIN = 0.25

Grid = NDArray[np.float64]


def fields_of_view(
    slide: TiledSlide, pyramid: openslide.OpenSlide, change: Grid, changed: str
) -> tuple[FieldOfView, ...]:
    """Show most tissue at 5x, a border of two blocks at 20x, the largest change at 40x; fewer on small slides.

    Args:
        slide: The slide.
        pyramid: What was made of it.
        change: (rows, cols): how much each tile changed.
        changed: What to call the place where that is largest.
    """
    tissue = np.where(slide.kept, slide.tissue, 0.0).astype(np.float64)
    level = _level(slide, _COARSE)
    window = [max(1, ceil_div(side << level, TILE)) for side in (_SIZE.height, _SIZE.width)]
    chosen = [("most tissue", level, _centre(_largest(uniform_filter(tissue, window, mode="constant"))))]
    if (border := _block_border(tissue)) is not None:
        chosen.append(("block border", _level(slide, _MIDDLE), border))
    most = _largest(np.where(tissue >= min(_TISSUE_MIN, tissue.max()), change, -1.0))
    chosen.append((changed, _level(slide, _FINE), _centre(most)))
    return tuple(_field(slide, pyramid, what, level, centre) for what, level, centre in chosen)


def change_of(before: Image.Image, after: Image.Image, shape: tuple[int, int]) -> Grid:
    """Measure how much each tile's colour changed, on thumbnails: (rows, cols), mean of absolute differences."""
    rows, cols = shape
    pictures = [
        np.asarray(picture.convert("RGB").resize((cols, rows), Image.Resampling.BOX), np.float64)
        for picture in (before, after)
    ]
    change: Grid = np.abs(pictures[1] - pictures[0]).mean(axis=2)
    return change


def _level(slide: TiledSlide, mpp: float) -> int:
    """Return how often the slide's pixels are halved to come next to a resolution."""
    return min(max(round(log2(mpp / slide.mpp.mean)), 0), _COARSEST_LEVEL)


def _largest(values: Grid) -> TileIndex:
    """Return the index of the largest value, the first of equals in row-major order."""
    row, col = np.unravel_index(int(np.argmax(values)), values.shape)
    return TileIndex(int(row), int(col))


def _centre(tile: TileIndex) -> tuple[int, int]:
    return tile.col * TILE + TILE // 2, tile.row * TILE + TILE // 2


def _block_border(tissue: Grid) -> tuple[int, int] | None:
    """Find (x, y) on the border of two blocks with most tissue on both sides; None where no border lies in tissue."""
    best, found = 0.0, None
    for axis, tiles in enumerate((tissue, tissue.T)):
        for line in range(TILES_PER_BLOCK, len(tiles), TILES_PER_BLOCK):
            both = np.minimum(tiles[line - 1], tiles[line])
            along = int(np.argmax(uniform_filter(both, 3, mode="constant")))
            if both[along] > best:
                place = along * TILE + TILE // 2, line * TILE
                best, found = float(both[along]), place if axis == 0 else (place[1], place[0])
    return found


def _field(
    slide: TiledSlide, pyramid: openslide.OpenSlide, what: str, level: int, centre: tuple[int, int]
) -> FieldOfView:
    """Make pictures of a place, averaged over squares of 2^level px."""
    width, height = (min(shown << level, length) for shown, length in zip(_SIZE, slide.size, strict=True))
    x, y = (
        min(max(middle - side // 2, 0), length - side)
        for middle, side, length in zip(centre, (width, height), slide.size, strict=True)
    )
    # Both sides from level 0: readers place coarser levels of odd sizes a fraction of a pixel beside it.
    before = Image.fromarray(slide.read(Region(x, y, width, height)))
    after = pyramid.read_region((x, y), 0, (width, height)).convert("RGB")
    return FieldOfView(
        what=what,
        mpp=slide.mpp.mean * (1 << level),
        x=x,
        y=y,
        before=thumbnail_jpeg(before.reduce(1 << level)),
        after=thumbnail_jpeg(after.reduce(1 << level)),
    )
