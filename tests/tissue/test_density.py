"""Optical densities of thumbnails."""

from __future__ import annotations

import numpy as np

from wsi_stain.tissue.density import optical_density


def test_density_is_that_of_each_value_relative_to_its_channels_white() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 50, 3), np.uint8)
    white = np.array([240, 231.5, 250], np.float32)
    expected = np.maximum(-np.log((pixels.astype(np.float32) + 1) / (white + 1)), 0)
    found = optical_density(pixels, white)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
