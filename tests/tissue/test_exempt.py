"""What is neither tissue nor glass: found on painted thumbnails of known truth, and nowhere on clean real slides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from wsi_stain.core.geometry import Size
from wsi_stain.slides.slide import Slide, SlideConfig
from wsi_stain.synthetic import LABORATORIES, stain_tissue
from wsi_stain.synthetic.tissue import render_tissue
from wsi_stain.tissue.config import TissueConfig
from wsi_stain.tissue.exempt import AS_GLASS, AS_SCANNED, exempt_areas, exempt_remarks, share_under_ink
from wsi_stain.tissue.grid import tile_grid
from wsi_stain.tissue.ink import find_ink_and_dark
from wsi_stain.tissue.mask import tissue_mask

MPP = 4.0
SIZE = Size(640, 480)
CONFIG = TissueConfig()
GLASS = 242.0

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def tissue_beside_glass() -> Pixels:
    """Tissue in the middle, plain glass in the outer fifth of each side."""
    pixels = np.full((SIZE.height, SIZE.width, 3), GLASS)
    inner = stain_tissue(render_tissue(Size(384, 288), MPP, 3), LABORATORIES["other"], 3)
    pixels[96:384, 128:512] = inner
    return (pixels + np.random.default_rng(1).normal(0, 1.5, pixels.shape)).clip(0, 255).astype(np.uint8)


def darken(pixels: Pixels, od: NDArray[np.floating]) -> Pixels:
    return (pixels * np.exp(-od)).round().clip(0, 255).astype(np.uint8)


def black_border(pixels: Pixels) -> tuple[Pixels, Mask]:
    dark = np.ones(pixels.shape[:2], bool)
    dark[40:-40, 40:-40] = False
    return np.where(dark[..., None], np.uint8(4), pixels), dark


def gray_fill(pixels: Pixels) -> tuple[Pixels, Mask]:
    dark = np.zeros(pixels.shape[:2], bool)
    dark[:60] = True
    return np.where(dark[..., None], np.uint8(128), pixels), dark


def shadow(pixels: Pixels) -> tuple[Pixels, Mask]:
    od = np.zeros(pixels.shape[:2])
    od[-50:] = 0.64
    od = gaussian_filter(od, 6)
    return darken(pixels, od[..., None]), od > 0.3


def bubble(pixels: Pixels) -> tuple[Pixels, Mask]:
    y, x = np.mgrid[: SIZE.height, : SIZE.width]
    od = 1.5 * np.exp(-(((np.hypot(y - 48, x - 64) - 32) / 5) ** 2))
    return darken(pixels, od[..., None]), od > 0.6


def border_behind_ink(pixels: Pixels) -> tuple[Pixels, Mask]:
    pixels = pixels.copy()
    pixels[200:260] = darken(pixels[200:260], np.array((1.15, 0.75, 0.2)))
    return black_border(pixels)


@pytest.mark.parametrize("draw", [black_border, border_behind_ink, gray_fill, shadow, bubble])
def test_dark_beside_tissue_is_shown_as_glass_and_is_no_tissue(draw: object) -> None:
    clean = tissue_beside_glass()
    pixels, dark = draw(clean)  # type: ignore[operator]
    tissue = tissue_mask(pixels, MPP, CONFIG)
    exempt = exempt_areas(find_ink_and_dark(pixels, MPP, CONFIG), tissue, MPP, CONFIG)
    assert (exempt[dark] == AS_GLASS).mean() > 0.97
    assert not tissue[dark].any()
    inside = tissue_mask(clean, MPP, CONFIG) & ~dark
    inside[:100], inside[-100:], inside[180:280] = False, False, False
    assert (exempt[inside] == 0).mean() > 0.999


def test_a_coverslip_edge_is_glass_beside_tissue_and_as_scanned_across_it() -> None:
    od = np.zeros((SIZE.height, SIZE.width))
    od[240:246] = 1.8
    pixels = darken(tissue_beside_glass(), od[..., None])
    exempt = exempt_areas(find_ink_and_dark(pixels, MPP, CONFIG), tissue_mask(pixels, MPP, CONFIG), MPP, CONFIG)
    assert (exempt[241:245, :90] == AS_GLASS).all() and (exempt[241:245, -90:] == AS_GLASS).all()
    assert (exempt[241:245, 180:460] == AS_SCANNED).mean() > 0.95


def test_a_clump_of_black_pigment_amid_tissue_is_shown_as_scanned() -> None:
    pixels = tissue_beside_glass()
    y, x = np.mgrid[: SIZE.height, : SIZE.width]
    clump = np.hypot(y - 240, x - 320) < 30
    pixels[clump] = 20
    exempt = exempt_areas(find_ink_and_dark(pixels, MPP, CONFIG), tissue_mask(pixels, MPP, CONFIG), MPP, CONFIG)
    assert (exempt[clump] == AS_SCANNED).all()
    assert not (exempt == AS_GLASS).any()


@pytest.mark.parametrize("ink", [(1.15, 0.75, 0.2), (1.2, 0.5, 0.9), (1.8, 1.0, 1.5)], ids=["blue", "green", "deep"])
def test_tissue_under_ink_is_shown_as_scanned_and_counted(ink: tuple[float, float, float]) -> None:
    clean = tissue_beside_glass()
    stroke = np.zeros(clean.shape[:2])
    stroke[200:260] = 1
    pixels = darken(clean, gaussian_filter(stroke, 1)[..., None] * np.array(ink))
    tissue = tissue_mask(pixels, MPP, CONFIG)
    exempt = exempt_areas(find_ink_and_dark(pixels, MPP, CONFIG), tissue, MPP, CONFIG)
    assert (exempt[stroke > 0] == AS_SCANNED).mean() > 0.98
    assert not (exempt == AS_GLASS).any()  # nearly black as it is, nothing of it is blanked
    assert (exempt[stroke == 0] == 0).mean() > 0.95
    whole = tissue_mask(clean, MPP, CONFIG)
    truth = (whole & (stroke > 0)).sum() / whole.sum()
    found = share_under_ink(pixels, tissue, exempt, MPP)
    assert 0.3 * truth < found < 1.2 * truth
    (remark,) = exempt_remarks(found, exempt, tile_grid(Size(2560, 1920), tissue))
    assert remark == f"{found:.1%} of the tissue lies under ink or dark, and is shown as scanned"


def test_ink_on_glass_covers_no_tissue() -> None:
    pixels = tissue_beside_glass()
    pixels[:, 30:80] = darken(pixels[:, 30:80], np.array((1.15, 0.75, 0.2)))
    tissue = tissue_mask(pixels, MPP, CONFIG)
    exempt = exempt_areas(find_ink_and_dark(pixels, MPP, CONFIG), tissue, MPP, CONFIG)
    assert (exempt[:, 32:78] == AS_SCANNED).all()
    assert share_under_ink(pixels, tissue, exempt, MPP) == 0


@pytest.mark.parametrize("glass", [(190, 225, 245), (210, 245, 220), (250, 235, 150)], ids=["blue", "green", "yellow"])
def test_tissue_on_tinted_glass_is_no_ink_and_ink_on_it_is_found(glass: tuple[int, int, int]) -> None:
    def tint(pixels: Pixels) -> Pixels:
        return (pixels * (np.array(glass) / GLASS)).round().clip(0, 255).astype(np.uint8)

    clean, found = tissue_beside_glass(), []
    stroke = np.zeros((*clean.shape[:2], 1))
    stroke[200:260] = 1
    for pixels in (clean, darken(clean, stroke * np.array((1.15, 0.75, 0.2)))):
        tinted = tint(pixels)
        tissue = tissue_mask(tinted, MPP, CONFIG)
        found.append(exempt_areas(find_ink_and_dark(tinted, MPP, CONFIG), tissue, MPP, CONFIG))
        assert abs(int(tissue.sum()) - int(tissue_mask(pixels, MPP, CONFIG).sum())) < 0.02 * tissue.sum()
    assert not found[0].any()
    assert (found[1][stroke[..., 0] > 0] == AS_SCANNED).mean() > 0.98 and (found[1] == AS_SCANNED).mean() < 0.25


def test_a_clean_slide_has_nothing_exempt() -> None:
    pixels = tissue_beside_glass()
    tissue = tissue_mask(pixels, MPP, CONFIG)
    exempt = exempt_areas(find_ink_and_dark(pixels, MPP, CONFIG), tissue, MPP, CONFIG)
    assert not exempt.any()
    assert exempt_remarks(share_under_ink(pixels, tissue, exempt, MPP), exempt, tile_grid(SIZE, tissue)) == []


@pytest.mark.parametrize(
    ("name", "slide_mpp"),
    [
        ("slides/AT2_gastric_metaplasia.svs", None),
        ("slides/NanoZoomer_EO1_cropA.svs", None),
        ("formats/CMU-1-Small-Region.svs", None),
        ("formats/TCGA-CR-7395-01A-01-TS1.svs", 0.25),
        ("../cases/NanoZoomer_EO1_cropB.svs", None),
    ],
)
def test_nothing_is_exempt_on_real_slides_without_ink(real_data: Path, name: str, slide_mpp: float | None) -> None:
    """Pigment, blood, folds and dust among their tissue are no dark beside it."""
    if not (real_data / name).exists():
        pytest.skip(f"{name} is not there")
    with Slide(real_data / name, SlideConfig(slide_mpp=slide_mpp)) as slide:
        thumbnail = slide.thumbnail(MPP)
    assert not exempt_areas(
        find_ink_and_dark(thumbnail, MPP, CONFIG), tissue_mask(thumbnail, MPP, CONFIG), MPP, CONFIG
    ).any()
