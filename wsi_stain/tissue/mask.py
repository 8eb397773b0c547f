"""Masks of a slide's tissue and of its ink. Knows thumbnails and masks, no files.

By the method `otsu` a thumbnail pixel is tissue when it is clearly more coloured than the slide's own glass, in optical
density, or lies among the many fine walls of fat; by `entropy` when its surroundings are uneven, whatever their colour.
Either way it is neither ink nor the black of a coverslip's edge. Thresholds are Otsu's, held within a sane range: a
slide that is all tissue, or all glass, is not cut in half, and dark tissue does not hide pale tissue beside it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.ndimage import binary_fill_holes, binary_propagation, distance_transform_edt
from skimage.filters import gaussian, threshold_otsu
from skimage.filters.rank import entropy
from skimage.morphology import disk, remove_small_holes, remove_small_objects

from wsi_stain.core.arrays import Mask
from wsi_stain.core.records import StrictRecord

_BLACK = 60
_CHROMA_RANGE = (0.03, 0.04)
"""Largest minus smallest OD. Glass of real slides reaches 0.03 at 8 um/px, mucin and pale stroma start at 0.04."""

_FAT_UM, _FAT_CHANGE, _FAT_CHROMA = 24.0, 0.02, 0.02
"""Around the walls of fat: root mean square of `_change`, and chroma. Glass of real slides has up to 0.01 and 0.03."""

_FAT_LEAST_UM2 = 40_000.0

_CHANGE_UM, _CHANGE_BLUR_UM = 8.0, 4.0

_ENTROPY_UM, _ENTROPY_STEP = 32.0, 0.01
_ENTROPY_RANGE = (1.5, 1.8)
"""Bits, of OD in steps, in a disk. Glass of real slides has up to 1.7, pale fat and mucin 1.5 to 3, the rest 3 to 6."""

_OD_OF_VALUE = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)


class TissueConfig(StrictRecord):
    """Settings of the search for tissue.

    Attributes:
        method: `otsu`: by colour, and fat by its walls. `entropy`: by texture alone, whatever the stain.
        mpp: Resolution of the thumbnail that the decision is made on, um per px; finer on a small slide,
            coarser on one of more than 3 square cm.
        smoothing_um: Standard deviation of the blur before thresholds, um; it carries the mask over pale gaps.
        min_tissue_um2: Pieces smaller than this are dust, square um.
        max_hole_um2: Holes smaller than this are filled, square um.
        min_ink_um2: Pieces with the colour of ink or black smaller than this are neither, square um.
        ink_margin_um: Width of the rim around ink and black that is not trusted either, um.
    """

    method: Literal["otsu", "entropy"] = "otsu"
    mpp: float = Field(default=8.0, gt=0.5, le=64)
    smoothing_um: float = Field(default=12.0, ge=0)
    min_tissue_um2: float = Field(default=10_000.0, ge=0)
    max_hole_um2: float = Field(default=40_000.0, ge=0)
    min_ink_um2: float = Field(default=5_000.0, ge=0)
    ink_margin_um: float = Field(default=24.0, ge=0)


def tissue_mask(thumbnail: NDArray[np.uint8], mpp: float, config: TissueConfig | None = None) -> Mask:
    """Find tissue on a thumbnail.

    Args:
        thumbnail: RGB, (h, w, 3).
        mpp: Its resolution, um per px.
        config: Sizes and smoothing.

    Returns:
        (h, w), true on tissue.
    """
    config = config or TissueConfig()
    ignored = ignored_areas(thumbnail, mpp, config)
    find = _find_textured if config.method == "entropy" else _find_stained
    tissue = find(_od(thumbnail, ignored), ignored, mpp, config) & ~ignored
    enclosed = binary_fill_holes(tissue)  # glass that reaches the frame is no hole, however small the slide
    tissue = remove_small_holes(tissue, max_size=round(config.max_hole_um2 / mpp**2)) & enclosed & ~ignored
    return remove_small_pieces(tissue, config.min_tissue_um2, mpp)


def _find_stained(od: NDArray[np.float32], ignored: Mask, mpp: float, config: TissueConfig) -> Mask:
    """Find what is more coloured than glass, and fat."""
    coloured = _threshold(_chroma(od, config.smoothing_um / mpp), ~ignored, _CHROMA_RANGE)
    known = grow_mask(remove_small_pieces(coloured, config.min_tissue_um2, mpp) | ignored, _FAT_UM / mpp)
    return coloured | _fat(od, known, mpp)


def _fat(od: NDArray[np.float32], known: Mask, mpp: float) -> Mask:
    """Find fat by its many walls: so much of it is empty that its colour hardly shows. Edges of the known are none.

    `od` is used up.
    """
    sigma, change = _FAT_UM / mpp, np.minimum(_change(od.mean(axis=2), mpp), 2 * _FAT_CHANGE)  # one edge is no wall
    change[known] = 0
    walls = np.sqrt(gaussian(change**2, sigma, preserve_range=True))
    od[known] = 0
    tissue = (walls > _FAT_CHANGE) & (_chroma(od, sigma) > _FAT_CHROMA)
    return remove_small_pieces(np.asarray(tissue), _FAT_LEAST_UM2, mpp)


def _find_textured(od: NDArray[np.float32], ignored: Mask, mpp: float, config: TissueConfig) -> Mask:
    """Find what has more entropy nearby than glass, of OD in steps that the noise of glass hardly leaves."""
    steps = np.clip(np.rint(od.mean(axis=2) / _ENTROPY_STEP), 0, 255).astype(np.uint8)
    bits = entropy(steps, disk(max(2, round(_ENTROPY_UM / mpp))), mask=(~ignored).astype(np.uint8))
    smooth = gaussian(bits, sigma=config.smoothing_um / mpp, preserve_range=True)
    return _threshold(np.asarray(smooth, np.float32), ~ignored, _ENTROPY_RANGE)


def _chroma(od: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Compute the largest minus smallest OD of each pixel's surroundings, (h, w)."""
    return np.asarray(np.ptp(gaussian(od, sigma=(sigma, sigma, 0), preserve_range=True), axis=2), np.float32)


def _change(darkness: NDArray[np.float32], mpp: float) -> NDArray[np.float32]:
    """Measure how much OD changes over 8 um, after a blur of 4 um, so that thumbnails of any resolution compare."""
    smooth = gaussian(darkness, sigma=_CHANGE_BLUR_UM / mpp, preserve_range=True)
    down, right = (np.diff(smooth, axis=axis, append=smooth.take([-1], axis)) for axis in (0, 1))
    return np.asarray(np.hypot(down, right) * (_CHANGE_UM / mpp), np.float32)


def dark_share(thumbnail: NDArray[np.uint8]) -> float:
    """Measure the share of a thumbnail that is nearly black, 0 to 1: large in fluorescence, small in bright field."""
    return float(_black(thumbnail).mean())


def pen_mask(pixels: NDArray[np.uint8]) -> Mask:
    """Mark marker ink and black, by which of red, green and blue a pixel absorbs.

    Hematoxylin and eosin both absorb green most and blue least. Blue and green ink absorb red most, red ink blue as
    much as green, black all alike. On four real slides 99.5 % of H&E stays below 0.8 (red over green OD; debris
    reaches 1.25) and 0.8 (blue over green), where ink has 1.3 to 3.5 and 0.75 to 1.1. Blood gets there too, less deep.

    Args:
        pixels: RGB, (..., 3).

    Returns:
        (...), true on ink.
    """
    red, green, blue = (_OD_OF_VALUE.take(pixels[..., channel]) for channel in range(3))
    least, most = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    blue_ink = (most > 0.3) & (red > 1.25 * green)
    green_ink = (most > 0.3) & (red > 1.1 * green) & (blue > 0.85 * green)
    red_ink = (green > 1.6) & (blue > 0.78 * green) & (red < 0.45 * green)
    black = (least > 1.5) & (least > 0.8 * most)
    return np.asarray(blue_ink | green_ink | red_ink | black)


def ink_mask(thumbnail: NDArray[np.uint8], mpp: float, config: TissueConfig | None = None) -> Mask:
    """Mark pen strokes, over glass and over tissue; specks of that colour (blood, pigment, dense nuclei) are none.

    Args:
        thumbnail: RGB, (h, w, 3).
        mpp: Its resolution, um per px.
        config: The least area of a stroke.

    Returns:
        (h, w), true on ink.
    """
    config = config or TissueConfig()
    like_ink = pen_mask(thumbnail) & ~_black(thumbnail)
    strokes = remove_small_pieces(like_ink, config.min_ink_um2, mpp)
    return np.asarray(binary_propagation(strokes, mask=like_ink | _bluish(thumbnail))) if strokes.any() else strokes


def ignored_areas(thumbnail: NDArray[np.uint8], mpp: float, config: TissueConfig) -> Mask:
    """Mark ink and black, (h, w), with a margin for their soft rims."""
    ignored = ink_mask(thumbnail, mpp, config) | remove_small_pieces(_black(thumbnail), config.min_ink_um2, mpp)
    return grow_mask(ignored, config.ink_margin_um / mpp)


def grow_mask(mask: Mask, margin: float) -> Mask:
    """Grow a mask by everything within a distance of it, px."""
    return np.asarray(distance_transform_edt(~mask) <= margin) if mask.any() else mask


def remove_small_pieces(mask: Mask, min_um2: float, mpp: float) -> Mask:
    """Remove a mask's connected pieces smaller than an area, square um."""
    return np.asarray(remove_small_objects(mask, max_size=round(min_um2 / mpp**2)))


def _bluish(pixels: NDArray[np.uint8]) -> Mask:
    """Mark what absorbs red nearly as much as green: beside ink this is ink over tissue, not a nucleus."""
    od = _OD_OF_VALUE[pixels]
    return np.asarray((od.max(axis=-1) > 0.3) & (od[..., 0] > 0.9 * od[..., 1]))


def _black(pixels: NDArray[np.uint8]) -> Mask:
    """Mark the black of coverslip edges and of areas that were not scanned."""
    return np.asarray(pixels.max(axis=2) < _BLACK)


def _od(thumbnail: NDArray[np.uint8], ignored: Mask) -> NDArray[np.float32]:
    """Compute optical density relative to the brightest percentile that is neither ink nor fill; 0 where ignored."""
    filled = (thumbnail == 255).all(axis=2) | ignored
    seen = thumbnail[~filled]
    white = np.percentile(seen, 98, axis=0) if len(seen) else np.full(3, 255.0)
    od = np.maximum(-np.log((thumbnail.astype(np.float32) + 1) / (white.astype(np.float32) + 1)), 0)
    od[filled] = 0
    return np.asarray(od, np.float32)


def _threshold(values: NDArray[np.float32], seen: Mask, limits: tuple[float, float]) -> Mask:
    """Mark values above Otsu's threshold, held within limits."""
    chosen = values[seen]
    threshold = threshold_otsu(chosen) if chosen.size and np.ptp(chosen) > 0 else limits[1]
    return np.asarray(values > np.clip(threshold, *limits))
