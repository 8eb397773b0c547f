"""What is remembered of a table is what its engine says, byte for byte."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from wsi_stain.stain import colour_table
from wsi_stain.stain.colour_table import ColourMemo

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def table() -> NDArray[np.float32]:
    return np.random.default_rng(0).uniform(0, 255, (9, 9, 9, 3)).astype(np.float32)


def by_pillow(table: NDArray[np.float32], pixels: Pixels) -> Pixels:
    engine = ImageFilter.Color3DLUT(len(table), (table.transpose(2, 1, 0, 3) / np.float32(255)).ravel())
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).filter(engine))


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 2), (5, 7), (64, 1000)])
def test_all_pixels_are_the_engine_s_the_first_time_and_the_second(
    table: NDArray[np.float32], shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(colour_table, "_STRIP", 100)
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    memo, expected = ColourMemo(table), by_pillow(table, pixels)
    for _time in range(2):
        np.testing.assert_array_equal(memo.apply(pixels), expected)


def test_black_white_and_parts_of_larger_arrays(table: NDArray[np.float32]) -> None:
    memo = ColourMemo(table)
    whole = np.random.default_rng(2).choice(np.array([0, 255], np.uint8), (90, 70, 3))
    before = whole.copy()
    np.testing.assert_array_equal(memo.apply(whole[13:65, 5:64]), by_pillow(table, whole[13:65, 5:64]))
    np.testing.assert_array_equal(whole, before)
    assert memo.apply(whole[:0]).shape == (0, 70, 3)
    part = whole[13:65, 5:64]
    expected = by_pillow(table, part)
    assert memo.apply(part, part) is part, "a part of an array can be changed in its place"
    np.testing.assert_array_equal(part, expected)
    before[13:65, 5:64] = expected
    np.testing.assert_array_equal(whole, before)


def test_threads_share_a_memo(table: NDArray[np.float32]) -> None:
    memo, rng = ColourMemo(table), np.random.default_rng(3)
    images = [rng.integers(100, 130, (200, 200, 3), dtype=np.uint8) for _image in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for image, found in zip(images, pool.map(memo.apply, images), strict=True):
            np.testing.assert_array_equal(found, by_pillow(table, image))
