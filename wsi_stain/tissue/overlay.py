"""A picture of what was decided on a slide: its thumbnail with the tissue's outline, kept and suspect tiles, ink, dark.

Colours are those of Okabe and Ito (2008), which most colour-blind people tell apart.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import binary_erosion

from wsi_stain.core.arrays import Mask, Rgb8
from wsi_stain.core.geometry import TILE, Size
from wsi_stain.core.journal import atomic_write
from wsi_stain.tissue.exempt import AS_GLASS, AS_SCANNED, Exempt

_OUTLINE, _TILE_LINES, _SUSPECT = (0, 158, 115), (86, 180, 233), (213, 94, 0)
_INK, _DARK = (240, 228, 66), (204, 121, 167)
_LEGEND = (
    ("tissue", _OUTLINE),
    ("kept tiles", _TILE_LINES),
    ("suspect", _SUSPECT),
    ("as scanned", _INK),
    ("as glass", _DARK),
)
_SMALLEST, _LARGEST = 1024, 3000
_FADED = 0.45
_LEAST_CELL = 5.0
"""Px: where tiles are smaller, only the outline of all of them is drawn."""


def draw_overlay(
    path: Path,
    thumbnail: NDArray[np.uint8],
    mask: Mask,
    exempt: Exempt,
    kept: Mask,
    suspect: Mask,
    size: Size,
) -> None:
    """Write the picture as PNG, with a legend; the arguments are those of `overlay`."""
    picture = overlay(thumbnail, mask, exempt, kept, suspect, size, _SMALLEST, _LARGEST)
    _draw_legend(picture)
    atomic_write(path, lambda file: picture.save(file, "PNG"))


def overlay(
    thumbnail: NDArray[np.uint8],
    mask: Mask,
    exempt: Exempt,
    kept: Mask,
    suspect: Mask,
    size: Size,
    smallest: int,
    largest: int,
) -> Image.Image:
    """Draw the picture, without legend.

    Args:
        thumbnail: RGB of the whole slide, (h, w, 3).
        mask: (h, w), true on tissue.
        exempt: (h, w): what is not normalized: ink and dark.
        kept: (rows, cols), which tiles exist.
        suspect: (rows, cols), tiles that look as if they had tissue.
        size: Working frame, px.
        smallest: Least length of the picture's longer side, px.
        largest: Greatest length of it.
    """
    side = max(thumbnail.shape[:2])
    factor = min(max(1.0, smallest / side), largest / side)
    width, height = (max(1, round(length * factor)) for length in (thumbnail.shape[1], thumbnail.shape[0]))
    picture = Image.fromarray(thumbnail).resize((width, height), Image.Resampling.BICUBIC)
    layers = (mask, exempt == AS_SCANNED, exempt == AS_GLASS)
    marks = [np.asarray(Image.fromarray(layer).resize((width, height), Image.Resampling.NEAREST)) for layer in layers]
    picture = _fade_outside(picture, kept | suspect, size)
    pixels = np.array(picture)
    for mark, colour in zip(marks[1:], (_INK, _DARK), strict=True):
        pixels[mark] = pixels[mark] // 2 + np.array(colour, np.uint8) // 2
    for mark, colour in zip(marks, (_OUTLINE, _INK, _DARK), strict=True):
        pixels[_outline(mark)] = colour
    picture = Image.fromarray(pixels)
    scale = width / size.width, height / size.height
    if TILE * min(scale) < _LEAST_CELL:  # lines of single tiles would cover everything
        pixels = np.array(picture)
        visible = Image.fromarray(kept).resize((width, height), Image.Resampling.NEAREST)
        pixels[_outline(np.asarray(visible))] = _TILE_LINES
        picture = Image.fromarray(pixels)
    else:
        _draw_tiles(picture, kept, scale, _TILE_LINES, 1)
    _draw_tiles(picture, suspect, scale, _SUSPECT, 3)
    return picture


def _fade_outside(picture: Image.Image, visible: Mask, size: Size) -> Image.Image:
    """Fade what is neither kept nor suspect half way to white."""
    rows, cols = (
        np.minimum(((np.arange(count) + 0.5) * length / count / TILE).astype(int), tiles - 1)
        for count, length, tiles in zip(
            (picture.height, picture.width), (size.height, size.width), visible.shape, strict=True
        )
    )
    pixels = np.array(picture)
    outside = ~visible[np.ix_(rows, cols)]
    pixels[outside] = 255 - ((255 - pixels[outside]) * _FADED).astype(np.uint8)
    return Image.fromarray(pixels)


def _outline(mask: Mask) -> Mask:
    return np.asarray(mask & ~binary_erosion(mask, iterations=2, border_value=1))


def _draw_tiles(picture: Image.Image, tiles: Mask, scale: tuple[float, float], colour: Rgb8, width: int) -> None:
    draw = ImageDraw.Draw(picture)
    for row, col in np.argwhere(tiles).tolist():
        left, right = _pixels_of(col, scale[0], picture.width)
        top, bottom = _pixels_of(row, scale[1], picture.height)
        draw.rectangle((left, top, right, bottom), None, colour, width)


def _pixels_of(number: int, scale: float, length: int) -> tuple[int, int]:
    """Find the first and last pixel of a tile along an axis of the picture: at least one, even if it rounds to none."""
    first = min(round(number * TILE * scale), length - 1)
    return first, max(first, min(round((number + 1) * TILE * scale), length) - 1)


def _draw_legend(picture: Image.Image) -> None:
    draw = ImageDraw.Draw(picture)
    line = 22
    draw.rectangle((6, 6, 126, 14 + line * len(_LEGEND)), (255, 255, 255), (90, 90, 90))
    for number, (name, colour) in enumerate(_LEGEND):
        y = 12 + line * number
        draw.rectangle((14, y, 30, y + 14), colour, (90, 90, 90))
        draw.text((38, y), name, (0, 0, 0), font_size=14)
