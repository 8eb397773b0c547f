"""Change of a slide's colours: histograms of optical density, and the stain as it is after normalization.

Histograms are of luminance OD as in `stain.statistics`: od = LUMINANCE . ln((white + 1) / (I + 1)), from 0 (glass) up,
so that slides with different glass can be laid over each other. Bins are `BIN` wide; what is darker counts to the last.
"""

from __future__ import annotations

import numpy as np
import openslide
from numpy.typing import NDArray

from wsi_stain.core.arrays import Rgb
from wsi_stain.core.errors import StainError
from wsi_stain.core.geometry import TILE
from wsi_stain.results.slide_row import Colours
from wsi_stain.stain.statistics import StainStatistics, od_table, slide_statistics
from wsi_stain.stain.vectors import LUMINANCE
from wsi_stain.store import StoredSlide, TiledSlide
from wsi_stain.store.stain_sample import sample_pixels, sample_tiles, tissue_pixels

BINS, BIN = 40, 0.05
"""Number of bins, and their width, OD."""

_TILES = 48
_EVERY = 8


def compare_colours(
    slide: TiledSlide, pyramid: openslide.OpenSlide, stain: StainStatistics, white: Rgb
) -> Colours | None:
    """Measure a slide's colours before and after, on the same pixels of at most 48 tiles rich in tissue.

    Args:
        slide: The slide.
        pyramid: What was made of it.
        stain: Its own stain.
        white: The pyramid's white.

    Returns:
        The colours; None where no tile is on tissue.
    """
    before, after = [], []
    for tile in sample_tiles(slide.kept, slide.tissue)[:_TILES]:
        use = tissue_pixels(slide, tile)
        use[slide.size.height - tile.row * TILE :] = False
        use[:, slide.size.width - tile.col * TILE :] = False
        new = pyramid.read_region((tile.col * TILE, tile.row * TILE), 0, (TILE, TILE)).convert("RGB")
        before.append(slide.read_tile(tile)[use][::_EVERY])
        after.append(np.asarray(new)[use][::_EVERY])
    old, new = (np.concatenate([*parts, np.zeros((0, 3), np.uint8)]) for parts in (before, after))
    if not len(old):
        return None
    try:
        found = slide_statistics(new, white, "reference", slide.record.stain_config)
    except StainError:
        found = None
    return Colours(before=od_histogram(old, stain.white), after=od_histogram(new, white), stain=found)


def reference_histogram(slide: StoredSlide, white: Rgb) -> tuple[float, ...]:
    """Measure the histogram of a reference slide."""
    pixels, _ = sample_pixels(slide, white)
    return od_histogram(pixels, white)


def od_histogram(pixels: NDArray[np.uint8], white: Rgb) -> tuple[float, ...]:
    """Return the share of stained pixels, of (N, 3) RGB, in each of `BINS` bins of luminance OD; 0 if there are none.

    The first bin is glass and stays empty: how much of it lies within the mask is no matter of stain.
    """
    od = np.take_along_axis(od_table(white), pixels.astype(np.intp), axis=0) @ np.asarray(LUMINANCE)
    counts = np.bincount(np.minimum(od / BIN, BINS - 1).astype(np.intp), minlength=BINS)
    counts[0] = 0
    return tuple(round(float(share), 5) for share in counts / max(counts.sum(), 1))
