"""Regions of a level, with what it lacks as another level has it. Knows no resolution.

What a level does not have is shown as another level has it: averaged from the next finer one, which shows all that was
lost, else enlarged from a coarser one. What cannot be decoded is then an error, or on request listed. A tile that was
never written is no error where it stands for glass, whatever the vendor; where a coarser level shows tissue it is a
loss as well. Whether it shows tissue or glass is told beside the brightest of the coarsest level. Where no coarser
level has it, there is nothing to tell by: it is shown as background, and counted.

Memory bound: that of `own_pixels`, and `_MOST_STANDING_IN` pixels of a finer level.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cached_property
from math import ceil, floor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.arrays import Rgb8, window
from wsi_stain.core.errors import UnreadableError
from wsi_stain.core.geometry import Region, Size, split_on_grid
from wsi_stain.slides.levels.level import Level
from wsi_stain.slides.levels.own_pixels import OwnPixels
from wsi_stain.slides.resampling import area_average, bicubic, source_span

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
            if level == 0 and not self._own.lacks_tiles if repaired is None else len(repaired) >= _MAX_REPAIRED:
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
            pixels, shown = self._stand_ins.enlarge_coarser(level, part)
            if not (self._own.lacks_tiles and shown is not None and self._stand_ins.is_glass(shown)):
                if repaired is None:
                    raise error
                repaired.append(LostPart(part, error.problem))
        out[:] = self._background if pixels is None else pixels

    def _fill_absent(self, level: int, part: Region, out: NDArray[np.uint8], repaired: list[LostPart] | None) -> None:
        """Fill `out` with what a tile that was never written stands for."""
        pixels = self._stand_ins.shrink_finer(level, part)
        if pixels is None:
            pixels, shown = self._stand_ins.enlarge_coarser(level, part)
            if repaired is not None and shown is not None and not self._stand_ins.is_glass(shown):
                repaired.append(LostPart(part, "the file lacks tiles where a coarser level shows tissue"))
        out[:] = self._background if pixels is None else pixels


_MOST_STANDING_IN = 4096**2
_BICUBIC = 2
"""Pixels beside a part that its enlargement takes."""

_WHITE_PLACES, _WHITE_SIDE = 8, 64
_GLASS_CHROMA, _GLASS_OD, _GLASS_SHARE = 0.08, 0.15, 0.02
"""Glass has less than this between the channels and on their mean (OD), but for a share of dust and JPEG's noise."""

Shown = tuple[NDArray[np.uint8] | None, NDArray[np.uint8] | None]
"""A part as another level has it, (height, width, 3), and that level's own pixels that lie in it, at least one; None
where it lacks it too."""


class StandIns:
    """Parts of levels as the other levels have them.

    Args:
        levels: Those that can be used, finest first.
        own: The pixels of each.
    """

    def __init__(self, levels: Sequence[Level], own: OwnPixels) -> None:
        self._levels, self._own = levels, own

    def shrink_finer(self, level: int, part: Region) -> NDArray[np.uint8] | None:
        """Shrink a part of a level from the next finer level, (height, width, 3); None where that lacks it too."""
        if level == 0:
            return None
        own, finer = self._levels[level], self._levels[level - 1]
        if part.width * part.height * own.scale_x * own.scale_y > _MOST_STANDING_IN * finer.scale_x * finer.scale_y:
            return None
        return self._show(level - 1, level, part)[0]

    def enlarge_coarser(self, level: int, part: Region) -> Shown:
        """Enlarge a part of a level from the next coarser level that has all of it."""
        for coarser in range(level + 1, len(self._levels)):
            for margin in (_BICUBIC, 0):  # what lies beside it may be lacking
                pixels, shown = self._show(coarser, level, part, margin)
                if pixels is not None:
                    return pixels, shown
        return None, None

    def is_glass(self, pixels: NDArray[np.uint8]) -> bool:
        """Check whether pixels (h, w, 3) of a coarser level show nothing but glass."""
        od = np.log((self._white + 1) / (pixels.astype(np.float32) + 1))
        stained = (np.ptp(od, axis=2) > _GLASS_CHROMA) | (od.mean(axis=2) > _GLASS_OD)
        return float(stained.mean()) <= _GLASS_SHARE

    def _show(self, other: int, level: int, part: Region, margin: int = 0) -> Shown:
        """Read a part of a level as another level has it, by that level's pixels in the part and a margin beside it."""
        own, there = self._levels[level], self._levels[other]
        step_x, step_y = own.scale_x / there.scale_x, own.scale_y / there.scale_y
        sample = bicubic if other > level else area_average
        left, right = source_span(part.x * step_x, step_x, part.width, margin, there.size.width)
        top, bottom = source_span(part.y * step_y, step_y, part.height, margin, there.size.height)
        try:
            pixels = self._own.read(there, Region(left, top, right - left, bottom - top))
        except UnreadableError:
            return None, None
        x, y = part.x * step_x - left, part.y * step_y - top
        inside = pixels[_whole(y, part.height * step_y), _whole(x, part.width * step_x)]
        return sample(pixels, x, y, step_x, step_y, part.width, part.height), inside

    @cached_property
    def _white(self) -> NDArray[np.float32]:
        """RGB of the brightest of the coarsest level, fill left out, from places spread over it."""
        last = self._levels[-1]
        seen = [np.empty((0, 3), np.uint8)]
        for place in _spread(last.size):
            try:
                seen.append(self._own.read(last, place).reshape(-1, 3))
            except UnreadableError:
                continue
        pixels = np.concatenate(seen)
        pixels = pixels[~(pixels == 255).all(axis=1)]
        white = np.percentile(pixels, 98, axis=0) if len(pixels) else np.full(3, 255.0)
        return np.asarray(white, np.float32)


def _whole(start: Fraction, length: Fraction) -> slice:
    """Return the pixels that lie wholly in a span; the one in its middle where none does."""
    first, last = ceil(start), floor(start + length)
    return slice(first, last) if first < last else slice(middle := floor(start + length / 2), middle + 1)


def _spread(size: Size) -> Iterator[Region]:
    """Yield small regions spread evenly over a level."""
    width, height = min(_WHITE_SIDE, size.width), min(_WHITE_SIDE, size.height)
    for y in np.unique(np.linspace(0, size.height - height, _WHITE_PLACES).astype(int)).tolist():
        for x in np.unique(np.linspace(0, size.width - width, _WHITE_PLACES).astype(int)).tolist():
            yield Region(x, y, width, height)
