"""CIEDE2000 against its published test data, and each pixel in its place."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000

from wsi_stain.metrics.colour_difference import ciede2000, ciede2000_map


def test_ciede2000_of_known_colours() -> None:
    """Black and white lie 100 apart; so do their pixels on average where half of them agree."""
    black, white = np.zeros((300, 2, 3), np.uint8), np.full((300, 2, 3), 255, np.uint8)
    half = black.copy()
    half[:, 0] = 255
    assert ciede2000(black, white) == pytest.approx(100, abs=0.01)
    assert ciede2000(half, white) == pytest.approx(50, abs=0.01)


def test_ciede2000_map_has_each_pixel_in_its_place() -> None:
    """The strips it works on must not show: the second one begins at row 256."""
    image = np.random.default_rng(3).integers(0, 256, (301, 47, 3), dtype=np.uint8)
    assert ciede2000(image, image) == 0
    other = image.copy()
    other[290, 5] ^= 255
    difference = ciede2000_map(other, image)
    assert difference.shape == (301, 47)
    assert np.argwhere(difference).tolist() == [[290, 5]]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        pytest.param((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425, id="blue"),
        pytest.param((50.0, 2.5, 0.0), (58.0, 24.0, 15.0), 19.4535, id="far"),
        pytest.param((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373, id="dark"),
        pytest.param((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082, id="nearly black"),
    ],
)
def test_ciede2000_of_the_published_test_data(
    first: tuple[float, ...], second: tuple[float, ...], expected: float
) -> None:
    """Table 1 of Sharma, Wu and Dalal (2005)."""
    assert deltaE_ciede2000(np.array(first), np.array(second)) == pytest.approx(expected, abs=1e-4)
