"""What stands in for a part that a level lacks: the same part of another level, if it has it. Knows no resolution.

Averaged from the next finer level, which shows all that was lost, or enlarged from a coarser one. Whether that shows
tissue or glass is told beside the brightest of the coarsest level.

Memory bound: `_MOST_STANDING_IN` pixels of a finer level.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.errors import UnreadableError
from wsi_stain.core.geometry import Region, Size
from wsi_stain.slides.levels.level import Level
from wsi_stain.slides.levels.own_pixels import OwnPixels
from wsi_stain.slides.resampling import area_average, bicubic, source_span

_MOST_STANDING_IN = 4096**2

_WHITE_PLACES, _WHITE_SIDE = 8, 64
_GLASS_CHROMA, _GLASS_OD, _GLASS_SHARE = 0.08, 0.15, 0.02
"""Glass has less than this between the channels and on their mean (OD), but for a share of dust and JPEG's noise."""

Shown = tuple[NDArray[np.uint8] | None, NDArray[np.uint8] | None]
"""A part as another level has it, (height, width, 3), and that level's own pixels there; None where it lacks it too."""


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
            pixels, shown = self._show(coarser, level, part)
            if pixels is not None:
                return pixels, shown
        return None, None

    def is_glass(self, pixels: NDArray[np.uint8]) -> bool:
        """Check whether pixels (h, w, 3) of a coarser level show nothing but glass."""
        od = np.log((self._white + 1) / (pixels.astype(np.float32) + 1))
        stained = (np.ptp(od, axis=2) > _GLASS_CHROMA) | (od.mean(axis=2) > _GLASS_OD)
        return float(stained.mean()) <= _GLASS_SHARE

    def _show(self, other: int, level: int, part: Region) -> Shown:
        """Read a part of a level as another level has it."""
        own, there = self._levels[level], self._levels[other]
        step_x, step_y = own.scale_x / there.scale_x, own.scale_y / there.scale_y
        margin, sample = (2, bicubic) if other > level else (0, area_average)
        left, right = source_span(part.x * step_x, step_x, part.width, margin, there.size.width)
        top, bottom = source_span(part.y * step_y, step_y, part.height, margin, there.size.height)
        try:
            pixels = self._own.read(there, Region(left, top, right - left, bottom - top))
        except UnreadableError:
            return None, None
        x, y = part.x * step_x - left, part.y * step_y - top
        return sample(pixels, x, y, step_x, step_y, part.width, part.height), pixels

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


def _spread(size: Size) -> Iterator[Region]:
    """Yield small regions spread evenly over a level."""
    width, height = min(_WHITE_SIDE, size.width), min(_WHITE_SIDE, size.height)
    for y in np.unique(np.linspace(0, size.height - height, _WHITE_PLACES).astype(int)).tolist():
        for x in np.unique(np.linspace(0, size.width - width, _WHITE_PLACES).astype(int)).tolist():
            yield Region(x, y, width, height)
