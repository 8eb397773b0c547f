"""Layout of the passes of a generator on a slide, and the picture that their results make. Knows no generator.

Side by side, where a window shows all that its core's pixels see: the cores stand next to each other, and the picture
does not depend on the cut.

    margin     core      margin
    |------|-----------|------|
                |------|-----------|------|

Blended, where that much would be too much: results overlap and fade into each other linearly, so that a pixel lies in
one to four of them, with weights that sum to 1. Windows then stand on one lattice for the whole slide and sums run in
its order: a pixel comes out the same in whatever block it is computed.

    margin overlap   core    overlap margin
    |------|------|-----------|------|------|
              |------|------|-----------|------|------|
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from wsi_stain.core.arrays import Mask, RgbImage
from wsi_stain.core.geometry import BLOCK, TILE, ceil_div

Corner = tuple[int, int]
"""Top and left of a core, px, from the block's origin."""

Part = tuple[slice, slice]
"""Rows and columns of a pass's result, px."""

GLASS = (255, 255, 255)
_LEAST_BAND = 4 * TILE


@dataclass(frozen=True)
class Windows:
    """The passes over a block whose origin lies on the lattice of cores.

    Attributes:
        stride_px: Side of the square that is one pass's own, px; where results are blended it divides a block's side.
        overlap: How far a result reaches into its neighbours' cores, px; 0 puts results side by side.
        margin: What a window shows beyond its result on each side, px.
    """

    stride_px: int
    overlap: int
    margin: int

    @property
    def side(self) -> int:
        """Side of a window, px."""
        return self.stride_px + 2 * (self.overlap + self.margin)

    @property
    def halo(self) -> int:
        """Source pixels needed on each side of a block, px: where results are blended, for the neighbours' windows."""
        return self.margin + self.overlap + (self.stride_px if self.overlap else 0)

    @property
    def band(self) -> int:
        """Rows of a block that are well done at once, px: a multiple of `stride_px`; all where results are blended."""
        return BLOCK if self.overlap else self.stride_px * ceil_div(_LEAST_BAND, self.stride_px)

    def corners(self, needed: Mask) -> list[Corner]:
        """List the corners of the passes whose results touch a needed tile, in the lattice's order."""
        beyond = 1 if self.overlap else 0
        rows, cols = (range(-beyond, ceil_div(count * TILE, self.stride_px) + beyond) for count in needed.shape)
        corners = [(row * self.stride_px, col * self.stride_px) for row in rows for col in cols]
        return [(top, left) for top, left in corners if needed[self._tiles(top), self._tiles(left)].any()]

    def find_needed(self, needed: Mask, corners: Sequence[Corner]) -> Part:
        """Find the part of results that holds all needed tiles of some passes; all of it where results are blended."""
        if self.overlap:
            return (slice(0, self.stride_px + 2 * self.overlap),) * 2
        tiles = np.zeros((self.stride_px // TILE, self.stride_px // TILE), bool)
        for top, left in corners:
            part = needed[self._tiles(top), self._tiles(left)]
            tiles[: part.shape[0], : part.shape[1]] |= part
        rows, cols = (np.flatnonzero(tiles.any(axis=axis)) * TILE for axis in (1, 0))
        return slice(int(rows[0]), int(rows[-1]) + TILE), slice(int(cols[0]), int(cols[-1]) + TILE)

    def _tiles(self, start: int) -> slice:
        first, end = start - self.overlap, start + self.stride_px + self.overlap
        return slice(max(first // TILE, 0), max(ceil_div(end, TILE), 0))

    def crop_window(self, pixels: RgbImage, corner: Corner) -> RgbImage:
        """Crop the window of a core, always of one shape; glass where the pixels end.

        Args:
            pixels: (h + 2 halo, w + 2 halo, 3) RGB of the block.
            corner: Of the core.
        """
        top, left = (start + self.halo - self.overlap - self.margin for start in corner)
        return crop_square(pixels, top, left, self.side)

    def join(
        self, results: Iterable[tuple[Corner, RgbImage]], shape: tuple[int, int], white: Sequence[int]
    ) -> RgbImage:
        """Put results together, white where there is none.

        Memory bound: the block; where results are blended, four times as much.

        Args:
            results: The results, (core + 2 overlap, core + 2 overlap, 3) RGB, in the order of `corners`; where they lie
                side by side a part will do, with that part's corner.
            shape: (height, width) of the block.
            white: RGB.

        Returns:
            (h, w, 3) RGB; anything in tiles that are not needed.
        """
        if self.overlap:
            return self._blend(results, shape)
        result = np.empty((*shape, 3), np.uint8)
        result[:] = np.full((shape[1], 3), white, np.uint8)  # many times as fast to fill with as one colour
        for (top, left), pixels in results:
            inner = result[top : top + len(pixels), left : left + pixels.shape[1]]
            inner[:] = pixels[: inner.shape[0], : inner.shape[1]]
        return result

    def _blend(self, results: Iterable[tuple[Corner, RgbImage]], shape: tuple[int, int]) -> RgbImage:
        total = np.zeros((*shape, 3), np.float32)
        ramp = (np.arange(2 * self.overlap, dtype=np.float32) + 0.5) / (2 * self.overlap)
        flat = np.ones(self.stride_px - 2 * self.overlap, np.float32)
        weight = np.concatenate([ramp, flat, ramp[::-1]])
        weights = (weight[:, None] * weight[None, :])[..., None]
        for corner, pixels in results:
            (to_rows, rows), (to_cols, cols) = (
                _overlap(start - self.overlap, len(weight), end) for start, end in zip(corner, shape, strict=True)
            )
            total[to_rows, to_cols] += weights[rows, cols] * pixels[rows, cols]
        total += 0.5
        return total.astype(np.uint8)


def crop_square(pixels: RgbImage, top: int, left: int, side: int, fill: Sequence[int] = GLASS) -> RgbImage:
    """Crop (side, side, 3) from RGB pixels, `fill` where they end; a view where they do not."""
    part = pixels[top : top + side, left : left + side]
    if part.shape[:2] == (side, side):
        return part
    square = np.empty((side, side, 3), np.uint8)
    square[:] = fill
    square[: part.shape[0], : part.shape[1]] = part
    return square


def _overlap(start: int, length: int, end: int) -> tuple[slice, slice]:
    """Return where [start, start + length) and [0, end) overlap: counted from 0, and counted from `start`."""
    first = max(start, 0)
    last = max(min(start + length, end), first)
    return slice(first, last), slice(first - start, last - start)
