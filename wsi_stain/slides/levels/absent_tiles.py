"""Tiles of a slide file that were never written, as its directories tell. Reads no pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.geometry import Region, ceil_div
from wsi_stain.slides.levels.level import Level
from wsi_stain.slides.tiff.directories import TiffDirectory


class AbsentTiles:
    """The tiles of each level that were never written.

    Args:
        directories: Of each of OpenSlide's levels the one directory that holds it; None where that is not known.
    """

    def __init__(self, directories: Sequence[TiffDirectory | None]) -> None:
        self._directories = directories
        self._absent = [None if own is None or own.counts.all() else own.absent for own in directories]

    def touch(self, level: Level, part: Region) -> bool:
        """Check whether a part of a level touches a tile that was never written."""
        absent = self._absent[level.number]
        if absent is None:
            return False
        rows = slice(part.y // level.tile.height, ceil_div(part.y + part.height, level.tile.height))
        columns = slice(part.x // level.tile.width, ceil_div(part.x + part.width, level.tile.width))
        return bool(absent[rows, columns].any())

    def hidden_levels(self, vendor: str) -> dict[int, int]:
        """Return the directory of each level that OpenSlide does not show, by its number.

        Of an Aperio file it shows nothing on coarser levels where a finer one lacks tiles, though the file has them
        there.
        """
        if vendor != "aperio":
            return {}
        lacking = (number for number, absent in enumerate(self._absent) if absent is not None)
        first = next(lacking, len(self._absent))
        return {
            number: directory.number
            for number, directory in enumerate(self._directories)
            if number > first and directory is not None
        }

    def count_nowhere(self, levels: Sequence[Level]) -> tuple[int, int]:
        """Count the tiles of level 0, and those never written on any level that would show their centres."""
        base = levels[0]
        absent = self._absent[base.number]
        if absent is None:
            return 0, 1
        nowhere = absent.copy()
        rows, columns = np.nonzero(absent)
        y, x = (rows + 0.5) * base.tile.height, (columns + 0.5) * base.tile.width
        for level in levels[1:]:
            there = self._absent[level.number]
            if there is None:
                return 0, absent.size
            nowhere[rows, columns] &= _lookup(there, level, x, y)
        return int(nowhere.sum()), absent.size


def _lookup(
    there: NDArray[np.bool_], level: Level, x_l0: NDArray[np.floating], y_l0: NDArray[np.floating]
) -> NDArray[np.bool_]:
    """Return what a map (rows, columns) of a level's tiles says at places in level 0, (n,)."""
    rows = np.minimum(y_l0 / float(level.scale_y) // level.tile.height, there.shape[0] - 1).astype(int)
    columns = np.minimum(x_l0 / float(level.scale_x) // level.tile.width, there.shape[1] - 1).astype(int)
    return np.asarray(there[rows, columns])
