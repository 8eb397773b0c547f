"""The levels of a slide file: their sizes as OpenSlide states them, checked, and their scales. Opens no file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.errors import SlideError
from wsi_stain.core.geometry import Region, Size
from wsi_stain.slides.claims import SlideClaims
from wsi_stain.slides.levels.scales import LevelClaim, Scale, level_scales
from wsi_stain.slides.openslide_handle import OpenSlideHandle
from wsi_stain.slides.remedies import DAMAGED

_MAX_SIDE = 2**21
_MAX_LEVELS = 64
_UNKNOWN_TILE = Size(256, 256)


class Level(NamedTuple):
    """A level of the pyramid.

    Attributes:
        number: OpenSlide's number of it: levels of which no scale can be told are left out.
        size: Pixels of this level.
        scale_x: Level-0 pixels per pixel of this level along x.
        scale_y: Likewise along y.
        downsample: OpenSlide's own figure, by which its `read_region` places this level.
        tile: The file's own tiles, as OpenSlide states them; 256 px where it does not.
    """

    number: int
    size: Size
    scale_x: Fraction
    scale_y: Fraction
    downsample: float
    tile: Size


ReadLevel = Callable[[Level, Region], NDArray[np.uint8]]
"""RGB of a region of a level, (height, width, 3); raises UnreadableError."""


def check_sizes(handle: OpenSlideHandle) -> None:
    """Refuse, by a SlideError, sizes that no slide has."""
    sizes = handle.sizes
    if len(sizes) > _MAX_LEVELS or any(not 1 <= side <= _MAX_SIDE for size in sizes for side in size):
        raise SlideError(
            f"{handle.path} states {len(sizes)} levels of {[tuple(size) for size in sizes[:4]]} px, expected sides of 1"
            f" to {_MAX_SIDE} and at most {_MAX_LEVELS} levels",
            DAMAGED,
        )


def list_levels(handle: OpenSlideHandle) -> tuple[Level, ...]:
    """Return the levels, finest first, each with a scale of 1 so far."""
    return tuple(
        Level(number, size, Fraction(1), Fraction(1), downsample, _tile(handle, number))
        for number, (size, downsample) in enumerate(zip(handle.sizes, handle.downsamples, strict=True))
    )


def settle_scales(
    path: Path, levels: Sequence[Level], said: SlideClaims, read: ReadLevel
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
    known = _known_scales(path, *_file_state(path), tuple(claims))
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
def _known_scales(path: Path, size: int, mtime_ns: int, claims: tuple[LevelClaim, ...]) -> list[list[Scale | None]]:
    """Remember the scales of a file's levels, once they are found: comparing pixels takes seconds.

    Returns:
        A list with the scales, or an empty one to put them into.
    """
    return []


def _file_state(path: Path) -> tuple[int, int]:
    """Return the size of a file and the time of its last change, ns."""
    state = path.stat()
    return state.st_size, state.st_mtime_ns


def _tile(handle: OpenSlideHandle, number: int) -> Size:
    """Return the size of a level's tiles as OpenSlide states it."""
    name = f"openslide.level[{number}].tile"
    width, height = (int(handle.properties.get(f"{name}-{side}", 0)) for side in ("width", "height"))
    return Size(width, height) if width > 0 and height > 0 else _UNKNOWN_TILE
