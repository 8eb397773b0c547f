"""Two pictures of one place are alike in any stain; of two places, or one moved, they are not."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.made_store import paint_tissue
from wsi_stain.core.geometry import Size
from wsi_stain.formats.block_file import encode_jpeg
from wsi_stain.metrics.structure import luminance_correlation, shift_px, tile_ssim
from wsi_stain.verification.quality_check import SSIM_TILE

Tiles = NDArray[np.uint8]


@pytest.fixture(scope="module")
def before() -> Tiles:
    return np.stack([paint_tissue(Size(256, 256), seed) for seed in range(5)])


def change_contrast(tiles: Tiles) -> Tiles:
    """Another contrast and brightness, monotone but not linear."""
    return np.asarray(255 * (tiles / 255) ** 1.6 * (0.95, 0.9, 1.0), np.uint8)


def through_jpeg(tiles: Tiles) -> Tiles:
    return np.stack([imagecodecs.jpeg8_decode(encode_jpeg(np.ascontiguousarray(tile), 90)) for tile in tiles])


def test_another_stain_is_alike(before: Tiles) -> None:
    after = change_contrast(before)
    assert luminance_correlation(after[0], before[0]) > 0.97
    assert tile_ssim(after, before).min() > 0.95
    assert shift_px(after, before) == pytest.approx(0, abs=0.05)


def test_another_place_is_not(before: Tiles) -> None:
    after = before[[1, 2, 3, 4, 0]]
    assert luminance_correlation(after[0], before[0]) < 0.3
    assert tile_ssim(after, before).max() < 0.5
    assert shift_px(after, before) is None


@pytest.mark.parametrize("shift", [(0, 1), (1, 0), (-2, 3)], ids=str)
def test_a_shift_is_measured_in_spite_of_the_grid_of_jpeg(before: Tiles, shift: tuple[int, int]) -> None:
    after = through_jpeg(np.roll(change_contrast(through_jpeg(before)), shift, axis=(1, 2)))
    assert shift_px(after, through_jpeg(before)) == pytest.approx(np.hypot(*shift), abs=0.15)


def test_one_bad_tile_is_seen(before: Tiles) -> None:
    after = before.copy()
    after[3] = 240
    scores = tile_ssim(after, before)
    assert scores.argmin() == 3
    assert scores[3] < SSIM_TILE < scores[2]


@pytest.mark.parametrize("value", [0, 255])
def test_what_shows_nothing_resembles_nothing(before: Tiles, value: int) -> None:
    assert luminance_correlation(np.full_like(before[0], value), before[0]) == 0


@pytest.mark.filterwarnings("error")
def test_blank_tiles_say_nothing_of_a_shift(before: Tiles) -> None:
    blank = np.full_like(before[:1], 240)
    assert shift_px(blank, blank) is None
    assert shift_px(np.concatenate([before, blank]), np.concatenate([before, blank])) == 0
    moved = np.roll(before, 3, axis=2)
    assert shift_px(np.concatenate([moved, blank]), np.concatenate([before, blank])) == pytest.approx(3, abs=0.1)
