"""Optical densities of thumbnails."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_stain.tissue.density import optical_density, remove_tint


def test_density_is_that_of_each_value_relative_to_its_channels_white() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 50, 3), np.uint8)
    white = np.array([240, 231.5, 250], np.float32)
    expected = np.maximum(-np.log((pixels.astype(np.float32) + 1) / (white + 1)), 0)
    found = optical_density(pixels, white)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("white", "expected"),
    [((200, 220, 240), (120, 109, 100)), ((240, 200, 220), (100, 100, 100)), ((0, 0, 0), (100, 100, 100))],
    ids=["blue glass", "pink, as tissue has it", "black"],
)
def test_tint_is_taken_out_of_glass(white: tuple[int, int, int], expected: tuple[int, int, int]) -> None:
    found = remove_tint(np.full((4, 4, 3), 100, np.uint8), white)
    np.testing.assert_array_equal(found, np.broadcast_to(expected, (4, 4, 3)))
