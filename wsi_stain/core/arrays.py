"""Types of arrays and colours, and small work on pixels, that many modules share, each defined once. Knows no files.

Shapes and ranges are said where the arrays are used; axes are (row, column).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.geometry import Region, ceil_div

RgbImage: TypeAlias = NDArray[np.uint8]
"""RGB, 0 to 255: (h, w, 3), or single pixels, (n, 3)."""

RgbTiles: TypeAlias = NDArray[np.uint8]
"""RGB images of one size, (n, h, w, 3)."""

RgbxImage: TypeAlias = NDArray[np.uint8]
"""RGB and a byte that is nothing, so that a pixel is one word: (h, w, 4). The first three of it are an `RgbImage`."""

Mask: TypeAlias = NDArray[np.bool_]
"""True where something is: (h, w) of pixels, (rows, cols) of tiles."""

Rgb: TypeAlias = tuple[float, float, float]
"""A value for each of R, G and B: a colour from 0 to 255, or a vector of optical density."""

Rgb8: TypeAlias = tuple[int, int, int]
"""The colour of 8-bit pixels: R, G, B, 0 to 255."""


def to_rgb(values: Iterable[float]) -> Rgb:
    """Make three numbers, of an array, say, a colour or a vector."""
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def round_rgb(colour: Rgb) -> Rgb8:
    """Round a colour to that of 8-bit pixels."""
    red, green, blue = (round(value) for value in colour)
    return red, green, blue


def window(pixels: RgbImage, frame: Region, part: Region) -> RgbImage:
    """Return a part of a region's pixels (height, width, 3), as a view."""
    return pixels[part.y - frame.y :, part.x - frame.x :][: part.height, : part.width]


_STRIP = 32
"""Rows of squares that are summed at a time, so that what is worked on stays in the processor's cache."""


def sum_cells(images: RgbTiles, side: int) -> NDArray[np.uint16]:
    """Sum squares of pixels, (n, h, w, C) to (n, h / side, w / side, C), by whole rows: processors do that well.

    Args:
        images: h and w are multiples of `side`.
        side: Of the squares, px; 2 to 16.
    """
    count, height, width, channels = images.shape
    sums = np.empty((count, height // side, width // side, channels), np.uint16)
    wide, last = images.reshape(count, height // side, side, width * channels), (width - side + 1) * channels
    for number, strip in np.ndindex(count, ceil_div(height // side, _STRIP)):
        place = number, slice(strip * _STRIP, (strip + 1) * _STRIP)
        rows = wide[place]
        columns = np.add(rows[:, 0], rows[:, 1], dtype=np.uint16)
        for row in range(2, side):
            columns += rows[:, row]
        # Of squares that begin at each pixel, of which one of `side` is wanted.
        cells = columns[:, :last] + columns[:, channels:][:, :last]
        for column in range(2, side):
            cells += columns[:, column * channels :][:, :last]
        for channel in range(channels):
            sums[place][..., channel] = cells[:, channel :: side * channels]
    return sums
