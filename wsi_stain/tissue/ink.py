"""Ink on a slide, and dark that is no tissue: borders, coverslip edges, air bubbles. Knows no slides or files."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_propagation

from wsi_stain.core.arrays import Mask
from wsi_stain.tissue.areas import close_mask, grow_mask, remove_small_pieces
from wsi_stain.tissue.blur import blur
from wsi_stain.tissue.config import TissueConfig
from wsi_stain.tissue.density import (
    CHANGE_BLUR_UM,
    OD_OF_VALUE,
    brightest,
    find_extremes,
    is_black,
    optical_density,
    remove_tint,
)

_DARK_OD, _DARK_EVENNESS = 0.12, 0.8
"""Least OD of dark that is no tissue, and smallest over largest OD of red, green and blue. On five real slides (H&E,
pigment and blood, at 1 to 4 um/px) no piece of tissue of 5,000 square um passes, nor with 0.08 and 0.7."""

_RIM_OD, _RIM_EVENNESS, _RIM_CHROMA = 0.04, 0.7, 0.04
"""The same of its soft rims, which are looked for beside it only; or so little between largest and smallest OD."""

_INKED_RANGE = (0.6, 0.9)
_INK_BLUR_UM, _GAP_UM = 8.0, 80.0
"""Ink is known by the colour of its surroundings, not of single nuclei under it; gaps in it up to so wide are of it."""

_FLAT_UM, _FLAT_LEVELS = 8.0, 1.0
"""Standard deviation of gray levels nearby, below which dark shows no tissue."""


class InkAndDark(NamedTuple):
    """Areas of a thumbnail that are neither stained tissue nor glass, (h, w) each.

    Attributes:
        ink: Pen strokes, over glass and over tissue.
        dark: Dark that is no tissue.
        with_rims: The same with its soft rims, as far as they are not stained.
        ignored: Ink and dark, with a margin for their soft rims: where tissue is not looked for.
    """

    ink: Mask
    dark: Mask
    with_rims: Mask
    ignored: Mask


def find_ink_and_dark(thumbnail: NDArray[np.uint8], mpp: float, config: TissueConfig | None = None) -> InkAndDark:
    """Find ink, and dark that is no tissue.

    Args:
        thumbnail: RGB, (h, w, 3).
        mpp: Its resolution, um per px.
        config: Their least area, and how wide rims are.
    """
    config = config or TissueConfig()
    ink = _find_ink(thumbnail, mpp, config)
    dark, with_rims = _find_dark(thumbnail, mpp, ink, config)
    return InkAndDark(ink, dark, with_rims, grow_mask(ink | dark, config.ink_margin_um / mpp))


def pen_mask(pixels: NDArray[np.uint8]) -> Mask:
    """Mark marker ink and black, by which of red, green and blue a pixel absorbs.

    Hematoxylin and eosin both absorb green most and blue least. Blue and green ink absorb red most, red ink blue as
    much as green, black all alike. On four real slides 99.5 % of H&E stays below 0.8 (red over green OD; debris
    reaches 1.25) and 0.8 (blue over green), where ink has 1.3 to 3.5 and 0.75 to 1.1. Blood gets there too, less deep.

    Args:
        pixels: RGB, (..., 3); on tinted glass after `remove_tint`.

    Returns:
        (...), true on ink.
    """
    red, green, blue = (OD_OF_VALUE.take(pixels[..., channel]) for channel in range(3))
    least, most = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    blue_ink = (most > 0.3) & (red > 1.25 * green)
    green_ink = (most > 0.3) & (red > 1.1 * green) & (blue > 0.85 * green)
    red_ink = (green > 1.6) & (blue > 0.78 * green) & (red < 0.45 * green)
    black = (least > 1.5) & (least > 0.8 * most)
    return np.asarray(blue_ink | green_ink | red_ink | black)


def _find_ink(thumbnail: NDArray[np.uint8], mpp: float, config: TissueConfig) -> Mask:
    """Find pen strokes; specks of that colour (blood, pigment, dense nuclei) are none."""
    smooth = np.rint(blur(thumbnail.astype(np.float32), _INK_BLUR_UM / mpp)).clip(0, 255).astype(np.uint8)
    smooth = remove_tint(smooth, brightest(thumbnail, is_black(thumbnail)))
    like_ink = pen_mask(smooth) & ~is_black(smooth)
    strokes = remove_small_pieces(like_ink, config.min_ink_um2, mpp)
    if not strokes.any():
        return strokes
    inked = _find_inked(smooth, like_ink) & ~_find_flat_dark(smooth, mpp, config)
    whole = np.asarray(binary_propagation(strokes, mask=like_ink | inked))
    return close_mask(whole, _GAP_UM / 2 / mpp)


def _find_dark(thumbnail: NDArray[np.uint8], mpp: float, ink: Mask, config: TissueConfig) -> tuple[Mask, Mask]:
    """Find dark that is no tissue: borders, coverslip edges, rims of air bubbles, shadows, what was not scanned.

    It is black, or darker than glass by about the same OD in red, green and blue, which no tissue is over such an area.

    Args:
        thumbnail: RGB, (h, w, 3).
        mpp: Its resolution, um per px.
        ink: (h, w); over tissue its rim may be as gray.
        config: The least area, and how wide rims are.

    Returns:
        (h, w) each: true on dark; true on dark and on its soft rims, as far as they are not stained.
    """
    black = is_black(thumbnail)
    od = blur(optical_density(thumbnail, brightest(thumbnail, black)), CHANGE_BLUR_UM / mpp)
    least, most = find_extremes(od)
    clear = ~grow_mask(ink, config.ink_margin_um / mpp)
    gray = (black & ~ink) | (clear & (least > _DARK_OD) & (least > _DARK_EVENNESS * most))
    dark = remove_small_pieces(gray, config.min_ink_um2, mpp)
    if not dark.any():
        return dark, dark
    even = clear & ((least > _RIM_EVENNESS * most) | (most - least < _RIM_CHROMA))
    beside = grow_mask(dark, config.ink_margin_um / mpp) & even
    return dark, np.asarray(binary_propagation(dark, mask=dark | (even & (least > _RIM_OD))) | beside)


def _find_inked(pixels: NDArray[np.uint8], ink: Mask) -> Mask:
    """Mark what absorbs more red beside green than the slide's tissue does: connected with ink it is ink over tissue.

    More means by three standard deviations, by the median absolute deviation, within a sane range.
    """
    od = OD_OF_VALUE[pixels]
    seen = find_extremes(od)[1] > 0.3
    ratio = od[..., 0] / np.maximum(od[..., 1], 1e-3)
    tissue = ratio[seen & ~ink]
    if not tissue.size:
        return ink
    middle = float(np.median(tissue))
    limit = middle + 3 * 1.4826 * float(np.median(np.abs(tissue - middle)))
    return np.asarray(seen & (ratio > np.clip(limit, *_INKED_RANGE)))


def _find_flat_dark(smooth: NDArray[np.uint8], mpp: float, config: TissueConfig) -> Mask:
    """Mark dark that is more even than tissue under ink, and its rim: a border behind a stroke."""
    gray = smooth.mean(axis=2, dtype=np.float32)
    mean, squares = (blur(part, _FLAT_UM / mpp) for part in (gray, gray**2))
    least, most = find_extremes(OD_OF_VALUE[smooth])
    even = least > np.maximum(_DARK_EVENNESS * most, _DARK_OD)
    flat = np.asarray(even & (squares - mean**2 < _FLAT_LEVELS**2))
    return grow_mask(remove_small_pieces(flat, config.min_ink_um2, mpp), 2 * config.ink_margin_um / mpp)
