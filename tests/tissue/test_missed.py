"""The second look: quiet on glass, loud where something was missed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from tests.support.pale_tissue import MPP, beside_tissue, glass_beside
from wsi_stain.core.geometry import Size
from wsi_stain.slides.slide import Slide, SlideConfig
from wsi_stain.synthetic import LABORATORIES, stain_tissue
from wsi_stain.synthetic.tissue import render_tissue
from wsi_stain.tiling.survey import find_tissue
from wsi_stain.tissue.config import TissueConfig
from wsi_stain.tissue.mask import tissue_mask
from wsi_stain.tissue.missed import find_missed_tissue

GLASS = (241, 239, 243)


def glass(height: int = 300, width: int = 421, noise: float = 1.5, seed: int = 0) -> NDArray[np.uint8]:
    """Glass under light that drifts from one side to the other, with a scanner's noise."""
    rng = np.random.default_rng(seed)
    drift = np.linspace(-3, 3, width)[None, :, None] + np.linspace(2, -2, height)[:, None, None]
    return np.clip(np.rint(np.array(GLASS) + drift + rng.normal(0, noise, (height, width, 3))), 0, 255).astype(np.uint8)


def with_piece(pixels: NDArray[np.uint8], colour: tuple[int, int, int], texture: float = 0) -> NDArray[np.uint8]:
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    inside = ((y - 200) ** 2 + (x - 300) ** 2 < 40**2)[..., None]
    grain = gaussian_filter(np.random.default_rng(1).normal(0, 1, inside.shape[:2]), 1.0)[..., None] * 3 * texture
    piece = np.clip(np.asarray(colour) - np.asarray(GLASS) + pixels.astype(float) + grain, 0, 255)
    return np.where(inside, piece, pixels).round().astype(np.uint8)


@pytest.mark.parametrize("noise", [0.0, 1.0, 3.0, 6.0])
def test_glass_alone_is_quiet(noise: float) -> None:
    pixels = glass(noise=noise)
    assert not find_missed_tissue(pixels, np.zeros(pixels.shape[:2], bool), 8.0).any()


@pytest.mark.parametrize(
    ("colour", "texture"),
    [((240, 232, 240), 0), ((239, 238, 244), 6), ((232, 230, 246), 0)],
    ids=["pale eosin", "fat, without colour", "mucus"],
)
def test_what_a_mask_missed_is_found(colour: tuple[int, int, int], texture: float) -> None:
    pixels = with_piece(glass(), colour, texture)
    missed = find_missed_tissue(pixels, np.zeros(pixels.shape[:2], bool), 8.0)
    assert missed[190:211, 290:311].mean() > 0.8
    assert not missed[:120].any()


@pytest.mark.parametrize("laboratory", LABORATORIES)
@pytest.mark.parametrize("kind", ["fat", "mucin"])
def test_a_large_piece_that_the_mask_missed_is_found_beside_tissue(kind: str, laboratory: str) -> None:
    pixels, truth = beside_tissue(kind, laboratory, 0.5)
    mask = tissue_mask(pixels, MPP)
    assert not mask[truth].any()
    missed = find_missed_tissue(pixels, mask, MPP)
    assert missed[truth].mean() > 0.85
    assert not missed[glass_beside(truth, 8)].any()


def test_dust_and_what_the_mask_has_are_no_suspects() -> None:
    pixels = with_piece(glass(), (200, 120, 180), 8)
    pixels[40:43, 60:64] = 90  # dust
    mask = tissue_mask(pixels, 8.0)
    assert mask.any()
    assert not find_missed_tissue(pixels, mask, 8.0).any()


@pytest.mark.slow
def test_painted_slides_raise_no_alarm() -> None:
    """Rendered tissue, fat and mucin among it, is found by the mask itself."""
    size = Size(1400, 1100)
    for seed, laboratory in enumerate(LABORATORIES.values()):
        painted = stain_tissue(render_tissue(size, 4.0, seed), laboratory, seed)
        mask = tissue_mask(painted, 4.0)
        assert mask.mean() > 0.05
        assert find_missed_tissue(painted, mask, 4.0).mean() < 0.002


@pytest.mark.parametrize(
    ("name", "mpp"),
    [
        ("slides/AT2_gastric_metaplasia.svs", None),
        ("slides/NanoZoomer_EO1_cropA.svs", None),
        ("formats/CMU-1-Small-Region.svs", None),
        ("formats/TCGA-CR-7395-01A-01-TS1.svs", 0.25),
    ],
)
def test_real_slides_raise_no_alarm(real_data: Path, name: str, mpp: float | None) -> None:
    with Slide(real_data / name, SlideConfig(slide_mpp=mpp)) as slide:
        assert not find_tissue(slide, TissueConfig()).suspect.any()
