"""Masks of a slide's tissue, of its ink, and of dark that is no tissue. Knows thumbnails and masks, no files.

By the method `otsu` a thumbnail pixel is tissue when it is clearly more coloured than the slide's own glass, in optical
density, or lies among the many fine walls of fat; by `entropy` when its surroundings are uneven, whatever their colour.
Either way it is neither ink nor the dark of borders, coverslip edges and air bubbles. Thresholds are Otsu's, held
within a sane range: a slide that is all tissue, or all glass, is not cut in half, and dark tissue does not hide pale
tissue beside it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.ndimage import binary_fill_holes, binary_propagation, distance_transform_edt
from skimage.filters import gaussian, threshold_otsu
from skimage.morphology import disk, remove_small_holes, remove_small_objects

from wsi_stain.core.arrays import Mask
from wsi_stain.core.records import StrictRecord

_BLACK = 60

_DARK_OD, _DARK_EVENNESS = 0.12, 0.8
"""Least OD of dark that is no tissue, and smallest over largest OD of red, green and blue. On five real slides (H&E,
pigment and blood, at 1 to 4 um/px) no piece of tissue of 5,000 square um passes, nor with 0.08 and 0.7."""

_RIM_OD, _RIM_EVENNESS = 0.04, 0.7
"""The same of its soft rims, which are looked for beside it only."""

_CHROMA_RANGE = (0.03, 0.04)
"""Largest minus smallest OD. Glass of real slides reaches 0.03 at 8 um/px, mucin and pale stroma start at 0.04."""

_FAT_UM, _FAT_CHANGE, _FAT_CHROMA = 24.0, 0.02, 0.02
"""Around the walls of fat: root mean square of `_change`, and chroma. Glass of real slides has up to 0.01 and 0.03."""

_FAT_LEAST_UM2 = 40_000.0

_CHANGE_UM, _CHANGE_BLUR_UM = 8.0, 4.0

_INKED_RANGE = (0.6, 0.9)
_INK_BLUR_UM, _GAP_UM = 8.0, 80.0
"""Ink is told by the colour of its surroundings, not of single nuclei under it; gaps in it up to so wide are of it."""

_FLAT_UM, _FLAT_LEVELS = 8.0, 1.0
"""Standard deviation of gray levels nearby, below which dark shows no tissue."""

_INNER_UM = 40.0
"""The edge of a stroke is a change too."""

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
        min_ink_um2: Pieces with the colour of ink, or as dark as a border, smaller than this are neither, square um.
        ink_margin_um: Width of the rim around ink and dark that is not trusted either, um.
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
    from skimage.filters.rank import entropy  # loaded with much beside it, for those who ask for this method

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


def textured_mask(thumbnail: NDArray[np.uint8], within: Mask, mpp: float) -> Mask:
    """Where an area is as uneven as tissue is, away from its own edges.

    Args:
        thumbnail: RGB, (h, w, 3).
        within: (h, w), the area.
        mpp: Resolution of both, um per px.
    """
    inner = ~grow_mask(~within, _INNER_UM / mpp)
    change = _change(_density(thumbnail, _white(thumbnail, ~within)).mean(axis=2), mpp)
    change[~inner] = 0
    parts = change**2, inner.astype(np.float32)
    sums, weight = (gaussian(part, _FAT_UM / mpp, preserve_range=True) for part in parts)
    return np.asarray(inner & (sums > _FAT_CHANGE**2 * weight))


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
    smooth = _blur(thumbnail, _INK_BLUR_UM / mpp)
    like_ink = pen_mask(smooth) & ~_black(smooth)
    strokes = remove_small_pieces(like_ink, config.min_ink_um2, mpp)
    if not strokes.any():
        return strokes
    inked = _find_inked(smooth, like_ink) & ~_flat_dark(smooth, mpp, config)
    whole = np.asarray(binary_propagation(strokes, mask=like_ink | inked))
    return close_mask(whole, _GAP_UM / 2 / mpp)


def dark_mask(
    thumbnail: NDArray[np.uint8], mpp: float, ink: Mask, config: TissueConfig | None = None
) -> tuple[Mask, Mask]:
    """Dark that is no tissue: borders, coverslip edges, rims of air bubbles, shadows, what was not scanned.

    It is black, or darker than glass by about the same OD in red, green and blue, which no tissue is over such an area.

    Args:
        thumbnail: RGB, (h, w, 3).
        mpp: Its resolution, um per px.
        ink: (h, w), from `ink_mask`; over tissue its rim may be as gray.
        config: The least area, and how wide rims are.

    Returns:
        (h, w) each: true on dark; true on dark and on its soft rims, as far as they are not stained.
    """
    config = config or TissueConfig()
    black, sigma = _black(thumbnail), _CHANGE_BLUR_UM / mpp
    od = gaussian(_density(thumbnail, _white(thumbnail, black)), (sigma, sigma, 0), preserve_range=True)
    least, most = od.min(axis=2), od.max(axis=2)
    clear = ~grow_mask(ink, config.ink_margin_um / mpp)
    gray = (black & ~ink) | (clear & (least > _DARK_OD) & (least > _DARK_EVENNESS * most))
    dark = remove_small_pieces(gray, config.min_ink_um2, mpp)
    if not dark.any():
        return dark, dark
    even = clear & ((least > _RIM_EVENNESS * most) | (most - least < _CHROMA_RANGE[1]))
    beside = grow_mask(dark, config.ink_margin_um / mpp) & even
    return dark, np.asarray(binary_propagation(dark, mask=dark | (even & (least > _RIM_OD))) | beside)


def ignored_areas(thumbnail: NDArray[np.uint8], mpp: float, config: TissueConfig) -> Mask:
    """Mark ink and dark that is no tissue, (h, w), with a margin for their soft rims."""
    ink = ink_mask(thumbnail, mpp, config)
    return grow_mask(ink | dark_mask(thumbnail, mpp, ink, config)[0], config.ink_margin_um / mpp)


def grow_mask(mask: Mask, margin: float) -> Mask:
    """Grow a mask by everything within a distance of it, px."""
    return np.asarray(distance_transform_edt(~mask) <= margin) if mask.any() else mask


def close_mask(mask: Mask, radius: float) -> Mask:
    """A mask closed by a disk of a radius, px: gaps up to twice as wide are filled."""
    return ~grow_mask(~grow_mask(mask, radius), radius)


def remove_small_pieces(mask: Mask, min_um2: float, mpp: float) -> Mask:
    """Remove a mask's connected pieces smaller than an area, square um."""
    return np.asarray(remove_small_objects(mask, max_size=round(min_um2 / mpp**2)))


def _find_inked(pixels: NDArray[np.uint8], ink: Mask) -> Mask:
    """Mark what absorbs more red beside green than the slide's tissue does: connected with ink it is ink over tissue.

    More means by three standard deviations, by the median absolute deviation, within a sane range.
    """
    od = _OD_OF_VALUE[pixels]
    seen = od.max(axis=-1) > 0.3
    ratio = od[..., 0] / np.maximum(od[..., 1], 1e-3)
    tissue = ratio[seen & ~ink]
    if not tissue.size:
        return ink
    middle = float(np.median(tissue))
    limit = middle + 3 * 1.4826 * float(np.median(np.abs(tissue - middle)))
    return np.asarray(seen & (ratio > np.clip(limit, *_INKED_RANGE)))


def _flat_dark(smooth: NDArray[np.uint8], mpp: float, config: TissueConfig) -> Mask:
    """Mark dark that is more even than tissue under ink, and its rim: a border behind a stroke."""
    od, gray = _OD_OF_VALUE[smooth], smooth.mean(axis=2, dtype=np.float32)
    mean, squares = (gaussian(part, _FLAT_UM / mpp, preserve_range=True) for part in (gray, gray**2))
    even = od.min(axis=2) > np.maximum(_DARK_EVENNESS * od.max(axis=2), _DARK_OD)
    flat = np.asarray(even & (squares - mean**2 < _FLAT_LEVELS**2))
    return grow_mask(remove_small_pieces(flat, config.min_ink_um2, mpp), 2 * config.ink_margin_um / mpp)


def _blur(thumbnail: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    """A thumbnail blurred by a Gaussian, px."""
    return np.asarray(np.rint(gaussian(thumbnail.astype(np.float32), (sigma, sigma, 0), preserve_range=True)), np.uint8)


def _black(pixels: NDArray[np.uint8]) -> Mask:
    """Mark the black of coverslip edges and of areas that were not scanned."""
    return np.asarray(pixels.max(axis=2) < _BLACK)


def _od(thumbnail: NDArray[np.uint8], ignored: Mask) -> NDArray[np.float32]:
    """Optical density relative to the brightest percentile that is neither ink nor fill; 0 where ignored."""
    od = _density(thumbnail, _white(thumbnail, ignored))
    od[(thumbnail == 255).all(axis=2) | ignored] = 0
    return od


def _white(thumbnail: NDArray[np.uint8], ignored: Mask) -> NDArray[np.float32]:
    """The brightest percentile that is neither ignored nor fill, (3,)."""
    seen = thumbnail[~((thumbnail == 255).all(axis=2) | ignored)]
    return np.asarray(np.percentile(seen, 98, axis=0) if len(seen) else np.full(3, 255.0), np.float32)


def _density(thumbnail: NDArray[np.uint8], white: NDArray[np.float32]) -> NDArray[np.float32]:
    """Optical density relative to a white, never negative."""
    return np.asarray(np.maximum(-np.log((thumbnail.astype(np.float32) + 1) / (white + 1)), 0), np.float32)


def _threshold(values: NDArray[np.float32], seen: Mask, limits: tuple[float, float]) -> Mask:
    """Mark values above Otsu's threshold, held within limits."""
    chosen = values[seen]
    threshold = threshold_otsu(chosen) if chosen.size and np.ptp(chosen) > 0 else limits[1]
    return np.asarray(values > np.clip(threshold, *limits))
