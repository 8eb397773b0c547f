"""Tissue and ink: painted thumbnails with known truth, and real slides and pen marks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation

from tests.support.pale_tissue import MPP, beside_tissue, glass_beside
from wsi_stain.core.geometry import Region, Size
from wsi_stain.slides.slide import Slide, SlideConfig
from wsi_stain.synthetic import LABORATORIES, stain_tissue
from wsi_stain.synthetic.tissue import render_tissue
from wsi_stain.tissue.config import TissueConfig
from wsi_stain.tissue.grid import tile_grid
from wsi_stain.tissue.ink import find_ink_and_dark, pen_mask
from wsi_stain.tissue.mask import tissue_mask

GLASS = (240, 239, 241)
PALE, USUAL, DARK = (228, 214, 226), (190, 120, 170), (80, 45, 105)
INKS = {
    "blue": (40, 100, 200),
    "green": (50, 165, 135),
    "red": (205, 25, 30),
    "black": (25, 25, 28),
    "blue over tissue": (40, 75, 135),
    "green over tissue": (25, 80, 75),
}


def slide_with(colour: tuple[int, int, int], seed: int = 1) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A thumbnail (150, 211) of glass with a round piece of tissue, and where that is."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:150, :211]
    truth = (y - 80) ** 2 + (x - 90) ** 2 < 50**2
    pixels = np.where(truth[..., None], colour, GLASS) + rng.normal(0, 2, (150, 211, 3))
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8), truth


@pytest.mark.parametrize("colour", [PALE, USUAL, DARK], ids=["pale", "usual", "dark"])
def test_tissue_is_found_whatever_its_depth_of_stain(colour: tuple[int, int, int]) -> None:
    pixels, truth = slide_with(colour)
    found = tissue_mask(pixels, 8.0)
    assert found.dtype == np.bool_ and (found & truth).sum() > 0.97 * truth.sum()
    assert (found & ~truth).sum() < 0.12 * truth.sum()


@pytest.mark.parametrize("laboratory", LABORATORIES)
@pytest.mark.parametrize(("kind", "share"), [("fat", 0.9), ("mucin", 0.6)])
def test_dark_tissue_does_not_hide_fat_and_mucin_beside_it(kind: str, share: float, laboratory: str) -> None:
    pixels, truth = beside_tissue(kind, laboratory)
    found = tissue_mask(pixels, MPP)
    assert found[truth].mean() > share
    kept = tile_grid(Size(truth.shape[1] * 32, truth.shape[0] * 32), found).kept  # at 0.25 um/px
    held = kept.repeat(8, axis=0).repeat(8, axis=1)[: truth.shape[0], : truth.shape[1]]
    assert held[truth].mean() > 0.97
    assert not found[glass_beside(truth, 6)].any()


@pytest.mark.parametrize(("kind", "strength"), [("fat", 1), ("fat", 0.5), ("mucin", 1), ("tissue", 0.2)])
def test_entropy_finds_what_is_hardly_stained(kind: str, strength: float) -> None:
    pixels, truth = beside_tissue(kind, "reference", strength)
    found = tissue_mask(pixels, MPP, TissueConfig(method="entropy"))
    assert found[truth].mean() > 0.85
    assert not found[glass_beside(truth, 8)].any()


@pytest.mark.parametrize("method", ["otsu", "entropy"])
def test_small_fragments_are_found_and_glass_between_them_is_not(method: str) -> None:
    rng = np.random.default_rng(4)
    truth = np.zeros((300, 400), bool)
    for row, col in rng.integers(10, (280, 380), (40, 2)):
        truth[row : row + 16, col : col + 15] = True  # 128 x 120 um
    pixels = np.where(truth[..., None], np.asarray(USUAL) + rng.normal(0, 15, (300, 400, 1)), GLASS)
    pixels = np.clip(np.rint(pixels + rng.normal(0, 2, (300, 400, 3))), 0, 255).astype(np.uint8)
    found = tissue_mask(pixels, 8.0, TissueConfig.model_validate({"method": method}))
    assert found[truth].mean() > 0.97
    assert found[~binary_dilation(truth, iterations=8)].mean() < 0.02


def test_air_bubbles_are_not_tissue() -> None:
    pixels, truth = slide_with(USUAL)
    y, x = np.mgrid[:150, :211]
    rim = np.exp(-(((np.hypot(y - 60, x - 175) - 25) / 2) ** 2))[..., None]
    pixels = np.rint(pixels * (1 - 0.7 * rim)).astype(np.uint8)
    found = tissue_mask(pixels, 8.0)
    assert not found[:, 150:].any() and (found & truth).sum() > 0.97 * truth.sum()


def test_glass_alone_has_no_tissue_and_tissue_alone_no_glass() -> None:
    rng = np.random.default_rng(0)
    grain = rng.normal(0, 3, (90, 131, 3))
    assert not tissue_mask(np.clip(GLASS + grain, 0, 255).astype(np.uint8), 8.0).any()
    filled = np.clip(np.array(USUAL) + 12 * grain, 0, 255).astype(np.uint8)
    filled[:4] = GLASS
    assert tissue_mask(filled, 8.0)[8:].mean() > 0.95


@pytest.mark.parametrize("fill", [0, 255], ids=["black", "white"])
def test_a_blank_thumbnail_is_no_tissue(fill: int) -> None:
    assert not tissue_mask(np.full((33, 47, 3), fill, np.uint8), 8.0).any()


def test_specks_go_and_small_holes_are_filled_by_area_in_um() -> None:
    pixels, truth = slide_with(USUAL)
    pixels[10:14, 190:194] = USUAL  # 32 um square
    pixels[76:82, 86:92] = GLASS  # 48 um square
    config = TissueConfig(smoothing_um=0, min_tissue_um2=2_000, max_hole_um2=3_000)
    assert np.array_equal(tissue_mask(pixels, 8.0, config), truth)
    keeping = config.model_copy(update={"min_tissue_um2": 500.0, "max_hole_um2": 500.0})
    found = tissue_mask(pixels, 8.0, keeping)
    assert found[11, 191] and not found[78, 88]


@pytest.mark.parametrize("ink", INKS.values(), ids=INKS)
def test_ink_is_not_tissue_nor_is_its_soft_rim(ink: tuple[int, int, int]) -> None:
    pixels, truth = slide_with(USUAL)
    cover = np.clip((30 - np.abs(np.arange(211) - 175)) / 12, 0, 1)[None, :, None] * np.ones((150, 1, 1))
    cover[:, :145] = 0
    marked = np.rint(pixels * np.exp(cover * np.log(np.array(ink) / 240))).astype(np.uint8)
    found = tissue_mask(marked, 8.0)
    assert not found[:, 160:190].any()
    assert (found & truth)[:, :140].sum() > 0.97 * truth[:, :140].sum()


def test_the_black_of_a_coverslip_edge_is_not_tissue() -> None:
    pixels, truth = slide_with(USUAL)
    pixels[:, 204:] = (3, 2, 4)
    pixels[:6] = (30, 28, 26)
    found = tissue_mask(pixels, 8.0)
    assert not found[:, 200:].any() and not found[:8].any() and (found & truth).sum() > 0.97 * truth.sum()


def test_small_specks_with_the_colour_of_ink_stay_tissue() -> None:
    pixels, truth = slide_with(USUAL)
    pixels[70:74, 80:84] = INKS["red"]
    assert tissue_mask(pixels, 8.0)[truth].mean() > 0.97


@pytest.mark.parametrize("ink", INKS.values(), ids=INKS)
def test_ink_is_told_by_colour_in_any_shape(ink: tuple[int, int, int]) -> None:
    flat = np.full((7, 3), ink, np.uint8)
    assert pen_mask(flat).all() and pen_mask(flat.reshape(1, 7, 3)).shape == (1, 7)


@pytest.mark.parametrize(
    "rgb",
    [
        (80, 75, 165),
        (45, 30, 75),
        (230, 120, 170),
        (205, 60, 110),
        (195, 70, 90),
        GLASS,
        (150, 150, 152),
        (255, 255, 255),
    ],
    ids=["blue nucleus", "dark nucleus", "eosin", "deep eosin", "blood", "glass", "shadow", "fill"],
)
def test_stain_blood_and_glass_are_not_ink(rgb: tuple[int, int, int]) -> None:
    assert not pen_mask(np.full((2, 5, 3), rgb, np.uint8)).any()


@pytest.mark.parametrize(
    ("name", "slide_mpp", "low", "high"),
    [
        ("slides/AT2_gastric_metaplasia.svs", None, 0.55, 0.68),
        ("slides/NanoZoomer_EO1_cropA.svs", None, 0.94, 0.99),
        ("formats/CMU-1-Small-Region.svs", None, 0.36, 0.48),
        ("formats/TCGA-CR-7395-01A-01-TS1.svs", 0.25, 0.65, 0.75),
    ],
)
def test_real_slides_have_the_share_of_tissue_that_the_eye_sees(
    real_data: Path, name: str, slide_mpp: float | None, low: float, high: float
) -> None:
    with Slide(real_data / name, SlideConfig(slide_mpp=slide_mpp)) as slide:
        thumbnail = slide.thumbnail(8.0)
        centre = slide.read(Region(slide.size.width // 3, slide.size.height // 3, 1024, 777))
    assert low < tissue_mask(thumbnail, 8.0).mean() < high
    assert pen_mask(thumbnail).mean() < 0.005
    assert pen_mask(centre).mean() < 0.02


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("no-tissue-green-pen", 0.70, 0.80),
        ("medium-nuclei-score-green-pen-level1", 0.35, 0.50),
        ("tcga-green-pen", 0.09, 0.16),
        ("tcga-red-pen", 0.15, 0.25),
        ("no-tissue-red-pen", 0.12, 0.60),
        ("wsi-blue-pen", 0.02, 0.05),
        ("no-tissue-line", 0.002, 0.02),
        ("medium-nuclei-score-level1", 0, 0.005),
        ("tissue-level0-4302-10273-4814-10785", 0, 0.001),
        ("tissue-level0-7352-11762-7864-12274", 0, 0.001),
        ("tissue-level2-3000-7666-7096-11763", 0, 0.001),
        ("almost-white-1", 0, 0.001),
    ],
)
def test_real_pen_marks(real_data: Path, name: str, low: float, high: float) -> None:
    pixels = np.asarray(Image.open(real_data / "patches" / "histolab" / f"{name}.png").convert("RGB"))
    assert low <= pen_mask(pixels).mean() <= high


@pytest.mark.parametrize("name", ["no-tissue", "no-tissue-line", "no-tissue-green-pen", "almost-white-1"])
def test_real_patches_without_tissue(real_data: Path, name: str) -> None:
    pixels = np.asarray(Image.open(real_data / "patches" / "histolab" / f"{name}.png").convert("RGB"))
    assert not tissue_mask(pixels, 1.0).any()


def test_ink_over_tissue_is_ink_where_it_hangs_together_with_a_stroke() -> None:
    pixels = stain_tissue(render_tissue(Size(701, 503), 1.0, 3), LABORATORIES["other"], 3)
    stroke = np.zeros(pixels.shape[:2], bool)
    stroke[200:260] = True
    marked = pixels.copy()
    marked[stroke] = (marked[stroke] * (0.25, 0.45, 0.85)).astype(np.uint8)
    ink = find_ink_and_dark(marked, 1.0).ink
    assert ink[stroke].mean() > 0.95
    assert ink[~stroke].mean() < 0.02
    assert not tissue_mask(marked, 1.0)[stroke].any()
    assert tissue_mask(pixels, 1.0)[stroke].any()
    assert not find_ink_and_dark(pixels, 1.0).ink.any()


def test_glass_that_reaches_the_frame_of_a_small_slide_is_no_hole() -> None:
    nothing = np.zeros((217, 301, 2), np.float32)
    assert not tissue_mask(stain_tissue(nothing, LABORATORIES["other"], 5), 0.25).any()
