"""Tissue that a mask may have missed: a second, independent search of the thumbnail. It warns; it decides nothing.

It asks another question than the mask does. Glass is the brightest and the most even of all that a slide shows, and
what is left on it is the scanner's noise. Where colour or texture stands out from the most even part of the glass, over
an area that dust does not have, something lies on it, however pale, and even if it covers most of the slide.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_opening

from wsi_stain.core.arrays import Mask
from wsi_stain.tissue.areas import grow_mask, remove_small_pieces
from wsi_stain.tissue.blur import blur
from wsi_stain.tissue.density import find_extremes, is_fill, root_mean_square

_SCALE_UM = 24.0
_BLUR_UM = 4.0
_MARGIN_UM = 200.0
"""Tissue scatters light onto the glass around it."""

_LEAST_UM2 = 20_000.0
_SPREADS = 4.0
_LEAST_CHROMA = 0.02
"""OD: below it nothing stands out, however even the glass; the colour of real glass drifts by 0.015 over a slide."""

_TEXTURE_RANGE = (0.8, 6.0)
"""Grey levels: below nothing stands out, above everything does. Glass of real slides has 0.2 to 1 at 24 um."""


def find_missed_tissue(thumbnail: NDArray[np.uint8], known: Mask, mpp: float) -> Mask:
    """Find what lies on the glass and is not known.

    Args:
        thumbnail: RGB, (h, w, 3).
        known: (h, w), what is taken for tissue, and what is ink or dark.
        mpp: Resolution of both, um per px.

    Returns:
        (h, w), true where something stands out from the glass, away from the known.
    """
    near = grow_mask(known, _MARGIN_UM / mpp)
    glass = ~near & ~is_fill(thumbnail)
    if np.count_nonzero(glass) < 100:
        return np.zeros_like(known)
    sigma, pixels = _SCALE_UM / mpp, thumbnail.astype(np.float32)
    smooth = blur(pixels, sigma)
    chroma = _chroma(smooth[glass])
    fine = np.abs(blur(pixels.mean(axis=2), _BLUR_UM / mpp) - smooth.mean(axis=2))
    drift, noise = np.quantile(chroma, 0.25), np.quantile(root_mean_square(fine, sigma)[glass], 0.1)
    limit = float(np.clip(_SPREADS * noise, *_TEXTURE_RANGE))
    missed = np.zeros_like(glass)
    missed[glass] = chroma > max(_SPREADS * float(drift), _LEAST_CHROMA)
    missed |= root_mean_square(np.minimum(fine, 2 * limit), sigma) > limit  # however dark, a speck alone is no texture
    return remove_small_pieces(binary_opening(missed & glass, iterations=max(1, round(8 / mpp))), _LEAST_UM2, mpp)


def _chroma(glass: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute the largest minus smallest OD, (n,), of pixels of glass, (n, 3), relative to their brightest quarter."""
    light = glass.mean(axis=1)
    white = np.median(glass[light >= np.quantile(light, 0.75)], axis=0)
    least, most = find_extremes(np.log((white + 1) / (glass + 1)))
    return np.asarray(most - least, np.float32)
