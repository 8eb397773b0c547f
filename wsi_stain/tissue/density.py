"""Optical density of a thumbnail, and what is computed from it: colour, change, surroundings. Knows no slides or files.

Thumbnails are RGB (h, w, 3), uint8; densities float32, relative to the slide's own glass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.arrays import Mask
from wsi_stain.tissue.blur import blur

CHANGE_BLUR_UM = 4.0
"""So that thumbnails of any resolution compare."""

_CHANGE_UM = 8.0
_BLACK = 60

_Value = TypeVar("_Value", bound="np.number[Any]")

OD_OF_VALUE = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)


def find_extremes(values: NDArray[_Value]) -> tuple[NDArray[_Value], NDArray[_Value]]:
    """Return the least and the largest of red, green and blue, (...) of (..., 3)."""
    red, green, blue = (values[..., channel] for channel in range(3))
    return np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)


def measure_chroma(od: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Compute the largest minus smallest OD of each pixel's surroundings, (h, w); sigma in px."""
    least, most = find_extremes(blur(od, sigma))
    return np.asarray(most - least, np.float32)


def root_mean_square(values: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Compute the root mean square of each pixel's surroundings, (h, w); sigma in px."""
    return np.asarray(np.sqrt(blur(values**2, sigma).clip(0)), np.float32)


def measure_change(darkness: NDArray[np.float32], mpp: float) -> NDArray[np.float32]:
    """Measure how much OD, (h, w), changes over 8 um, after a blur of 4 um."""
    smooth = blur(darkness, CHANGE_BLUR_UM / mpp)
    down, right = (np.diff(smooth, axis=axis, append=smooth.take([-1], axis)) for axis in (0, 1))
    return np.asarray(np.hypot(down, right) * (_CHANGE_UM / mpp), np.float32)


def optical_density(thumbnail: NDArray[np.uint8], white: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute optical density relative to a white, never negative, (h, w, 3)."""
    values = np.arange(256, dtype=np.float32)[:, None]
    table = np.maximum(-np.log((values + 1) / (white + 1)), 0).astype(np.float32)
    return np.stack([table[:, channel].take(thumbnail[..., channel]) for channel in range(3)], axis=-1)


def brightest(thumbnail: NDArray[np.uint8], ignored: Mask) -> NDArray[np.float32]:
    """Return the brightest percentile that is neither ignored nor fill, R, G, B."""
    seen = thumbnail[~(is_fill(thumbnail) | ignored)]
    return np.asarray(np.percentile(seen, 98, axis=0) if len(seen) else np.full(3, 255.0), np.float32)


def remove_tint(pixels: NDArray[np.uint8], white: Sequence[float] | NDArray[np.float32]) -> NDArray[np.uint8]:
    """Show pixels, (..., 3), as they would be on gray glass of the same brightness.

    Args:
        pixels: RGB.
        white: RGB of the glass. Where green is the least it is left: tissue that fills a slide has that tint as well.
    """
    red, green, blue = light = np.maximum(np.asarray(white, np.float32), 1)
    if green < min(red, blue):
        return pixels
    gain = light.max() / light
    return np.asarray(np.rint(pixels * gain).clip(0, 255), np.uint8)


def is_fill(thumbnail: NDArray[np.uint8]) -> Mask:
    """Mark what scanners write where they recorded nothing: exactly 255."""
    return np.asarray(find_extremes(thumbnail)[0] == 255)


def is_black(pixels: NDArray[np.uint8]) -> Mask:
    """Mark the black of coverslip edges and of areas that were not scanned."""
    return np.asarray(find_extremes(pixels)[1] < _BLACK)
