"""Metrics against known values and their own axioms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from wsi_stain.metrics import ciede2000, ciede2000_map, lab_wasserstein, psnr, ssim, texture


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (301, 47, 3), dtype=np.uint8)


def test_equal_images(image: np.ndarray) -> None:
    assert psnr(image, image) == float("inf")
    assert ssim(image, image) == pytest.approx(1.0)
    assert ciede2000(image, image) == 0
    assert lab_wasserstein(image, image) == (0.0, 0.0, 0.0)


def test_psnr_of_a_constant_error() -> None:
    """10 log10(255^2 / 16) = 36.09 dB."""
    a = np.full((13, 17, 3), 100, np.uint8)
    assert psnr(a + np.uint8(4), a) == pytest.approx(36.09, abs=0.01)


def test_ciede2000_of_known_colours() -> None:
    """Black and white lie 100 apart; so do their pixels on average where half of them agree."""
    black, white = np.zeros((300, 2, 3), np.uint8), np.full((300, 2, 3), 255, np.uint8)
    half = black.copy()
    half[:, 0] = 255
    assert ciede2000(black, white) == pytest.approx(100, abs=0.01)
    assert ciede2000(half, white) == pytest.approx(50, abs=0.01)


def test_ciede2000_map_has_each_pixel_in_its_place(image: np.ndarray) -> None:
    """The strips it works on must not show: the second one begins at row 256."""
    other = image.copy()
    other[290, 5] ^= 255
    difference = ciede2000_map(other, image)
    assert difference.shape == (301, 47)
    assert np.argwhere(difference).tolist() == [[290, 5]]


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
