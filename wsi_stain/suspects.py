"""The second, independent look at a thumbnail: what a tissue mask may have missed. It warns; it decides nothing.

It asks another question than the mask does. Glass is even: its colour drifts slowly over the slide, and what is left is
the scanner's noise. Where colour or texture stands out from the noise of the glass itself, by its own measure, over an
area that dust does not have, something lies on the glass.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_opening, gaussian_filter, median_filter

from wsi_stain.tissue import Mask, TissueConfig, ignored_areas, pieces

_SCALE_UM = 24.0
_MARGIN_UM = 200.0
"""Tissue scatters light onto the glass around it."""

_DRIFT_UM = 800.0
_LEAST_UM2 = 40_000.0
_SPREADS = 6.0
_LEAST_COLOUR, _LEAST_TEXTURE = 2.0, 0.8
"""Grey levels below which nothing stands out, however little noise there is."""


def overlooked(thumbnail: NDArray[np.uint8], mask: Mask, mpp: float, config: TissueConfig) -> Mask:
    """Find what lies on the glass and is not in the mask.

    Args:
        thumbnail: RGB, (h, w, 3).
        mask: (h, w), what is taken for tissue.
        mpp: Resolution of both, um per px.
        config: What counts as ink.

    Returns:
        (h, w), true where something stands out from the glass, away from the mask, ink and black.
    """
    near = _grown(mask | ignored_areas(thumbnail, mpp, config), _MARGIN_UM / mpp)
    glass = ~near & ~(thumbnail == 255).all(axis=2)
    if np.count_nonzero(glass) < 100:
        return np.zeros_like(mask)
    pixels = thumbnail.astype(np.float32)
    chroma = pixels - pixels.mean(axis=2, keepdims=True)
    light = pixels.mean(axis=2)
    sigma = _SCALE_UM / mpp
    detail = light - gaussian_filter(light, sigma)
    found = np.zeros_like(mask)
    for measure, least in (
        (_from_drift(chroma, glass, sigma, mpp), _LEAST_COLOUR),
        (np.sqrt(gaussian_filter(detail**2, sigma)), _LEAST_TEXTURE),
    ):
        middle = float(np.median(measure[glass]))
        spread = 1.4826 * float(np.median(np.abs(measure[glass] - middle)))
        found |= measure > middle + max(_SPREADS * spread, least)
    found &= glass
    return pieces(np.asarray(binary_opening(found, iterations=max(1, round(8 / mpp)))), _LEAST_UM2, mpp)


def _from_drift(chroma: NDArray[np.float32], glass: Mask, sigma: float, mpp: float) -> NDArray[np.float32]:
    """How far the colour lies from that of the glass around, grey levels, (h, w)."""
    smooth = gaussian_filter(chroma, (sigma, sigma, 0))
    usual = np.median(smooth[glass], axis=0)
    step = max(1, round(_DRIFT_UM / 8 / mpp))
    coarse = np.where(glass[::step, ::step, None], smooth[::step, ::step], usual)
    drift = median_filter(coarse, (9, 9, 1), mode="nearest")
    drift = drift.repeat(step, axis=0).repeat(step, axis=1)[: chroma.shape[0], : chroma.shape[1]]
    return np.asarray(np.linalg.norm(smooth - drift, axis=2), np.float32)


def _grown(mask: Mask, px: float) -> Mask:
    return np.asarray(binary_dilation(mask, iterations=max(1, round(px))))
