"""Regions of a level, with what it lacks as another level has it. Knows no resolution.

What a level does not have is shown as another level has it: averaged from a finer one, which shows all that was lost,
else enlarged from a coarser one. What cannot be decoded is then an error, or on request listed. A tile that was never
written is no error where it stands for glass, whatever the vendor; where a coarser level shows tissue it is a loss as
well. Where no coarser level has it, there is nothing to tell by: it is shown as background, and counted.

Memory bound: that of `own_pixels`, and what stands in for a tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.arrays import Rgb8, window
from wsi_stain.core.errors import UnreadableError
from wsi_stain.core.geometry import Region, split_on_grid
from wsi_stain.slides.levels.level import Level
from wsi_stain.slides.levels.own_pixels import OwnPixels
from wsi_stain.slides.levels.stand_ins import StandIns

_MAX_REPAIRED = 1000


class LostPart(NamedTuple):
    """A part of a level that was lost.

    Attributes:
        region: Where, in pixels of the level.
        reason: Why.
    """

    region: Region
    reason: str


class LevelReader:
    """Reads regions of the levels of an open slide, in the file's own colours.

    Args:
        levels: Those that can be used, finest first.
        own: The pixels of each.
        background: RGB where no level has anything.
    """

    def __init__(self, levels: Sequence[Level], own: OwnPixels, background: Rgb8) -> None:
        self._levels, self._own, self._background = levels, own, background
        self._stand_ins = StandIns(levels, own)

    def read(self, level: int, region_level: Region, out: NDArray[np.uint8], repaired: list[LostPart] | None) -> None:
        """Fill `out` (height, width, 3) with a region of a level.

        Args:
            level: Its number, 0 the finest.
            region_level: Within the level, in its own pixels.
            out: Where the pixels go.
            repaired: Parts that are lost are added here; without it what cannot be decoded is an error.

        Raises:
            UnreadableError: A part could not be decoded, not even by a fresh handle; or far too many.
            SlideError: The file can no longer be opened.
        """
        for piece in self._own.paste(self._levels[level], region_level, out):
            self._fill(level, piece, window(out, region_level, piece), repaired)

    def _fill(self, level: int, piece: Region, out: NDArray[np.uint8], repaired: list[LostPart] | None) -> None:
        """Fill `out` with a piece; tile by tile where some were never written."""
        own, absent = self._levels[level], self._own.absent
        if not absent.touch(own, piece):
            self._fill_written(level, piece, out, repaired)
            return
        for tile in split_on_grid(piece, own.tile):
            fill = self._fill_absent if absent.touch(own, tile) else self._fill_written
            fill(level, tile, window(out, piece, tile), repaired)

    def _fill_written(self, level: int, piece: Region, out: NDArray[np.uint8], repaired: list[LostPart] | None) -> None:
        """Fill `out` by decoding; if need be tile by tile, so as to lose no more."""
        own = self._levels[level]
        try:
            out[:] = self._own.decode(own, piece)
        except UnreadableError as error:
            if level == 0 if repaired is None else len(repaired) >= _MAX_REPAIRED:
                raise
            tiles = list(split_on_grid(piece, own.tile))
            if len(tiles) == 1:
                self._fill_undecodable(level, piece, out, repaired, error)
                return
            for tile in tiles:
                self._fill_written(level, tile, window(out, piece, tile), repaired)

    def _fill_undecodable(
        self,
        level: int,
        part: Region,
        out: NDArray[np.uint8],
        repaired: list[LostPart] | None,
        error: UnreadableError,
    ) -> None:
        """Fill `out` with what stands in for a tile that cannot be decoded; raise the error where nothing may."""
        pixels = self._stand_ins.shrink_finer(level, part)
        if pixels is None:
            if repaired is None:
                raise error
            repaired.append(LostPart(part, error.problem))
            pixels = self._stand_ins.enlarge_coarser(level, part)[0]
        out[:] = self._background if pixels is None else pixels

    def _fill_absent(self, level: int, part: Region, out: NDArray[np.uint8], repaired: list[LostPart] | None) -> None:
        """Fill `out` with what a tile that was never written stands for."""
        pixels = self._stand_ins.shrink_finer(level, part)
        if pixels is None:
            pixels, shown = self._stand_ins.enlarge_coarser(level, part)
            if repaired is not None and shown is not None and not self._stand_ins.is_glass(shown):
                repaired.append(LostPart(part, "the file lacks tiles where a coarser level shows tissue"))
        out[:] = self._background if pixels is None else pixels
