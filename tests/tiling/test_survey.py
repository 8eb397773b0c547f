"""The look at a slide's thumbnail."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.slide_files import write_slide
from tests.support.tiled_slides import SMALL, paint, write
from wsi_stain.core.errors import NoTissueError, SlideError, StainError
from wsi_stain.core.geometry import Region, Size
from wsi_stain.slides.slide import Slide
from wsi_stain.tiling import survey
from wsi_stain.tiling.config import TilingConfig
from wsi_stain.tissue.config import TissueConfig

STAINED = (190, 120, 170)


def stained_slide(path: Path) -> Path:
    """1400 x 900 px of glass at 2 um/px with a stained square."""
    pixels = np.full((900, 1400, 3), 240, np.uint8)
    pixels[300:700, 500:900] = STAINED
    grain = np.random.default_rng(0).normal(0, 2, pixels.shape)
    grain[300:700, 500:900] *= 10
    return write_slide(path, [np.clip(pixels + grain, 0, 255).astype(np.uint8)], 2.0)


def test_tissue_counts_within_the_scanned_bounds_only() -> None:
    inside = survey._inside(Region(100, 30, 250, 40), Size(400, 100), (10, 20))
    expected = np.zeros((10, 20), bool)
    expected[3:7, 5:18] = True
    expected[:, 17] = False  # its centre lies at x = 350, where the bounds end
    assert np.array_equal(inside, expected)


def test_the_thumbnail_of_a_very_large_slide_is_coarser(tmp_path: Path) -> None:
    """10 million pixels at the resolution asked for."""
    pixels = np.full((2500, 4000, 3), 240, np.uint8)
    pixels[1000:1400, 1000:1600] = STAINED
    with Slide(write_slide(tmp_path / "a.tif", [pixels], 2.0)) as slide:
        found = survey.find_tissue(slide, TissueConfig(mpp=2.0))
    height, width, _ = found.thumbnail.shape
    assert 4_900_000 < height * width <= 5_010_000
    assert found.mask.mean() == pytest.approx(400 * 600 / (2500 * 4000), rel=0.1)


@pytest.mark.parametrize("method", ["otsu", "entropy"])
def test_tissue_is_found_by_either_method(tmp_path: Path, method: str) -> None:
    with Slide(stained_slide(tmp_path / "a.tif")) as slide:
        found = survey.find_tissue(slide, TissueConfig.model_validate({"method": method, "min_tissue_um2": 1000}))
    height, width = found.mask.shape
    middle = found.mask[int(0.4 * height) : int(0.7 * height), int(0.42 * width) : int(0.58 * width)]
    assert middle.mean() > 0.98
    assert not found.mask[: int(0.2 * height)].any()
    assert not found.suspect.any()


def test_a_user_s_mask_takes_the_place_of_the_method(tmp_path: Path) -> None:
    path = stained_slide(tmp_path / "a.tif")
    ring = [[0, 0], [256, 0], [256, 256], [0, 256], [0, 0]]
    drawn = tmp_path / "a.geojson"
    drawn.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    with Slide(path) as slide:
        found = survey.find_tissue(slide, TissueConfig(), drawn)
        assert found.grid.tissue[0, 0] == pytest.approx(1, abs=0.02)
        assert found.grid.kept[:2, :2].all()
        assert not found.grid.kept[3:].any()
        with pytest.raises(SlideError, match="No mask"):
            survey.find_tissue(slide, TissueConfig(), tmp_path / "b.png")


def test_a_dark_slide_is_no_bright_field(tmp_path: Path) -> None:
    pixels = np.full((900, 1400, 3), 4, np.uint8)
    pixels[300:700, 500:900] = (10, 60, 200)
    with (
        Slide(write_slide(tmp_path / "a.tif", [pixels], 2.0)) as slide,
        pytest.raises(StainError, match="bright-field"),
    ):
        survey.find_tissue(slide, TissueConfig())


@pytest.mark.parametrize("kind", ["gray", "green"])
def test_a_slide_that_shows_something_that_is_not_he_is_refused_not_empty(kind: str, tmp_path: Path) -> None:
    pixels = paint(SMALL)
    if kind == "gray":
        pixels = np.repeat(pixels[..., 1:2], 3, axis=2)
    else:  # what absorbed green absorbs red and blue
        pixels = np.stack([pixels[..., 1], pixels[..., 2] // 4 + 180, pixels[..., 1]], axis=-1)
    source = write(tmp_path / "slide.tif", pixels)
    with Slide(source.path) as slide, pytest.raises(StainError, match="Not H&E"):
        survey.require_tissue(slide, TilingConfig(), source)


@pytest.mark.parametrize("marked", [False, True], ids=["glass", "a stroke of a pen"])
def test_glass_and_a_pen_on_it_are_empty(marked: bool, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).normal(240, 2, (905, 1503, 3))
    if marked:
        pixels[300:340, 200:900] = (20, 120, 60)
    source = write(tmp_path / "slide.tif", pixels.clip(0, 255).astype(np.uint8))
    with Slide(source.path) as slide, pytest.raises(NoTissueError):
        survey.require_tissue(slide, TilingConfig(), source)
