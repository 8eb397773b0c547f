"""The levels of a slide file: their sizes as its reader states them, their scales, and which of their tiles were never
written, as its directories tell. Opens no file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.geometry import Region, Size, ceil_div
from wsi_stain.core.storage import StoragePath
from wsi_stain.slides.claims import SlideClaims
from wsi_stain.slides.levels.scales import LevelClaim, Scale, level_scales
from wsi_stain.slides.parts import file_state
from wsi_stain.slides.readers.base import SlideReader


class Level(NamedTuple):
    """A level of the pyramid.

    Attributes:
        number: The reader's number of it: levels of which no scale can be told are left out.
        size: Pixels of this level.
        scale_x: Level-0 pixels per pixel of this level along x.
        scale_y: Likewise along y.
        tile: The file's own tiles, as the reader states them.
    """

    number: int
    size: Size
    scale_x: Fraction
    scale_y: Fraction
    tile: Size


ReadLevel = Callable[[Level, Region], NDArray[np.uint8]]
"""RGB of a region of a level, (height, width, 3); raises UnreadableError."""


def list_levels(reader: SlideReader) -> tuple[Level, ...]:
    """Return the levels, finest first, each with a scale of 1 so far."""
    return tuple(
        Level(number, size, Fraction(1), Fraction(1), tile)
        for number, (size, tile) in enumerate(zip(reader.sizes, reader.tiles, strict=True))
    )


def settle_scales(
    path: StoragePath, levels: Sequence[Level], said: SlideClaims, read: ReadLevel
) -> tuple[tuple[Level, ...], tuple[str, ...]]:
    """Give each level its scale.

    Args:
        path: The slide's file.
        levels: As `list_levels` returns them.
        said: What the file claims.
        read: Reads what a level has itself, in the file's own colours.

    Returns:
        The levels that have a scale, and a remark on each that has none and is left out.
    """
    claims = [
        LevelClaim(level.size, level.tile if said.may_pad else None, mpp)
        for level, mpp in zip(levels, said.mpp, strict=True)
    ]
    known = _known_scales(path, file_state(path), tuple(claims))
    if not known:
        known.append(level_scales(claims, lambda number, region: read(levels[number], region)))
    settled = list(zip(levels, known[0], strict=True))
    return (
        tuple(level._replace(scale_x=scale.x, scale_y=scale.y) for level, scale in settled if scale is not None),
        tuple(_remark_unused(level.size) for level, scale in settled if scale is None),
    )


def _remark_unused(size: Size) -> str:
    return (
        f"its level of {size.width} x {size.height} px is not used: neither its size"
        " nor its resolution nor its pixels tell its scale"
    )


@lru_cache(maxsize=256)
def _known_scales(
    path: StoragePath, state: tuple[int, ...], claims: tuple[LevelClaim, ...]
) -> list[list[Scale | None]]:
    """Remember the scales of a file's levels, once they are found: comparing pixels takes seconds.

    Returns:
        A list with the scales, or an empty one to put them into.
    """
    return []


class AbsentTiles:
    """The tiles of each level that were never written.

    Args:
        claims: What the file claims.
    """

    def __init__(self, claims: SlideClaims) -> None:
        self._directories, self._is_sparse = claims.directories, claims.is_sparse
        self._absent = claims.absent

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
        """Count the tiles of level 0, and those never written on any level that would show their centres.

        None of these where the format leaves glass out everywhere.
        """
        base = levels[0]
        absent = self._absent[base.number]
        if absent is None or self._is_sparse:
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
