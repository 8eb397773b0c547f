"""Pixel grids laid over a slide's level 0 from its corner: the working frame, and coarser ones. Knows no pixels."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import ceil
from typing import NamedTuple

from wsi_stain.core.errors import SlideError
from wsi_stain.core.geometry import Mpp, Size, ceil_div
from wsi_stain.core.storage import StoragePath
from wsi_stain.slides.levels.level import Level

_NATIVE_TOLERANCE = Fraction(1, 100)
_LEVEL_TOLERANCE = Fraction(1, 1000)


class Grid(NamedTuple):
    """A grid of pixels.

    Attributes:
        size: How many it has along x and y.
        step_x: Width of a pixel, in pixels of level 0.
        step_y: Height of a pixel, likewise.
    """

    size: Size
    step_x: Fraction
    step_y: Fraction

    @property
    def is_level_0(self) -> bool:
        """Whether its pixels are those of level 0."""
        return self.step_x == self.step_y == 1

    def shrink(self, factor: int) -> Grid:
        """Return the grid whose pixels are so many of this one's along each side; the last may reach over the edge."""
        size = Size(ceil_div(self.size.width, factor), ceil_div(self.size.height, factor))
        return Grid(size, self.step_x * factor, self.step_y * factor)

    def resize(self, size: Size) -> Grid:
        """Return the grid of another number of pixels that covers the same."""
        step_x, step_y = Fraction(self.size.width, size.width), Fraction(self.size.height, size.height)
        return Grid(size, self.step_x * step_x, self.step_y * step_y)

    def choose_level(self, levels: Sequence[Level]) -> int:
        """Find the coarsest of a slide's levels that is at least as fine as the grid; 0 when none is."""

        def fine_enough(level: Level) -> bool:
            slack = 1 + _LEVEL_TOLERANCE
            return level.scale_x <= self.step_x * slack and level.scale_y <= self.step_y * slack

        numbers = [number for number, level in enumerate(levels) if fine_enough(level)]
        return max(numbers, default=0, key=lambda number: levels[number].scale_x)


def working_frame(path: StoragePath, size_l0: Size, mpp_l0: Mpp, mpp: float | None, allow_upsample: bool) -> Grid:
    """Lay out a slide's working frame: level 0 itself where that has the wanted resolution within 1 %.

    Args:
        path: The slide, for messages.
        size_l0: Size of level 0, px.
        mpp_l0: Its resolution, um per px.
        mpp: The wanted one, um per px; None for level 0's own.
        allow_upsample: Whether that may be finer than level 0's.

    Raises:
        SlideError: It is, and may not be.
    """
    step_x, step_y = (Fraction(str(mpp or own)) / Fraction(str(own)) for own in mpp_l0)  # decimal: 0.6 / 0.2 is 3
    if all(abs(step - 1) <= _NATIVE_TOLERANCE for step in (step_x, step_y)):
        return Grid(size_l0, Fraction(1), Fraction(1))
    if is_finer(step_x, step_y) and not allow_upsample:
        raise SlideError(
            f"{path} has {mpp_l0.mean:.4g} um/px, coarser than the {mpp:g} asked for",
            f"Ask for --mpp {mpp_l0.mean:.4g} or coarser, or set tiling.slide.allow_upsample; if the file's"
            " resolution is wrong, give the true one with --slide-mpp",
        )
    return Grid(Size(ceil(size_l0.width / step_x), ceil(size_l0.height / step_y)), step_x, step_y)


def is_finer(step_x: Fraction, step_y: Fraction) -> bool:
    """Check whether pixels of these steps are smaller than those they are made from, beyond the tolerance."""
    return min(step_x, step_y) < 1 - _NATIVE_TOLERANCE
