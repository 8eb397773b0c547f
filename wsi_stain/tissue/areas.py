"""Arithmetic of masks: grow, close, drop small pieces. Knows no slides or files."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt, label

from wsi_stain.core.arrays import Mask


def grow_mask(mask: Mask, margin: float) -> Mask:
    """Grow a mask by everything within a distance of it, px."""
    return np.asarray(distance_transform_edt(~mask) <= margin) if mask.any() else mask


def close_mask(mask: Mask, radius: float) -> Mask:
    """Close a mask by a disk of a radius, px: gaps up to twice as wide are filled."""
    return ~grow_mask(~grow_mask(mask, radius), radius)


def remove_small_pieces(mask: Mask, min_um2: float, mpp: float) -> Mask:
    """Remove a mask's connected pieces smaller than an area, square um.

    As `skimage.morphology.remove_small_objects` does, whose folder takes a tenth of a second to load.
    """
    pieces, _ = label(mask)
    is_large = np.bincount(pieces.ravel()) > round(min_um2 / mpp**2)
    is_large[0] = False
    return np.asarray(is_large[pieces])


def fill_small_holes(mask: Mask, max_um2: float, mpp: float) -> Mask:
    """Fill a mask's connected holes up to an area, square um; what reaches the frame is one, too."""
    return ~remove_small_pieces(~mask, max_um2, mpp)
