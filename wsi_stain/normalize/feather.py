"""Fading of tissue into the output's background, so that no outline of tiles shows. Knows no slides.

Each corner of the tile grid weighs 1 where all tiles around it are kept and 0 elsewhere; within a tile the weight is
bilinear, so it is 0 along every border with a tile that is not kept, and continuous across all others. The slide's own
edge is no border: what lies beyond counts as its nearest tile.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from wsi_stain.core.arrays import Mask, Rgb8, RgbImage
from wsi_stain.core.geometry import TILE


def with_ring(kept: Mask, rows: slice, cols: slice) -> Mask:
    """Return a part of a slide's grid and one more tile on each side.

    Args:
        kept: (rows, cols) of the whole slide.
        rows: Rows of the part, within the slide.
        cols: Columns of the part, within the slide.
    """
    padded = np.pad(kept, 1, mode="edge")
    return padded[rows.start : rows.stop + 2, cols.start : cols.stop + 2]


def fade_to_white(pixels: RgbImage, ring: Mask, white: Rgb8) -> None:
    """Blend a block into the background, in place.

    Args:
        pixels: (h, w, 3) RGB of the block.
        ring: (rows + 2, cols + 2): which tiles are kept, of the block and one more on each side.
        white: The background; tiles that are not kept become it, exactly.
    """
    corners = ring[:-1, :-1] & ring[1:, :-1] & ring[:-1, 1:] & ring[1:, 1:]
    row_of_white = np.full((TILE, 3), white, np.uint8)  # many times as fast to fill with as one colour
    for row, col in np.ndindex(ring.shape[0] - 2, ring.shape[1] - 2):
        tile = pixels[row * TILE : (row + 1) * TILE, col * TILE : (col + 1) * TILE]
        around = corners[row : row + 2, col : col + 2]
        if not around.any():
            tile[:] = row_of_white[: tile.shape[1]]
        elif not around.all():
            _blend(tile, around, white)


def _blend(tile: RgbImage, around: Mask, white: Rgb8) -> None:
    """Blend a tile by its four corners' weights, ((top left, top right), (bottom left, bottom right))."""
    share = (np.arange(TILE, dtype=np.float32) + 0.5) / TILE
    ramp = np.stack([1 - share, share])  # (2, 256): of the near and of the far corner
    weight = (ramp.T @ around.astype(np.float32) @ ramp)[: tile.shape[0], : tile.shape[1], None]
    background = np.asarray(white, np.float32)
    tile[:] = np.round(background + weight * (tile - background)).astype(np.uint8)


def fade_weights(kept: Mask, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how much of tissue shows at places of a slide at any resolution, as `fade_to_white` weighs level 0.

    Args:
        kept: (rows, cols) of the whole slide's tile grid.
        rows: (h,) places along y, in tiles; what lies beyond the slide counts as its edge.
        cols: (w,) along x.

    Returns:
        (h, w), 0 to 1.
    """
    padded = np.pad(kept, 1, mode="edge")
    corners = (padded[:-1, :-1] & padded[1:, :-1] & padded[:-1, 1:] & padded[1:, 1:]).astype(np.float64)
    along_y, along_x = (_interpolation(places, count) for places, count in zip((rows, cols), kept.shape, strict=True))
    weights: NDArray[np.float64] = along_y @ corners @ along_x.T
    return weights


def _interpolation(places: NDArray[np.float64], count: int) -> sparse.csr_array:
    """Return (n, count + 1): linear weights of the lines of a grid, 0 to count, at places between them."""
    inside = np.clip(places, 0, count)
    near = np.minimum(inside.astype(np.intp), count - 1)
    share, row = inside - near, np.arange(len(places))
    values, lines = np.concatenate([1 - share, share]), np.concatenate([near, near + 1])
    return sparse.csr_array((values, (np.concatenate([row, row]), lines)), shape=(len(places), count + 1))
