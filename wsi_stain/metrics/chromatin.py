"""Chromatin: what is left to see within nuclei, and how much of them is next to black. Knows no slides or files.

A nucleus closes where its chromatin is driven to the dark end: its mean may be right, and nothing can be told in it any
more. So the measure is contrast in grey levels of luminance, among the pixels of nuclei alone and at the scale of
chromatin. The pixels are those of the source's nuclei (`nuclei_mask`), less their rims.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.ndimage import binary_erosion, gaussian_filter

from wsi_stain.core.arrays import RgbTiles
from wsi_stain.core.records import StrictRecord
from wsi_stain.stain.vectors import LUMINANCE

DARK = 40
"""Luminance, 0 to 255, below which a pixel shows no chromatin."""

LEAST_KEPT = 0.8
"""Below this share of the source's contrast within nuclei they have closed, see `contrast_kept`."""

_DARKER, _DARK_SHARE = 2.0, 0.02
_RIM_UM = 0.5
_SMOOTHING_UM = 0.25
_WINDOW_UM = 1.0
_LEAST_PIXELS = 500


class NuclearDetail(StrictRecord):
    """Nuclei of one slide, or of several together.

    Attributes:
        contrast: Mean over their pixels of the local standard deviation of luminance among them, grey levels. Local is
            a Gaussian window of 1 um; what is finer than 0.25 um, as noise is, does not count.
        dark: Share of their pixels with a luminance below `DARK`, 0 to 1.
        luminance: Their mean luminance, 0 to 255.
    """

    contrast: float = Field(ge=0)
    dark: float = Field(ge=0, le=1)
    luminance: float = Field(ge=0, le=255)


def nuclear_detail(tiles: RgbTiles, nuclei: NDArray[np.bool_], mpp: float) -> NuclearDetail | None:
    """Measure nuclei.

    Args:
        tiles: RGB, (n, h, w, 3).
        nuclei: Where nuclei are, (n, h, w): of the same places, by the source.
        mpp: Resolution of both, um per px.

    Returns:
        None where there are hardly any.
    """
    rim = max(1, round(_RIM_UM / mpp))
    inner = np.stack([binary_erosion(mask, iterations=rim) for mask in nuclei])
    if inner.sum() < _LEAST_PIXELS:
        return None
    luminance = tiles.astype(np.float32) @ np.asarray(LUMINANCE, np.float32)
    contrast = _local_deviation(_blur(luminance, _SMOOTHING_UM / mpp), inner, _WINDOW_UM / mpp)
    values = luminance[inner]
    return NuclearDetail(
        contrast=float(contrast.mean(dtype=np.float64)),
        dark=float((values < DARK).mean()),
        luminance=float(values.mean(dtype=np.float64)),
    )


def contrast_kept(after: NuclearDetail, before: NuclearDetail) -> float | None:
    """Return how much of the contrast within nuclei is left: 1 for all of it; None where there was none.

    A change of stain alone makes nuclei paler or darker. By Beer and Lambert's law paler ones lose contrast in
    proportion to how far they stand off from white, which costs nothing here. Darker ones keep it, until they close.
    """
    if not before.contrast:
        return None
    paler = min(1.0, (255 - after.luminance) / max(255 - before.luminance, 1.0))
    return after.contrast / before.contrast / max(paler, 1e-3)


def most_dark(before: NuclearDetail, reference: NuclearDetail) -> float:
    """Return the largest share of dark pixels that is no fault: twice the reference's, the source's own, or 2 %."""
    return max(_DARKER * reference.dark, before.dark, _DARK_SHARE)


def mean_detail(details: list[NuclearDetail]) -> NuclearDetail | None:
    """Average over slides, each counting the same; None without any."""
    if not details:
        return None
    means = {name: float(np.mean([getattr(each, name) for each in details])) for name in NuclearDetail.model_fields}
    return NuclearDetail.model_validate(means)


def _local_deviation(values: NDArray[np.float32], inner: NDArray[np.bool_], sigma: float) -> NDArray[np.float32]:
    """Return the standard deviation of values, (n, h, w), around each inner pixel, among inner pixels alone: (N,)."""
    weight = inner.astype(np.float32)
    centred = (values - values[inner].mean()) * weight  # keeps the difference of large squares exact enough
    total, first, second = (_blur(part, sigma)[inner] for part in (weight, centred, centred**2))
    variance = second / total - (first / total) ** 2
    return np.sqrt(np.maximum(variance, 0))


def _blur(values: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    return np.asarray(gaussian_filter(values, (0, sigma, sigma)), np.float32)
