"""A slide made of patches: pixels laid in their places block by block, and a thumbnail of the whole. Writes nothing.

Memory bound: one block of pixels (50 MB), as much again in sums, the thumbnail, and the patches laid so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.arrays import Mask, Rgb8, window
from wsi_stain.core.geometry import TILE, BlockIndex, Region, Size, TileIndex, block_region, grid_shape
from wsi_stain.store.patches import Patch, PatchSource


class Mosaic:
    """Slide that grows block by block: what was laid, and a thumbnail of the whole.

    Attributes:
        size: The frame, px.
        factor: Sides of a tile over those of its thumbnail; divides a tile.
        glass: R, G, B of what tiles show where no patch lies.
        thumbnail: (h, w, 3): means of what patches show, 255 where there is none.
        covered: (h, w): where there is some of a patch.
        kept: (rows, cols): which tiles have some of a patch.
        laid: By name, each patch whose pixels were asked for: as it lies, or refused.
    """

    def __init__(self, size: Size, factor: int, glass: Rgb8 = (255, 255, 255)) -> None:
        self.size, self.factor, self.glass = size, factor, glass
        self.thumbnail = np.full((size.height // factor, size.width // factor, 3), 255, np.uint8)
        self.covered = np.zeros(self.thumbnail.shape[:2], bool)
        self.kept = np.zeros(grid_shape(size), bool)
        self.laid: dict[str, Patch] = {}

    def lay(
        self, block: BlockIndex, patches: Sequence[Patch], source: PatchSource
    ) -> dict[TileIndex, NDArray[np.uint8]]:
        """Lay patches on a block; its tiles, (256, 256, 3), by place in the slide's tile grid."""
        area = block_region(block, self.size)
        pixels = np.full((area.height, area.width, 3), self.glass, np.uint8)
        covered = np.zeros((area.height, area.width), bool)
        for patch, pixels_or_reason in source.read(patches):
            placed = self.laid[patch.name] = _check_size(patch, pixels_or_reason)
            if placed.region and not isinstance(pixels_or_reason, str):
                _paste(pixels_or_reason, placed.region, pixels, area)
                _paste(np.ones(pixels_or_reason.shape[:2], bool), placed.region, covered, area)
        self._shrink(pixels, covered, area)
        kept = _sums(covered.view(np.uint8), TILE) > 0
        row, col = area.y // TILE, area.x // TILE
        self.kept[row : row + kept.shape[0], col : col + kept.shape[1]] = kept
        tiles = _squares(pixels, TILE).swapaxes(1, 2)
        return {TileIndex(row + int(r), col + int(c)): tiles[r, c] for r, c in np.argwhere(kept)}

    def _shrink(self, pixels: NDArray[np.uint8], covered: Mask, area: Region) -> None:
        """Put a block into the thumbnail; only what patches cover counts, since means with glass look like glass."""
        count = _sums(covered.view(np.uint8), self.factor)[..., None]
        total = _sums(pixels, self.factor) - np.asarray(self.glass) * (self.factor**2 - count)
        means = np.where(count > 0, np.rint(total / np.maximum(count, 1)), 255)
        y, x = area.y // self.factor, area.x // self.factor
        place = np.s_[y : y + count.shape[0], x : x + count.shape[1]]
        self.thumbnail[place] = means
        self.covered[place] = count[..., 0] > 0


def _check_size(patch: Patch, pixels_or_reason: NDArray[np.uint8] | str) -> Patch:
    """Return a patch as it lies; refused where it cannot be read, or is larger than its place."""
    assert patch.region is not None
    if isinstance(pixels_or_reason, str):
        return patch._replace(region=None, remark=pixels_or_reason)
    (height, width), (_, _, most_width, most_height) = pixels_or_reason.shape[:2], patch.region
    if (width, height) == (most_width, most_height):
        return patch
    remark = f"{width} x {height} px, expected {most_width} x {most_height}"
    if width > most_width or height > most_height:
        return patch._replace(region=None, remark=remark)
    return patch._replace(region=patch.region._replace(width=width, height=height), remark=f"laid as it is: {remark}")


def _paste(values: NDArray[Any], place: Region, onto: NDArray[Any], area: Region) -> None:
    """Copy the part of a patch that lies in a block."""
    if shared := place.intersect(area):
        window(onto, area, shared)[:] = window(values, place, shared)


def _squares(values: NDArray[Any], side: int) -> NDArray[Any]:
    """Reshape (h, w, ...) to (h / side, side, w / side, side, ...)."""
    height, width = values.shape[:2]
    return values.reshape(height // side, side, width // side, side, *values.shape[2:])


def _sums(values: NDArray[np.uint8], side: int) -> NDArray[np.int32]:
    """Sum squares of at most 256 px, (h / side, w / side, ...); one axis after the other, which is faster."""
    tall = _squares(values, side).sum(axis=1, dtype=np.uint16)
    return np.asarray(tall.sum(axis=2, dtype=np.int32))


def label_maps(patches: Sequence[Patch], shape: tuple[int, int]) -> dict[str, NDArray[np.float32]]:
    """Draw labels of patches as maps of tiles.

    Args:
        patches: All patches of a slide.
        shape: (rows, cols) of its tile grid.

    Returns:
        For each label (rows, cols): its share of the labelled area of each tile, 0 to 1; NaN where nothing is labelled.
    """
    areas: dict[str, NDArray[np.float64]] = {}
    for label, region in sorted((patch.label, patch.region) for patch in patches if patch.region and patch.label):
        area = areas.setdefault(label, np.zeros(shape))
        rows, tall = _overlaps(region.y, region.height)
        cols, wide = _overlaps(region.x, region.width)
        area[rows, cols] += np.outer(tall, wide)
    total = np.sum(list(areas.values()), axis=0) if areas else np.zeros(shape)
    known = np.where(total > 0, total, np.nan)
    return {label: (area / known).astype(np.float32) for label, area in areas.items()}


def _overlaps(start: int, length: int) -> tuple[slice, NDArray[np.int64]]:
    """Return which tiles an interval touches along one axis, and how much of it lies in each, px."""
    first, last = start // TILE, (start + length - 1) // TILE
    edges = np.clip(np.arange(first, last + 2) * TILE, start, start + length)
    return slice(first, last + 1), np.diff(edges)
