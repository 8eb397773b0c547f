"""Quality of tiles: blur and ink of painted tiles with known truth, and of real slides and pen marks."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, laplace

from wsi_stain.core.geometry import BlockIndex, Region, Size, TileIndex
from wsi_stain.slides.resampling import area_average
from wsi_stain.slides.slide import Slide, SlideConfig
from wsi_stain.synthetic import LABORATORIES, render_tissue, stain_tissue
from wsi_stain.tissue.tile_quality import QUALITIES, ink_sample, ink_shares, measure_blur, part_on_slide, quality_maps

MPP = 0.25


@pytest.fixture(scope="module")
def tissue() -> NDArray[np.uint8]:
    """(512, 512, 3): the middle of a synthetic piece of tissue."""
    return stain_tissue(render_tissue(Size(1601, 1203), MPP, 5), LABORATORIES["reference"])[300:812, 500:1012]


def blur_of(pixels: NDArray[np.uint8], mpp: float = MPP) -> float:
    found = measure_blur(pixels, mpp)
    assert found is not None
    return found


def pen_of(pixels: NDArray[np.uint8]) -> float:
    return ink_shares([ink_sample(pixels)])[0]


def tiles_of(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    rows, cols = range(0, pixels.shape[0] - 255, 256), range(0, pixels.shape[1] - 255, 256)
    return [pixels[row : row + 256, col : col + 256] for row in rows for col in cols]


def defocus(pixels: NDArray[np.uint8], sigma_um: float, mpp: float = MPP) -> NDArray[np.uint8]:
    sigma = sigma_um / mpp
    return np.rint(gaussian_filter(pixels.astype(np.float32), (sigma, sigma, 0))).astype(np.uint8)


def assert_falls(pixels: NDArray[np.uint8], mpp: float) -> None:
    """Blurring a tile step by step lowers its value at every step, and by 1 um to a fifth at most."""
    steps = [pixels, *(defocus(pixels, sigma_um, mpp) for sigma_um in (0.25, 0.5, 1, 2))]
    values = np.array([[blur_of(tile, mpp) for tile in tiles_of(step)] for step in steps])
    assert (np.diff(values, axis=0) < 0).all()
    assert (values[3] < values[0] / 5).all()


def test_blurring_lowers_blur_at_every_step(tissue: NDArray[np.uint8]) -> None:
    assert_falls(tissue, MPP)


def test_the_same_tissue_has_the_same_blur_at_half_the_resolution(tissue: NDArray[np.uint8]) -> None:
    coarse = np.rint(tissue.reshape(256, 2, 256, 2, 3).mean(axis=(1, 3))).astype(np.uint8)
    fine = np.mean([blur_of(tile) for tile in tiles_of(tissue)])
    assert blur_of(coarse, 2 * MPP) == pytest.approx(fine, rel=0.05)


@pytest.mark.parametrize("mpp", [0.4, 0.45, 0.6, 0.7])
def test_blur_compares_between_any_resolutions(tissue: NDArray[np.uint8], mpp: float) -> None:
    step, side = Fraction(str(mpp)) / Fraction(str(MPP)), int(511 * MPP / mpp)
    coarse = area_average(tissue, Fraction(0), Fraction(0), step, step, side, side)
    fine = np.mean([blur_of(tile) for tile in tiles_of(tissue)])
    assert blur_of(coarse[:256, :256], mpp) == pytest.approx(fine, rel=0.3)


def test_pen_is_the_share_of_ink() -> None:
    pixels = np.full((256, 256, 3), (220, 130, 180), np.uint8)
    assert pen_of(pixels) == 0
    pixels[:, :64] = (40, 100, 200)
    assert pen_of(pixels) == 0.25
    pixels[:128] = (25, 25, 28)
    assert pen_of(pixels) == 0.625


def test_what_lies_beyond_the_slide_is_not_looked_at(tissue: NDArray[np.uint8]) -> None:
    size = Size(256 + 100, 256 + 61)
    corner = np.full((256, 256, 3), 255, np.uint8)
    corner[:61, :100] = tissue[:61, :100]
    for beyond in (255, 0):
        filled = corner.copy()
        filled[61:], filled[:, 100:] = beyond, beyond
        assert np.array_equal(part_on_slide(filled, TileIndex(1, 1), size), tissue[:61, :100])


@pytest.mark.parametrize(("height", "width"), [(1, 256), (256, 5), (2, 2)])
def test_a_sliver_has_no_blur_but_may_have_ink(height: int, width: int) -> None:
    sliver = np.full((height, width, 3), (40, 100, 200), np.uint8)
    assert measure_blur(sliver, MPP) is None and pen_of(sliver) == 1


@pytest.mark.parametrize("shape", [(256, 256), (61, 100), (256, 5), (3, 3)])
@pytest.mark.parametrize("mpp", [0.1, 0.25, 0.5, 1.0])
def test_blur_is_the_variance_of_the_laplacian_however_the_pixels_lie(shape: tuple[int, int], mpp: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)).transpose(1, 2, 0)
    factor = max(1, round(0.5 / mpp))
    height, width = (side // factor * factor for side in shape)
    green = pixels[:height, :width, 1].reshape(height // factor, factor, width // factor, factor).mean((1, 3))
    every = 2 if factor == 1 else 1
    laplacian = laplace(green)[1:-1:every, 1:-1:every]
    expected = pytest.approx(laplacian.var() * (0.5 / mpp / factor) ** 2, abs=1e-3) if laplacian.size else None
    assert measure_blur(pixels, mpp) == measure_blur(planes, mpp) == expected


def test_tiles_have_the_same_ink_together_and_alone(tissue: NDArray[np.uint8]) -> None:
    inked = np.where(np.arange(256)[:, None, None] < 100, np.uint8(20), tissue[:256, :256])
    parts = [inked, tissue[256:, 256:], inked[60:121, :100], inked[:, :5], inked[99:101, :2]]
    shares = ink_shares([ink_sample(part) for part in parts])
    assert shares == [pen_of(part) for part in parts] and len(set(shares)) > 3
    assert shares[0] == pytest.approx(100 / 256, abs=1 / 32) and shares[1] == 0
    assert ink_shares([]) == []


def test_maps_hold_every_tile_at_its_place_and_nothing_elsewhere() -> None:
    kept = np.zeros((3, 19), bool)
    kept[0, 2] = kept[2, 1] = kept[1, 16] = kept[2, 18] = True
    left = {"blur": [1.0, 2.0], "pen": [0.1, 0.2]}
    right = {"blur": [3.0, None], "pen": [0.3, 0.4]}
    maps = quality_maps(kept, {BlockIndex(0, 1): right, BlockIndex(0, 0): left})
    assert tuple(maps) == QUALITIES and maps["blur"].dtype == np.float32
    assert (maps["blur"][0, 2], maps["blur"][2, 1], maps["blur"][1, 16]) == (1, 2, 3)
    assert np.isnan(maps["blur"][2, 18]) and maps["pen"][2, 18] == np.float32(0.4)
    assert np.array_equal(np.isnan(maps["pen"]), ~kept)


@pytest.mark.parametrize(
    ("name", "slide_mpp", "lowest"),
    [
        ("slides/AT2_gastric_metaplasia.svs", None, 300),
        ("slides/NanoZoomer_EO1_cropA.svs", None, 60),
        ("formats/TCGA-CR-7395-01A-01-TS1.svs", 0.25, 300),
    ],
)
def test_real_tissue_is_sharp_and_clean_and_blurring_shows(
    real_data: Path, name: str, slide_mpp: float | None, lowest: float
) -> None:
    with Slide(real_data / name, SlideConfig(slide_mpp=slide_mpp)) as slide:
        mpp, (width, height) = slide.mpp.mean, slide.size
        pixels = slide.read(Region(width // 3, height // 3, 768, 512))
    assert_falls(pixels, mpp)
    assert min(blur_of(tile, mpp) for tile in tiles_of(pixels)) > lowest
    assert max(pen_of(tile) for tile in tiles_of(pixels)) < 0.01


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("no-tissue-green-pen", 0.65, 0.85),
        ("medium-nuclei-score-green-pen-level1", 0.35, 0.55),
        ("tcga-green-pen", 0.12, 0.35),
        ("tcga-red-pen", 0.1, 0.35),
        ("no-tissue-red-pen", 0.1, 0.6),
        ("wsi-blue-pen", 0.02, 0.05),
        ("medium-nuclei-score-level1", 0, 0),
        ("tissue-level0-4302-10273-4814-10785", 0, 0),
        ("tissue-level0-7352-11762-7864-12274", 0, 0),
        ("tissue-level2-3000-7666-7096-11763", 0, 0),
        ("almost-white-1", 0, 0),
    ],
)
def test_real_pen_marks(real_data: Path, name: str, low: float, high: float) -> None:
    pixels = np.asarray(Image.open(real_data / "patches" / "histolab" / f"{name}.png").convert("RGB"))
    found = np.mean([pen_of(tile) for tile in tiles_of(pixels) or [pixels]])
    assert low <= found <= high
