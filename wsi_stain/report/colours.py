"""Change of a slide: histograms of optical density, the stain after normalization, how far colours moved, nuclei.

Histograms are of luminance OD as in `stain.statistics`: od = LUMINANCE . ln((white + 1) / (I + 1)), from 0 (glass) up,
so that slides with different glass can be laid over each other. Bins are `BIN` wide; what is darker counts to the last.
"""

from __future__ import annotations

import numpy as np
import openslide
from numpy.typing import NDArray

from wsi_stain.core.arrays import Rgb
from wsi_stain.core.errors import StainError
from wsi_stain.core.geometry import TILE, TileIndex
from wsi_stain.metrics.chromatin import nuclear_detail
from wsi_stain.metrics.colour_difference import ciede2000
from wsi_stain.normalizers.tile_sample import find_nuclei
from wsi_stain.results.slide_row import Colours, NuclearChange
from wsi_stain.stain.beer_lambert import apply_statistics
from wsi_stain.stain.statistics import StainStatistics, od_table, slide_statistics
from wsi_stain.stain.vectors import LUMINANCE
from wsi_stain.store import StoredSlide, TiledSlide
from wsi_stain.store.stain_sample import sample_pixels, sample_tiles, tissue_pixels

BINS, BIN = 40, 0.05
"""Number of bins, and their width, OD."""

_TILES = 48
_EVERY, _EVERY_COMPARED = 8, 4
"""Of the tissue's pixels, those that are looked at; and of these, those whose change is measured, which takes longest:
100,000 are left, whose mean is as good."""


def compare_colours(
    slide: TiledSlide, pyramid: openslide.OpenSlide, stain: StainStatistics, reference: StainStatistics
) -> Colours | None:
    """Measure a slide's colours before and after, on the same pixels of at most 48 tiles rich in tissue.

    Args:
        slide: The slide.
        pyramid: What was made of it.
        stain: What was taken for its stain: its own, or its group's.
        reference: Stain of the reference; its white is the pyramid's.

    Returns:
        The colours; None where no tile is on tissue.
    """
    before, after = [], []
    for tile in sample_tiles(slide.kept, slide.tissue)[:_TILES]:
        use = tissue_pixels(slide, tile)
        use[slide.size.height - tile.row * TILE :] = False
        use[:, slide.size.width - tile.col * TILE :] = False
        places = np.flatnonzero(use)[::_EVERY]
        before.append(slide.read_tile(tile).reshape(-1, 3)[places])
        after.append(_read_tile(pyramid, tile).reshape(-1, 3)[places])
    old, new = (np.concatenate([*parts, np.zeros((0, 3), np.uint8)]) for parts in (before, after))
    if not len(old):
        return None
    white, compared = reference.white, old[::_EVERY_COMPARED]
    try:
        found = slide_statistics(new, white, "reference", slide.record.stain_config)
    except StainError:
        found = None
    return Colours(
        before=od_histogram(old, stain.white),
        after=od_histogram(new, white),
        stain=found,
        change=ciede2000(new[::_EVERY_COMPARED], compared),
        change_by_statistics=ciede2000(apply_statistics(compared, stain, reference), compared),
    )


def compare_nuclei(slide: TiledSlide, pyramid: openslide.OpenSlide) -> NuclearChange | None:
    """Measure a slide's nuclei before and after, on a few tiles; None where these show hardly any."""
    found = find_nuclei(slide)
    if found is None:
        return None
    tiles, pixels, nuclei = found
    shown = np.stack([_read_tile(pyramid, tile) for tile in tiles])
    before, after = (nuclear_detail(each, nuclei, slide.mpp.mean) for each in (pixels, shown))
    return NuclearChange(before=before, after=after) if before and after else None


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


def _read_tile(pyramid: openslide.OpenSlide, tile: TileIndex) -> NDArray[np.uint8]:
    """Read RGB of level 0, (256, 256, 3)."""
    return np.asarray(pyramid.read_region((tile.col * TILE, tile.row * TILE), 0, (TILE, TILE)).convert("RGB"))
