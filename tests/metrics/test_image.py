"""Metrics against known values and their own axioms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2lab

from wsi_stain.metrics.image import (
    lab_wasserstein,
    lab_wasserstein_windows,
    normalized_median_intensity,
    psnr,
    share_of_gap,
    spread,
    ssim,
    texture,
)
from wsi_stain.stain.vectors import angle_deg


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (301, 47, 3), dtype=np.uint8)


def test_equal_images(image: np.ndarray) -> None:
    assert psnr(image, image) == float("inf")
    assert ssim(image, image) == pytest.approx(1.0)
    assert lab_wasserstein(image, image) == (0.0, 0.0, 0.0)


def test_psnr_of_a_constant_error() -> None:
    """10 log10(255^2 / 16) = 36.09 dB."""
    a = np.full((13, 17, 3), 100, np.uint8)
    assert psnr(a + np.uint8(4), a) == pytest.approx(36.09, abs=0.01)


def test_ssim_sees_structure_and_forgives_hue(image: np.ndarray) -> None:
    noise = np.random.default_rng(4).normal(0, 40, (*image.shape[:2], 1))
    noisy = np.clip(image + noise, 0, 255).astype(np.uint8)
    assert ssim(noisy, image) < 0.95
    inside = np.clip(image, 150, 198).astype(np.uint8)  # 0.299 * 57 = 0.114 * 149: the luminance stays
    tinted = (inside + np.array([57, 0, -149])).astype(np.uint8)
    assert ssim(tinted, inside) > 0.99


def test_wasserstein_is_blind_to_place_and_measures_a_shift() -> None:
    gray = np.repeat(np.arange(0, 200, dtype=np.uint8)[:, None], 3, axis=1)[:, None]
    shuffled = np.random.default_rng(0).permutation(gray)
    assert lab_wasserstein(shuffled, gray) == pytest.approx((0, 0, 0), abs=1e-9)
    lightness, green_red, blue_yellow = lab_wasserstein(gray + np.uint8(20), gray)
    assert lightness > 5
    assert abs(green_red) < 0.1 and abs(blue_yellow) < 0.1


def test_texture_is_one_for_equal_images_and_falls_with_blur(image: np.ndarray) -> None:
    assert texture(image, image) == pytest.approx((1, 1, 1, 1))
    blurred = gaussian_filter(image.astype(np.float32), (1.5, 1.5, 0)).astype(np.uint8)
    low, *_, high = texture(blurred, image)
    assert high < 0.2
    assert high < low


def test_texture_puts_a_grating_into_its_octave() -> None:
    """A period of six pixels lies between 1/8 and 1/4 of a cycle a px; half the contrast is a quarter of the power."""
    wave = np.sin(2 * np.pi * np.arange(96) / 6)[None, :, None] * np.ones((96, 1, 3))
    noise = np.random.default_rng(0).normal(0, 4, (96, 96, 3))
    strong, weak = (np.uint8(np.clip(128 + size * wave + noise, 0, 255)) for size in (80, 40))
    ratios = texture(weak, strong)
    assert ratios[2] == pytest.approx(0.25, abs=0.03)
    assert ratios[0] == pytest.approx(1, abs=0.1)


def test_windows_see_what_a_shuffle_hides(image: np.ndarray) -> None:
    """Swapped halves have one distribution as a whole, and another in each window."""
    half = np.zeros((64, 128, 3), np.uint8)
    half[:, 64:] = 255
    assert sum(lab_wasserstein(half[:, ::-1], half)) == pytest.approx(0, abs=1e-9)
    assert lab_wasserstein_windows(half[:, ::-1].copy(), half) == pytest.approx(100, abs=0.1)
    assert lab_wasserstein_windows(image, image) == 0


def test_wasserstein_agrees_with_sorted_samples(image: np.ndarray) -> None:
    """For as many samples on both sides it is the mean distance of the sorted values: Kolouri et al. (2017)."""
    other = image[::-1] // 2
    ours, theirs = (np.sort(rgb2lab(picture).reshape(-1, 3), axis=0) for picture in (image, other))
    by_hand = np.abs(ours - theirs).mean(axis=0)
    assert lab_wasserstein(image, other) == pytest.approx(by_hand, rel=1e-4)


def test_normalized_median_intensity_of_known_pixels() -> None:
    """Of 0, 1, ... 100 the median is 50 and the 95th percentile 95; it does not depend on the exposure."""
    gray = np.repeat(np.arange(101, dtype=np.uint8)[:, None], 3, axis=1)
    assert normalized_median_intensity(gray) == pytest.approx(50 / 95)
    assert normalized_median_intensity(2 * gray) == pytest.approx(50 / 95)


def test_spread_of_a_cohort() -> None:
    assert spread([1.0, 3.0]) == pytest.approx((2**0.5, 2**0.5 / 2))
    assert all(np.isnan(spread([1.0])))


def test_share_of_the_gap() -> None:
    assert share_of_gap(3.0, 4.0, 2.0) == 0.5
    assert share_of_gap(5.0, 4.0, 2.0) == -0.5
    assert np.isnan(share_of_gap(4.0, 4.0, 4.0))


def test_angle_between_stain_vectors() -> None:
    assert angle_deg((1.0, 0.0, 0.0), (2.0, 2.0, 0.0)) == pytest.approx(45)
    assert angle_deg((0.6, 0.7, 0.3), (0.6, 0.7, 0.3)) == pytest.approx(0, abs=1e-5)


def test_ssim_agrees_with_an_independent_implementation(image: np.ndarray) -> None:
    """Straight from equations 13 to 16 of Wang et al. (2004), with scipy's Gaussian."""
    other = np.clip(image.astype(int) + np.random.default_rng(1).integers(-30, 30, image.shape), 0, 255).astype(
        np.uint8
    )
    x, y = (np.asarray(picture, float) @ (0.299, 0.587, 0.114) for picture in (other, image))

    def mean(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, 1.5, truncate=3.5)

    (mx, my), c1, c2 = (mean(x), mean(y)), (0.01 * 255) ** 2, (0.03 * 255) ** 2
    vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    index = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    assert ssim(other, image) == pytest.approx(index[5:-5, 5:-5].mean(), abs=1e-4)
