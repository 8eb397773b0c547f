"""Arithmetic of masks: grow, close, drop small pieces. Knows no slides or files."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt
from skimage.morphology import remove_small_objects

from wsi_stain.core.arrays import Mask


def grow_mask(mask: Mask, margin: float) -> Mask:
    """Grow a mask by everything within a distance of it, px."""
    return np.asarray(distance_transform_edt(~mask) <= margin) if mask.any() else mask


def close_mask(mask: Mask, radius: float) -> Mask:
    """Close a mask by a disk of a radius, px: gaps up to twice as wide are filled."""
    return ~grow_mask(~grow_mask(mask, radius), radius)


def remove_small_pieces(mask: Mask, min_um2: float, mpp: float) -> Mask:
    """Remove a mask's connected pieces smaller than an area, square um."""
    return np.asarray(remove_small_objects(mask, max_size=round(min_um2 / mpp**2)))
