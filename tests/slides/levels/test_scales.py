"""Where levels lie: by their own resolution, by their size, else by their pixels; never by a padded size."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.slide_files import TILE, noise, shrink, write_slide
from tests.support.tiled_slides import paint
from wsi_stain.core.geometry import Mpp, Region, Size, ceil_div
from wsi_stain.slides.levels.scales import LevelClaim, Scale, level_scales
from wsi_stain.slides.slide import Slide
from wsi_stain.slides.slide_file import SlideFile

PIXELS = paint(Size(1503, 905))


def pad_to_tiles(pixels: NDArray[np.uint8], tile: int = TILE, fill: int = 255) -> NDArray[np.uint8]:
    """A level as some writers make it: as large as its tiles, filled at the far edges."""
    height, width = pixels.shape[:2]
    beyond = ((0, -height % tile), (0, -width % tile), (0, 0))
    return np.pad(pixels, beyond, constant_values=fill)


def unread(number: int, region: Region) -> NDArray[np.uint8]:
    raise AssertionError("no pixels are needed")


def scale(factor: int | Fraction) -> Scale:
    return Scale(Fraction(factor), Fraction(factor))


@pytest.mark.parametrize("fill", [0, 255])
@pytest.mark.parametrize("factors", [(2, 4, 8), (3, 9), (4, 16)])
def test_levels_padded_to_whole_tiles_lie_where_their_pixels_do(
    tmp_path: Path, factors: tuple[int, ...], fill: int
) -> None:
    """Level 0 is padded too, so sizes give 23.5 / 12 = 1.96 for 2, and another ratio along y."""
    levels = [pad_to_tiles(PIXELS, fill=fill), *(pad_to_tiles(shrink(PIXELS, factor), fill=fill) for factor in factors)]
    with SlideFile(write_slide(tmp_path / "padded.tif", levels)) as file:
        assert [(level.scale_x, level.scale_y) for level in file.levels] == [
            (factor, factor) for factor in (1, *factors)
        ]


def test_a_ratio_of_sizes_that_is_whole_may_be_wrong_as_well() -> None:
    """1536 x 1024 px in tiles of 512 look like a third of 4608 x 3072, and are a fourth, padded."""
    wide = noise(4608, 3072)
    levels = [wide, pad_to_tiles(shrink(wide, 4), 512)]
    assert levels[1].shape[:2] == (1024, 1536)

    def read(number: int, region: Region) -> NDArray[np.uint8]:
        return levels[number][region.y : region.y + region.height, region.x : region.x + region.width]

    claims = [LevelClaim(Size(4608, 3072), Size(512, 512)), LevelClaim(Size(1536, 1024), Size(512, 512))]
    assert level_scales(claims, read) == [scale(1), scale(4)]


def test_thumbnails_of_padded_levels_show_the_slide_unmoved(tmp_path: Path) -> None:
    levels = [PIXELS, pad_to_tiles(shrink(PIXELS, 2)), pad_to_tiles(shrink(PIXELS, 4))]
    with Slide(write_slide(tmp_path / "padded.tif", levels)) as slide:
        thumbnail = slide.thumbnail(1.0)
        shown = slide.read_shrunk(4, Region(0, 0, ceil_div(1503, 4), ceil_div(905, 4)))
    assert thumbnail.shape[:2] == (226, 376)
    assert np.abs(thumbnail[:, :375].astype(int) - shrink(PIXELS, 4)).mean() < 6
    assert np.abs(shown[:226, :375].astype(int) - shrink(PIXELS, 4)).max() == 0


@pytest.mark.parametrize("mpp", [1.0, 0.995])
def test_a_levels_own_resolution_is_believed_where_its_size_allows_it(mpp: float) -> None:
    claims = [
        LevelClaim(Size(1503, 905), Size(64, 64), Mpp(0.25, 0.25)),
        LevelClaim(Size(384, 256), Size(64, 64), Mpp(mpp, mpp)),
        LevelClaim(Size(93, 56), Size(64, 64), Mpp(4.0, 4.0)),
    ]
    assert level_scales(claims, unread) == [scale(1), scale(4), scale(16)]


def test_a_resolution_copied_from_level_0_says_nothing() -> None:
    claims = [LevelClaim(Size(1503, 905), None, Mpp(0.25, 0.25)), LevelClaim(Size(375, 226), None, Mpp(0.25, 0.25))]
    assert level_scales(claims, unread) == [scale(1), scale(4)]


@pytest.mark.parametrize(
    ("size_l0", "size", "expected"),
    [
        ((2403, 131), (1201, 65), (2, 2)),
        ((6000, 190), (188, 6), (32, 32)),
        ((2049, 1537), (512, 384), (4, 4)),
        ((8192, 8192), (512, 512), (16, 16)),
        ((5003, 3001), (2001, 1200), (Fraction(5003, 2001), Fraction(3001, 1200))),
        ((257, 3), (128, 1), (2, 3)),
    ],
)
def test_sizes_that_no_padding_explains_need_no_pixels(
    size_l0: tuple[int, int], size: tuple[int, int], expected: tuple[int, int]
) -> None:
    claims = [LevelClaim(Size(*size_l0), Size(256, 256)), LevelClaim(Size(*size), Size(256, 256))]
    assert level_scales(claims, unread)[1] == expected


def test_a_level_of_which_nothing_tells_the_scale_is_not_used(tmp_path: Path) -> None:
    """Blank levels: neither 2 nor 1.9 can be seen. What they would have shown is averaged from level 0."""
    blank = np.full((905, 1503, 3), 240, np.uint8)
    blank[:40, :40] = 120
    levels = [blank, np.full((512, 832, 3), 240, np.uint8)]
    with Slide(write_slide(tmp_path / "blank.tif", levels)) as slide:
        assert slide.level_count == 1
        assert slide.remarks == (
            "its level of 832 x 512 px is not used: neither its size nor its resolution nor its pixels tell its scale",
        )
        assert abs(int(slide.thumbnail(1.0)[:10, :10].mean()) - 120) <= 1
