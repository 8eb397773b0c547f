"""Distances between two images, and measures of how alike slides look: pure functions.

Images are RGB uint8 of one shape, (h, w, 3), pixels (..., 3).
`a` is the image judged, `b` the truth or the reference. Colour is in `colour_difference`, structure in `structure`,
nuclei kept in `nuclei`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance
from skimage.color import rgb2lab
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from wsi_stain.core.arrays import RgbImage
from wsi_stain.stain.vectors import LUMINANCE


def psnr(a: RgbImage, b: RgbImage) -> float:
    """Compute the peak signal-to-noise ratio over all channels, dB; infinite for equal images."""
    if np.array_equal(a, b):
        return float("inf")
    return float(peak_signal_noise_ratio(b, a, data_range=255))


def ssim(a: RgbImage, b: RgbImage) -> float:
    """Compute the structural similarity of the luminance, -1 to 1, of images at least 11 px wide and high.

    Gaussian window of 11 px, sigma 1.5, after Wang et al. (2004), IEEE Trans. Image Process. 13, 600-612.
    """
    return float(
        structural_similarity(
            _luminance(a),
            _luminance(b),
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def lab_wasserstein(a: RgbImage, b: RgbImage) -> tuple[float, float, float]:
    """Compute the Wasserstein-1 distances of L*, a* and b*; the images need not show the same thing."""
    lab_a, lab_b = (rgb2lab(image).reshape(-1, 3) for image in (a, b))
    light, green_red, blue_yellow = (float(wasserstein_distance(lab_a[:, c], lab_b[:, c])) for c in range(3))
    return light, green_red, blue_yellow


def lab_wasserstein_windows(a: RgbImage, b: RgbImage, side: int = 64) -> float:
    """Average the sum of `lab_wasserstein` over windows: histogram matching games the distance of whole images.

    Args:
        a: (h, w, 3).
        b: The same place.
        side: Of the square windows, px; those at the far edges may be smaller.
    """
    corners = [(top, left) for top in range(0, a.shape[0], side) for left in range(0, a.shape[1], side)]
    windows = [np.s_[top : top + side, left : left + side] for top, left in corners]
    return float(np.mean([sum(lab_wasserstein(a[window], b[window])) for window in windows]))


def normalized_median_intensity(pixels: RgbImage) -> float:
    """Compute median over 95th percentile of the mean of R, G and B: brightness of tissue beside its brightest, 0 to 1.

    Basavanhally and Madabhushi (2013), EM-based segmentation-driven color standardization of digitized histopathology,
    Proc. SPIE 8676, 86760G. Its spread over the slides of a cohort tells how unlike they are.

    Args:
        pixels: Of tissue, (..., 3), at least one that is not black.
    """
    median, high = np.percentile(pixels.reshape(-1, 3).mean(axis=1), [50, 95])
    return float(median / high)


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Return standard deviation (n - 1), and it over the mean (coefficient of variation); NaN below two values."""
    if len(values) < 2:
        return float("nan"), float("nan")
    deviation = float(np.std(values, ddof=1))
    return deviation, deviation / float(np.mean(values))


def share_of_gap(score: float, untouched: float, oracle: float) -> float:
    """Return the share of the way from the score of doing nothing to the best possible one: 0, 1, below 0 if worse.

    NaN where there is no way to go.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.float64(score - untouched) / np.float64(oracle - untouched)) + 0.0  # never a negative zero


def texture(a: RgbImage, b: RgbImage) -> tuple[float, ...]:
    """Compare the power of the luminance of `a` with that of `b`, by octaves of spatial frequency; 1 where equal.

    Radial power spectra (van der Schaaf and van Hateren 1996, Vision Res. 36, 2759-2770) under a Hann window. Below 1
    in the last octave is a blur, as L1 alone leaves; above 1 is grain.

    Args:
        a: (h, w, 3), at least 32 px wide and high.
        b: Likewise.

    Returns:
        The ratios for 1/32 to 1/16, 1/16 to 1/8, 1/8 to 1/4 and 1/4 to 1/2 cycles per px.
    """
    frequency = np.hypot(np.fft.fftfreq(a.shape[0])[:, None], np.fft.rfftfreq(a.shape[1])[None, :])
    power_a, power_b = _power(a), _power(b)
    bands = [(frequency >= low) & (frequency < 2 * low) for low in (1 / 32, 1 / 16, 1 / 8, 1 / 4)]
    return tuple(float(power_a[band].sum() / max(power_b[band].sum(), 1e-12)) for band in bands)


def _power(image: RgbImage) -> NDArray[np.float64]:
    light = _luminance(image)
    window = np.outer(np.hanning(light.shape[0]), np.hanning(light.shape[1]))
    power: NDArray[np.float64] = np.abs(np.fft.rfft2((light - light.mean()) * window)) ** 2
    return power


def _luminance(image: RgbImage) -> NDArray[np.float32]:
    return image.astype(np.float32) @ np.asarray(LUMINANCE, np.float32)
