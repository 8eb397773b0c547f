"""A wide blur by cosine transforms is the blur by sums of neighbours, on odd and on prime sides."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from wsi_stain.tissue.blur import blur


@pytest.mark.parametrize("sigma", [1.5, 7.9, 8.0, 33.0], ids="sigma {}".format)
@pytest.mark.parametrize(
    ("shape", "axes"), [((97, 211), (0, 1)), ((60, 41, 3), (0, 1)), ((2, 48, 61), (1, 2))], ids=["gray", "RGB", "tiles"]
)
def test_it_is_a_gaussian_blur(shape: tuple[int, ...], axes: tuple[int, int], sigma: float) -> None:
    values = np.random.default_rng(3).random(shape, np.float32) * 255
    widths = [sigma if axis in axes else 0 for axis in range(len(shape))]
    blurred = blur(values, sigma, axes)
    assert blurred.dtype == np.float32 and blurred.shape == shape
    assert np.abs(blurred - gaussian_filter(values.astype(float), widths, truncate=8)).max() < 0.05


def test_what_is_even_stays_as_it_is() -> None:
    assert np.allclose(blur(np.full((33, 47), 241, np.float32), 20.0), 241, atol=1e-3)
