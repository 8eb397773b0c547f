"""Sample of a slide's pixels that its stain is measured on. It depends on the slide's tiles alone, never on a run."""

from __future__ import annotations

import hashlib
from math import ceil

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.arrays import Mask, Rgb
from wsi_stain.core.geometry import TILE, TileIndex, ceil_div
from wsi_stain.stain.statistics import StainConfig, StainStatistics, slide_statistics, white_point
from wsi_stain.store import TiledSlide
from wsi_stain.tissue.mask import tissue_mask
from wsi_stain.tissue.tile_quality import measure_blur, part_on_slide

_TILES = 256
_RICH = 0.25
_ENOUGH = 16
_PIXELS = 200_000
_NEARLY_GLASS = 0.9

_BLURRED, _SHARP_SHARE, _SHARP_PERCENTILE = 60.0, 0.2, 90
"""A tile is blurred whose `blur` is below this, or below this share of what the slide's sharp tiles have."""


def measure_stain(slide: TiledSlide, config: StainConfig, has_user_mask: bool = False) -> StainStatistics:
    """Measure the stain statistics of a slide, from a sample that depends on its tiles alone.

    Args:
        slide: The slide; it may still be in the making.
        config: What is measured.
        has_user_mask: Its mask is a user's: what that leaves out may be pale tissue, and is not all glass.

    Raises:
        StainError: The slide is not H&E, or has too little tissue.
    """
    stained = slide.mask | tissue_mask(slide.thumbnail, slide.thumbnail_mpp) if has_user_mask else slide.mask
    white, origin = white_point(slide.thumbnail, stained | (slide.exempt > 0))
    pixels, blurred = sample_pixels(slide, white)
    return slide_statistics(pixels, white, origin, config, blurred)


def sample_pixels(slide: TiledSlide, white: Rgb) -> tuple[NDArray[np.uint8], float]:
    """Sample about 200,000 pixels of tissue that are not glass, (N, 3); and the share of the tiles that is blurred.

    The same number of pixels comes from each sampled tile that is sharp, or from all where most are blurred.
    """
    tiles = sample_tiles(slide.kept, slide.tissue)
    share = ceil_div(_PIXELS, len(tiles))
    samples, sharpness = [], []
    for tile in tiles:
        pixels = slide.read_tile(tile)
        sharpness.append(measure_blur(part_on_slide(pixels, tile, slide.size), slide.mpp.mean) or 0.0)
        samples.append(stained_pixels(pixels, tissue_pixels(slide, tile), white, share))
    sharp = np.array(sharpness) >= max(_BLURRED, _SHARP_SHARE * float(np.percentile(sharpness, _SHARP_PERCENTILE)))
    chosen = sharp if 2 * sharp.sum() > len(sharp) else np.ones_like(sharp)
    return np.concatenate([sample for sample, use in zip(samples, chosen, strict=True) if use]), float(1 - sharp.mean())


def tissue_pixels(slide: TiledSlide, tile: TileIndex) -> Mask:
    """Mark the pixels of a tile, (256, 256), that the slide's mask calls tissue; ink over tissue is not among them."""
    rows, cols = (
        np.minimum(((first * TILE + np.arange(TILE) + 0.5) * count / side).astype(np.intp), count - 1)
        for first, count, side in zip(tile, slide.mask.shape, reversed(slide.size), strict=True)
    )
    return slide.mask[np.ix_(rows, cols)]


def sample_tiles(kept: Mask, tissue: NDArray[np.float32]) -> list[TileIndex]:
    """Choose at most 256 tiles rich in tissue, in an order that depends on their places alone; the best if few are."""
    tiles = sorted((TileIndex(int(row), int(col)) for row, col in np.argwhere(kept)), key=_index_hash)
    rich = [tile for tile in tiles if tissue[tile] >= _RICH]
    if len(rich) >= _ENOUGH:
        return rich[:_TILES]
    return sorted(tiles, key=lambda tile: -tissue[tile])[:_ENOUGH]


def _index_hash(tile: TileIndex) -> bytes:
    return hashlib.sha256(f"{tile.row},{tile.col}".encode()).digest()


def stained_pixels(pixels: NDArray[np.uint8], tissue: Mask, white: Rgb, count: int) -> NDArray[np.uint8]:
    """Sample (n, 3), n <= count: evenly spaced ones of the pixels of tissue, (h, w, 3), that are not nearly glass."""
    glass = [np.uint8(ceil(value * _NEARLY_GLASS)) for value in white]
    red, green, blue = (pixels[..., channel] < glass[channel] for channel in range(3))
    stained = np.flatnonzero((red | green | blue) & tissue)  # few are taken: to copy all that are stained takes longer
    chosen = np.linspace(0, len(stained) - 1, min(count, len(stained))).round().astype(np.intp)
    return pixels.reshape(-1, 3)[stained[chosen]]
