"""CIEDE2000, the colour difference as eyes see it: pure functions, apart from the others since every worker needs them.

Images are RGB uint8 of one shape, pixels (..., 3).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.color import deltaE_ciede2000, rgb2lab

from wsi_stain.core.arrays import RgbImage

_ROWS = 256


def ciede2000(a: RgbImage, b: RgbImage) -> float:
    """Compute the mean colour difference, 0 for equal images; about 1 is just visible. See `ciede2000_map`."""
    return float(ciede2000_map(a, b).mean())


def ciede2000_map(a: RgbImage, b: RgbImage) -> NDArray[np.float32]:
    """Compute the colour difference of each pixel, (...): CIEDE2000 of sRGB under D65.

    Sharma, Wu and Dalal (2005), Color Res. Appl. 30, 21-30. Works on a strip at a time, in float32, which is off by
    3e-4 at most: its intermediates would take hundreds of bytes a pixel.
    """
    difference = np.empty(a.shape[:-1], np.float32)
    for start in range(0, a.shape[0], _ROWS):
        strip = slice(start, start + _ROWS)
        difference[strip] = deltaE_ciede2000(*(rgb2lab(image[strip] / np.float32(255)) for image in (a, b)))
    return difference
