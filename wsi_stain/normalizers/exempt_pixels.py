"""Shows what is exempt from normalization in a region of a slide, at any resolution. Writes no files."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.geometry import TILE, Region, Size, split_on_grid
from wsi_stain.store import TiledSlide
from wsi_stain.tissue.exempt import AS_GLASS, AS_SCANNED, Exempt

Pixels = NDArray[np.uint8]

_FULL_SCALE = (255.0, 255.0, 255.0)


def show_exempt(
    slide: TiledSlide,
    region: Region,
    pixels: Pixels,
    source: Pixels,
    white: tuple[int, int, int],
    frame: Size | None = None,
) -> None:
    """Show what is exempt in a region, in place; a pixel does not depend on the region that holds it.

    Args:
        slide: The slide; its own glass becomes `white` in what is shown as scanned.
        region: The region.
        pixels: Its normalized RGB, (height, width, 3).
        source: The slide's own pixels there.
        white: The output's background.
        frame: Width and height of the whole slide at the region's resolution, px; None for the working frame.
    """
    if not slide.exempt.any():
        return
    frame, glass = frame or slide.size, np.asarray(white, np.float32)
    own_white = slide.stain.white if slide.stain else _FULL_SCALE
    balance = (glass + 1) / (np.asarray(own_white, np.float32) + 1)
    for part in split_on_grid(region, Size(TILE, TILE)):
        scanned, blank = (_weights(slide.exempt, kind, frame, part) for kind in (AS_SCANNED, AS_GLASS))
        if not scanned.any() and not blank.any():
            continue
        rows = slice(part.y - region.y, part.y - region.y + part.height)
        cols = slice(part.x - region.x, part.x - region.x + part.width)
        own = np.clip((source[rows, cols] + np.float32(1)) * balance - 1, 0, 255)
        mixed = (1 - scanned - blank) * pixels[rows, cols] + scanned * own + blank * glass
        pixels[rows, cols] = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def exempt_mask(slide: TiledSlide, region: Region) -> NDArray[np.bool_]:
    """(height, width): which pixels of a region are not normalized, by the nearest pixel of the thumbnail."""
    rows, cols = (
        np.clip(((start + np.arange(count) + 0.5) * length / side).astype(np.intp), 0, length - 1)
        for start, count, length, side in _axes(slide.exempt, slide.size, region)
    )
    return np.asarray(slide.exempt[np.ix_(rows, cols)] > 0)


def _weights(exempt: Exempt, kind: int, frame: Size, region: Region) -> NDArray[np.float32]:
    """How much of one kind shows at each pixel of a region, (height, width, 1), bilinear between the thumbnail's."""
    (top, down), (left, across) = (_between(*axis) for axis in _axes(exempt, frame, region))
    part = exempt[top[0] : top[-1] + 2, left[0] : left[-1] + 2] == kind
    if not part.any():
        return np.zeros((region.height, region.width, 1), np.float32)
    part = np.pad(part, ((0, 1), (0, 1)), mode="edge").astype(np.float32)
    top, left = top - top[0], left - left[0]
    rows = part[top] * (1 - down)[:, None] + part[top + 1] * down[:, None]
    weights: NDArray[np.float32] = rows[:, left] * (1 - across) + rows[:, left + 1] * across
    return weights[..., None]


def _axes(exempt: Exempt, frame: Size, region: Region) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int]]:
    """Along y and along x: where a region begins, its length, the thumbnail's length, the frame's."""
    height, width = exempt.shape
    return (region.y, region.height, height, frame.height), (region.x, region.width, width, frame.width)


def _between(start: int, count: int, length: int, side: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """For each pixel along an axis the thumbnail's pixel before it, and how far it lies towards the next, 0 to 1."""
    place = np.clip((start + np.arange(count) + 0.5) * length / side - 0.5, 0, length - 1)
    before = place.astype(np.intp)
    return before, (place - before).astype(np.float32)
