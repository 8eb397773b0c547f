"""A change of stain by Beer and Lambert's law: what a slide's statistics alone make of its pixels, without a network.

Optical density is taken apart along the slide's own stain vectors, each stain is multiplied by one factor, and both are
put together along the reference's. Knows no slides or files.
"""

from __future__ import annotations

import numpy as np

from wsi_stain.core.arrays import RgbImage
from wsi_stain.stain.gains import stain_gains
from wsi_stain.stain.statistics import StainStatistics, od_table
from wsi_stain.stain.vectors import unmixing_matrix


def change_stain(
    pixels: RgbImage, own: StainStatistics, reference: StainStatistics, gains: tuple[float, float]
) -> RgbImage:
    """Give pixels the reference's stains and glass.

    Args:
        pixels: RGB, (..., 3).
        own: Stain of the slide that they are from.
        reference: Stain of the reference.
        gains: Factors of hematoxylin and of eosin.

    Returns:
        RGB, (..., 3).
    """
    table = od_table(own.white)
    od = np.stack([table[pixels[..., channel], channel] for channel in range(3)], axis=-1)
    unmix = (unmixing_matrix(own.vectors) * np.asarray(gains)).astype(np.float32)
    mix, white = np.asarray(reference.vectors, np.float32), np.asarray(reference.white, np.float32) + 1
    intensities = white * np.exp(-np.maximum(od @ unmix, 0) @ mix) - 1
    return np.asarray(np.clip(np.rint(intensities), 0, 255), np.uint8)


def apply_statistics(pixels: RgbImage, own: StainStatistics, reference: StainStatistics) -> RgbImage:
    """Change pixels, (..., 3), as their statistics alone do: with the gains that the generator's input has."""
    return change_stain(pixels, own, reference, stain_gains(own, reference))
