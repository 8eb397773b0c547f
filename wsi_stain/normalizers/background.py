"""What outputs show where nothing is normalized: a background that tissue fades into, and what is exempt from it.

Tissue fades, so that no outline of tiles shows. Each corner of the tile grid weighs 1 where all tiles around it are
kept and 0 elsewhere; within a tile the weight is bilinear, so it is 0 along every border with a tile that is not kept,
and continuous across all others. The slide's own edge is no border: what lies beyond counts as its nearest tile.

What is exempt, such as ink, is shown as glass or as scanned, at any resolution. Writes no files.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from wsi_stain.core.arrays import Mask, Rgb8, RgbImage, RgbxImage, window
from wsi_stain.core.geometry import TILE, Region, Size, split_on_grid
from wsi_stain.store import TiledSlide
from wsi_stain.tissue.exempt import AS_GLASS, AS_SCANNED, Exempt

_FULL_SCALE = (255.0, 255.0, 255.0)


def with_ring(kept: Mask, rows: slice, cols: slice) -> Mask:
    """Return a part of a slide's grid and one more tile on each side.

    Args:
        kept: (rows, cols) of the whole slide.
        rows: Rows of the part, within the slide.
        cols: Columns of the part, within the slide.
    """
    padded = np.pad(kept, 1, mode="edge")
    return padded[rows.start : rows.stop + 2, cols.start : cols.stop + 2]


def fade_to_white(pixels: RgbImage | RgbxImage, ring: Mask, white: Rgb8) -> None:
    """Blend a block into the background, in place.

    Args:
        pixels: (h, w, 3 or 4) of the block.
        ring: (rows + 2, cols + 2): which tiles are kept, of the block and one more on each side.
        white: The background; tiles that are not kept become it, exactly.
    """
    corners = ring[:-1, :-1] & ring[1:, :-1] & ring[:-1, 1:] & ring[1:, 1:]
    row_of_white = np.zeros((TILE, pixels.shape[2]), np.uint8)  # many times as fast to fill with as one colour
    row_of_white[:, :3] = white
    for row, col in np.ndindex(ring.shape[0] - 2, ring.shape[1] - 2):
        tile = pixels[row * TILE : (row + 1) * TILE, col * TILE : (col + 1) * TILE]
        around = corners[row : row + 2, col : col + 2]
        if not around.any():
            tile[:] = row_of_white[: tile.shape[1]]
        elif not around.all():
            _blend(tile, around, row_of_white[: tile.shape[1]])


def _blend(tile: RgbImage | RgbxImage, around: Mask, white: RgbImage | RgbxImage) -> None:
    """Blend a tile with a row of white by weights of its corners, ((top left, right), (bottom left, right))."""
    height, width, channels = tile.shape
    weight = _corner_weights(around.tobytes(), channels)[:height, : channels * width]
    background = white.ravel().astype(np.float32)
    mixed = tile.reshape(height, channels * width) - background  # whole rows: twice as fast as three values at a time
    mixed *= weight
    mixed += background
    tile[:] = np.rint(mixed, out=mixed).astype(np.uint8).reshape(tile.shape)


@lru_cache(maxsize=32)
def _corner_weights(around: bytes, channels: int) -> NDArray[np.float32]:
    """Return the weight of each value of a tile, (256, channels * 256), by its four corners' weights, 0 or 1."""
    share = (np.arange(TILE, dtype=np.float32) + 0.5) / TILE
    ramp = np.stack([1 - share, share])  # (2, 256): of the near and of the far corner
    corners = np.frombuffer(around, np.uint8).reshape(2, 2).astype(np.float32)
    return np.repeat(ramp.T @ corners @ ramp, channels, axis=1)


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


def show_exempt(
    slide: TiledSlide,
    region: Region,
    pixels: RgbImage,
    source: RgbImage,
    white: Rgb8,
    frame: Size | None = None,
) -> None:
    """Show what is exempt in a region, in place; a pixel does not depend on the region that holds it.

    Args:
        slide: The slide; its own glass becomes `white` in what is shown as scanned.
        region: The region.
        pixels: Its normalized RGB, (height, width, 3).
        source: The slide's own pixels there.
        white: The output's background.
        frame: Width and height of the whole slide at the region's resolution, px; None for the working frame.
    """
    if not slide.exempt.any():
        return
    frame, glass = frame or slide.size, np.asarray(white, np.float32)
    own_white = slide.stain.white if slide.stain else _FULL_SCALE
    balance = (glass + 1) / (np.asarray(own_white, np.float32) + 1)
    for part in split_on_grid(region, Size(TILE, TILE)):
        scanned, blank = (_weights(slide.exempt, kind, frame, part) for kind in (AS_SCANNED, AS_GLASS))
        if not scanned.any() and not blank.any():
            continue
        shown = window(pixels, region, part)
        own = np.clip((window(source, region, part) + np.float32(1)) * balance - 1, 0, 255)
        mixed = (1 - scanned - blank) * shown + scanned * own + blank * glass
        shown[:] = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def exempt_mask(slide: TiledSlide, region: Region) -> NDArray[np.bool_]:
    """Return (height, width): which pixels of a region are not normalized, by the nearest pixel of the thumbnail."""
    rows, cols = (
        np.clip(((start + np.arange(count) + 0.5) * length / side).astype(np.intp), 0, length - 1)
        for start, count, length, side in _axes(slide.exempt, slide.size, region)
    )
    part = slide.exempt[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1] > 0
    if not part.any():
        return np.zeros((region.height, region.width), bool)
    return np.asarray(part[np.ix_(rows - rows[0], cols - cols[0])])


def _weights(exempt: Exempt, kind: int, frame: Size, region: Region) -> NDArray[np.float32]:
    """Return the share of one kind at each pixel of a region, (height, width, 1), bilinear between the thumbnail's."""
    (top, down), (left, across) = (_between(*axis) for axis in _axes(exempt, frame, region))
    part = exempt[top[0] : top[-1] + 2, left[0] : left[-1] + 2] == kind
    if not part.any():
        return np.zeros((region.height, region.width, 1), np.float32)
    part = np.pad(part, ((0, 1), (0, 1)), mode="edge").astype(np.float32)
    top, left = top - top[0], left - left[0]
    rows = part[top] * (1 - down)[:, None] + part[top + 1] * down[:, None]
    weights: NDArray[np.float32] = rows[:, left] * (1 - across) + rows[:, left + 1] * across
    return weights[..., None]


def _axes(exempt: Exempt, frame: Size, region: Region) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int]]:
    """Return along y and along x: where a region begins, its length, the thumbnail's length, the frame's."""
    height, width = exempt.shape
    return (region.y, region.height, height, frame.height), (region.x, region.width, width, frame.width)


def _between(start: int, count: int, length: int, side: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return for each pixel along an axis the thumbnail's pixel before it, and how far it lies beyond that, 0 to 1."""
    place = np.clip((start + np.arange(count) + 0.5) * length / side - 0.5, 0, length - 1)
    before = place.astype(np.intp)
    return before, (place - before).astype(np.float32)
