"""Arithmetic of masks agrees with scikit-image's, which takes longer to load."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.morphology import remove_small_holes, remove_small_objects

from wsi_stain.core.arrays import Mask
from wsi_stain.tissue.areas import fill_small_holes, remove_small_pieces


def speckles(share: float) -> Mask:
    """A mask (200, 300) of pieces of all sizes, corner to corner among them."""
    return np.random.default_rng(0).random((200, 300)) < share


@pytest.mark.parametrize("share", [0, 0.3, 0.55, 0.7, 1], ids=str)
@pytest.mark.parametrize("least_px", [0, 1, 5, 60, 10**6])
def test_small_pieces_and_holes_go_as_by_scikit_image(share: float, least_px: int) -> None:
    mask, mpp = speckles(share), 2.0
    area_um2 = least_px * mpp**2
    kept, filled = remove_small_pieces(mask, area_um2, mpp), fill_small_holes(mask, area_um2, mpp)
    np.testing.assert_array_equal(kept, remove_small_objects(mask, max_size=least_px))
    np.testing.assert_array_equal(filled, remove_small_holes(mask, max_size=least_px))
