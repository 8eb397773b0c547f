"""Masks of a slide's tissue. Knows thumbnails and masks, no files.

By the method `otsu` a thumbnail pixel is tissue when it is clearly more coloured than the slide's own glass, in optical
density, or lies among the many fine walls of fat; by `entropy` when its surroundings are uneven, whatever their colour.
Either way it is neither ink nor the dark of borders, coverslip edges and air bubbles. Thresholds are Otsu's, held
within a sane range: a slide that is all tissue, or all glass, is not cut in half, and dark tissue does not hide pale
tissue beside it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes
from skimage.filters import threshold_otsu

from wsi_stain.core.arrays import Mask
from wsi_stain.tissue.areas import fill_small_holes, grow_mask, remove_small_pieces
from wsi_stain.tissue.blur import blur
from wsi_stain.tissue.config import TissueConfig
from wsi_stain.tissue.density import (
    brightest,
    is_black,
    is_fill,
    measure_change,
    measure_chroma,
    optical_density,
    root_mean_square,
)
from wsi_stain.tissue.ink import InkAndDark, find_ink_and_dark

_EVEN = 1e-4
"""Range of values within which a picture is even: what arithmetic leaves, and no threshold lies in it."""

_CHROMA_RANGE = (0.03, 0.04)
"""Largest minus smallest OD. Glass of real slides reaches 0.03 at 8 um/px, mucin and pale stroma start at 0.04."""

_FAT_UM, _FAT_CHANGE, _FAT_CHROMA = 24.0, 0.02, 0.02
"""Around the walls of fat: root mean square of the change, and chroma. Glass of real slides has up to 0.01 and 0.03."""

_FAT_LEAST_UM2 = 40_000.0

_INNER_UM = 40.0
"""The edge of a stroke is a change too."""

_ENTROPY_UM, _ENTROPY_STEP = 32.0, 0.01
_ENTROPY_RANGE = (1.5, 1.8)
"""Bits, of OD in steps, in a disk. Glass of real slides has up to 1.7, pale fat and mucin 1.5 to 3, the rest 3 to 6."""


def tissue_mask(
    thumbnail: NDArray[np.uint8], mpp: float, config: TissueConfig | None = None, ink_and_dark: InkAndDark | None = None
) -> Mask:
    """Find tissue on a thumbnail.

    Args:
        thumbnail: RGB, (h, w, 3).
        mpp: Its resolution, um per px.
        config: Sizes and smoothing.
        ink_and_dark: As `find_ink_and_dark` finds them there, where that is known.

    Returns:
        (h, w), true on tissue.
    """
    config = config or TissueConfig()
    ignored = (ink_and_dark or find_ink_and_dark(thumbnail, mpp, config)).ignored
    find = _find_textured if config.method == "entropy" else _find_stained
    tissue = find(_od(thumbnail, ignored), ignored, mpp, config) & ~ignored
    enclosed = binary_fill_holes(tissue)  # glass that reaches the frame is no hole, however small the slide
    tissue = fill_small_holes(tissue, config.max_hole_um2, mpp) & enclosed & ~ignored
    return remove_small_pieces(tissue, config.min_tissue_um2, mpp)


def _find_stained(od: NDArray[np.float32], ignored: Mask, mpp: float, config: TissueConfig) -> Mask:
    """Find what is more coloured than glass, and fat."""
    coloured = _threshold(measure_chroma(od, config.smoothing_um / mpp), ~ignored, _CHROMA_RANGE)
    known = grow_mask(remove_small_pieces(coloured, config.min_tissue_um2, mpp) | ignored, _FAT_UM / mpp)
    return coloured | _fat(od, known, mpp)


def _fat(od: NDArray[np.float32], known: Mask, mpp: float) -> Mask:
    """Find fat by its many walls: so much of it is empty that its colour hardly shows. Edges of the known are none.

    `od` is used up.
    """
    sigma = _FAT_UM / mpp
    change = np.minimum(measure_change(od.mean(axis=2), mpp), 2 * _FAT_CHANGE)  # one edge is no wall
    change[known] = 0
    walls = remove_small_pieces(root_mean_square(change, sigma) > _FAT_CHANGE, _FAT_LEAST_UM2, mpp)
    if not walls.any():
        return walls
    od[known] = 0
    return remove_small_pieces(walls & (measure_chroma(od, sigma) > _FAT_CHROMA), _FAT_LEAST_UM2, mpp)


def _find_textured(od: NDArray[np.float32], ignored: Mask, mpp: float, config: TissueConfig) -> Mask:
    """Find what has more entropy nearby than glass, of OD in steps that the noise of glass hardly leaves."""
    steps = np.clip(np.rint(od.mean(axis=2) / _ENTROPY_STEP), 0, 255).astype(np.uint8)
    from skimage.filters.rank import entropy  # loaded with much beside it, for those who ask for this method
    from skimage.morphology import disk

    bits = entropy(steps, disk(max(2, round(_ENTROPY_UM / mpp))), mask=(~ignored).astype(np.uint8))
    smooth = blur(bits.astype(np.float32), config.smoothing_um / mpp)
    return _threshold(smooth, ~ignored, _ENTROPY_RANGE)


def textured_mask(thumbnail: NDArray[np.uint8], within: Mask, mpp: float) -> Mask:
    """Mark where an area is as uneven as tissue is, away from its own edges.

    Args:
        thumbnail: RGB, (h, w, 3).
        within: (h, w), the area.
        mpp: Resolution of both, um per px.
    """
    inner = ~grow_mask(~within, _INNER_UM / mpp)
    change = measure_change(optical_density(thumbnail, brightest(thumbnail, ~within)).mean(axis=2), mpp)
    change[~inner] = 0
    parts = change**2, inner.astype(np.float32)
    sums, weight = (blur(part, _FAT_UM / mpp) for part in parts)
    return np.asarray(inner & (sums > _FAT_CHANGE**2 * weight))


def dark_share(thumbnail: NDArray[np.uint8]) -> float:
    """Measure the share of a thumbnail that is nearly black, 0 to 1: large in fluorescence, small in bright field."""
    return float(is_black(thumbnail).mean())


def _od(thumbnail: NDArray[np.uint8], ignored: Mask) -> NDArray[np.float32]:
    """Compute OD relative to the brightest percentile that is neither ink nor fill; 0 where ignored."""
    od = optical_density(thumbnail, brightest(thumbnail, ignored))
    od[is_fill(thumbnail) | ignored] = 0
    return od


def _threshold(values: NDArray[np.float32], seen: Mask, limits: tuple[float, float]) -> Mask:
    """Mark values above Otsu's threshold, held within limits."""
    chosen = values[seen]
    threshold = threshold_otsu(chosen) if chosen.size and np.ptp(chosen) > _EVEN else limits[1]
    return np.asarray(values > np.clip(threshold, *limits))
