"""Scales of levels: pixels of level 0 that one pixel of each level stands for. Knows no formats.

The ratio of a level's size to level 0's tells it only where the size is a level's true one: writers also round sizes
up to whole tiles, and then the ratio is wrong by any amount, often another one along each axis. So a level's own
resolution is believed first, as far as its size allows it; then the ratio, where no padding could explain the size as
well; and where that is open, the pixels are compared with those of the next finer level. A level whose scale stays open
is not used.

Memory bound: `_PATCHES` times the pixels of the finer level under a patch of `_PATCH` px.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from math import ceil, floor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from wsi_stain.core.errors import UnreadableError
from wsi_stain.core.geometry import Mpp, Region, Size, ceil_div
from wsi_stain.slides.resampling import area_average

_POWERS = [2**power for power in range(1, 13)]
_USUAL_FACTORS = [2, 3, *_POWERS[1:]]
_FACTORS = sorted({*range(2, 65), *_POWERS})
"""By which levels may be shrunk: what is looked for where padding hides it. Where a power of two leaves no rest, only
few others are thought of: comparing pixels takes a second.
"""

_LEAST_STATED = 1.2
"""A level's resolution that is closer to level 0's was copied from there, and says nothing."""

_WHOLE = Fraction(1, 100)
"""A stated scale that is this near to a whole number means it."""

_PATCH, _CELLS, _PATCHES = 64, 8, 12
_LEAST_PATCHES = 3
_LEAST_CONTRAST = 2.0
_SURROUNDINGS_PX = 4.0
_LEAST_LIKENESS, _LEAST_LEAD = 0.6, 0.15
"""Correlation of a level with what the finer one shows: above 0.9 at the right scale, below 0.4 at a wrong one."""

_MOST_PIXELS = 4096**2
_SAME_PX = 2


class Scale(NamedTuple):
    """Level-0 pixels per pixel of a level along x and y."""

    x: Fraction
    y: Fraction


class LevelClaim(NamedTuple):
    """Claims of a file on a level.

    Attributes:
        size: Width and height, px.
        tile: Size of the tiles that its size may be padded to, px; None where its size is its true one.
        mpp: Its own resolution, um per px, or None.
    """

    size: Size
    tile: Size | None = None
    mpp: Mpp | None = None


Read = Callable[[int, Region], NDArray[np.uint8]]
"""RGB of a region of a level, (height, width, 3); raises UnreadableError."""


def level_scales(claims: Sequence[LevelClaim], read: Read) -> list[Scale | None]:
    """Find each level's scale.

    Args:
        claims: The levels, finest first; sizes of at least 1 px.
        read: Reads pixels, where claims leave it open.

    Returns:
        For each level its scale, None where it cannot be told; the first is always 1.
    """
    scales: list[Scale | None] = [Scale(Fraction(1), Fraction(1))]
    for number in range(1, len(claims)):
        scales.append(_scale(claims, scales, number, read))
    return scales


def _scale(claims: Sequence[LevelClaim], finer: Sequence[Scale | None], number: int, read: Read) -> Scale | None:
    base, own = claims[0], claims[number]
    stated = _scale_by_resolution(base, own)
    if stated is not None and (_is_exact(base.size, own.size, stated) or _is_padded(base.size, own, stated)):
        return _refine(base.size, own.size, stated)
    ratio = Scale(*(length_ratio(*lengths) for lengths in zip(base.size, own.size, strict=True)))
    plain = _is_isotropic(base.size, own.size)
    usual = plain and ratio.x == ratio.y and ratio.x in _POWERS
    factors = _USUAL_FACTORS if usual else _FACTORS
    padded = [scale for scale in _paddings(base.size, own, factors) if not _is_exact(base.size, own.size, scale)]
    if plain and stated is None and not padded:
        return ratio
    options = [ratio, *padded, *([stated] if stated else [])]
    found = _likeliest(claims, finer, number, options, read)
    return found or (ratio if usual else None)


def length_ratio(length_l0: int, length: int) -> Fraction:
    """Return level-0 pixels per pixel of a level along an axis, by its length alone.

    Scanners shrink by a whole factor and then drop or pad the last pixel, so the ratio of lengths is slightly off (on a
    TCGA slide half a pixel at the far edge, where the whole factor fits to 0.02 px). It holds where no factor fits.
    """
    factor = round(length_l0 / length)
    return Fraction(factor) if abs(length * factor - length_l0) < factor else Fraction(length_l0, length)


def _scale_by_resolution(base: LevelClaim, own: LevelClaim) -> Scale | None:
    """Return the scale that the level's resolution gives; None where it says nothing."""
    if base.mpp is None or own.mpp is None:
        return None
    sides = [Fraction(level / finest) for level, finest in zip(own.mpp, base.mpp, strict=True)]
    if max(sides) < _LEAST_STATED:
        return None
    return Scale(*(Fraction(round(side)) if abs(side - round(side)) < _WHOLE * side else side for side in sides))


def _is_exact(size_l0: Size, size: Size, scale: Scale) -> bool:
    """Check whether a level has the size that a scale gives, the last pixel dropped, kept or padded."""
    return all(
        abs(length * side - length_l0) <= side + _WHOLE * length_l0 * (side.denominator != 1)
        for length_l0, length, side in zip(size_l0, size, scale, strict=True)
    )


def _is_padded(size_l0: Size, own: LevelClaim, scale: Scale) -> bool:
    """Check whether a level has the size that a scale gives, rounded up to whole tiles."""
    return own.tile is not None and all(
        ceil_div(ceil(length_l0 / side), tile) * tile == length
        for length_l0, length, side, tile in zip(size_l0, own.size, scale, own.tile, strict=True)
    )


def _refine(size_l0: Size, size: Size, stated: Scale) -> Scale:
    """Return a stated scale, to the last digit where the size is the true one: resolutions are rounded."""
    if not _is_exact(size_l0, size, stated):
        return stated
    return Scale(*(length_ratio(*lengths) for lengths in zip(size_l0, size, strict=True)))


def _is_isotropic(size_l0: Size, size: Size) -> bool:
    """Check whether one scale explains both sides, give or take the last pixel."""
    lengths = list(zip(size_l0, size, strict=True))
    least = max(Fraction(length_l0, length + 1) for length_l0, length in lengths)
    return least <= min(Fraction(length_l0, max(length - 1, 1)) for length_l0, length in lengths)


def _paddings(size_l0: Size, own: LevelClaim, factors: Sequence[int]) -> Iterator[Scale]:
    """Yield the factors that give the level's size rounded up to whole tiles."""
    for factor in factors:
        scale = Scale(Fraction(factor), Fraction(factor))
        if _is_padded(size_l0, own, scale):
            yield scale


# Pixels


def _likeliest(
    claims: Sequence[LevelClaim], scales: Sequence[Scale | None], number: int, options: Sequence[Scale], read: Read
) -> Scale | None:
    """Return the scale at which a level shows what the next finer one shows; None where no single one stands out."""
    fine = max(level for level, scale in enumerate(scales) if scale is not None)
    own, finer, step = claims[number].size, claims[fine].size, scales[fine]
    assert step is not None
    patches = _patches(number, own, read)
    likeness = []
    for option in options:
        relative = Scale(option.x / step.x, option.y / step.y)
        values = [
            _likeness(place, patch, finer, relative, lambda region: read(fine, region)) for place, patch in patches
        ]
        seen = [value for value in values if value is not None]
        likeness.append(float(np.mean(seen)) if len(seen) >= min(_LEAST_PATCHES, len(patches)) and seen else -1.0)
    if not patches or max(likeness) < _LEAST_LIKENESS:
        return None
    best = options[int(np.argmax(likeness))]
    others = [
        value for option, value in zip(options, likeness, strict=True) if not _is_same(option, best, claims[0].size)
    ]
    return best if max(likeness) - max(others, default=-1.0) >= _LEAST_LEAD else None


def _patches(number: int, size: Size, read: Read) -> list[tuple[Region, NDArray[np.float32]]]:
    """Return the parts of a level that show most, (h, w), and where they lie."""
    side = max(8, min(_PATCH, min(size) // 4))
    found = []
    for place in sorted({place for place in _cells(size, side)}):
        try:
            found.append((place, _structure(read(number, place))))
        except UnreadableError:
            continue
    found = [(place, patch) for place, patch in found if patch.std() >= _LEAST_CONTRAST]
    return sorted(found, key=lambda item: -float(item[1].std()))[:_PATCHES]


def _cells(size: Size, side: int) -> Iterator[Region]:
    width, height = min(side, size.width), min(side, size.height)
    for y in np.linspace(0, size.height - height, _CELLS).astype(int).tolist():
        for x in np.linspace(0, size.width - width, _CELLS).astype(int).tolist():
            yield Region(x, y, width, height)


def _likeness(
    place: Region, patch: NDArray[np.float32], size: Size, step: Scale, read: Callable[[Region], NDArray[np.uint8]]
) -> float | None:
    """Correlate a patch with what the finer level of a size shows there; None where it ends before."""
    left, top = floor(place.x * step.x), floor(place.y * step.y)
    right, bottom = ceil((place.x + place.width) * step.x), ceil((place.y + place.height) * step.y)
    width, height = right - left, bottom - top
    if right > size.width or bottom > size.height or width * height > _MOST_PIXELS or min(step) < 1:
        return None
    try:
        pixels = read(Region(left, top, width, height))
    except UnreadableError:
        return None
    x, y = place.x * step.x - left, place.y * step.y - top
    shown = _structure(area_average(pixels, x, y, step.x, step.y, place.width, place.height))
    if not shown.std():
        return 0.0
    return float(np.corrcoef(shown.ravel(), patch.ravel())[0, 1])


def _is_same(one: Scale, other: Scale, size_l0: Size) -> bool:
    """Check whether two scales place the last pixel of a level alike."""
    return all(abs(length / a - length / b) < _SAME_PX for length, a, b in zip(size_l0, one, other, strict=True))


def _structure(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Compute luminance less its surroundings, (h, w): shades over a whole patch are alike wherever it lies."""
    luminance = pixels.mean(axis=2, dtype=np.float32)
    return np.asarray(luminance - gaussian_filter(luminance, _SURROUNDINGS_PX), np.float32)
