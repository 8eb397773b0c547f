"""A usual slide, and what a laboratory makes of it: what its slides are like, for a report. Knows no files."""

from __future__ import annotations

import numpy as np

from wsi_stain.core.arrays import Rgb, RgbImage
from wsi_stain.laboratories.colours import laboratory_white, show_colours
from wsi_stain.laboratories.named import NamedLaboratory
from wsi_stain.stain.statistics import StainConfig, StainStatistics, slide_statistics
from wsi_stain.stain.vectors import USUAL

USUAL_WHITE: Rgb = (242, 241, 243)

_NUCLEI, _STROMA, _SPREAD = (1.4, 0.4), (0.4, 0.5), 0.35
"""Hematoxylin and eosin of a usual slide's nuclei and stroma, OD, and the standard deviation of their logarithms."""

_EACH = 5000
_ANY_STAIN = StainConfig(max_angle_deg=90, min_separation_deg=0)


def usual_stain(laboratory: NamedLaboratory) -> StainStatistics:
    """Measure what a laboratory makes of a usual slide: what its slides are like, for the report."""
    pixels = _usual_pixels()
    own = slide_statistics(pixels, USUAL_WHITE, "glass")
    shown = np.clip(np.rint(show_colours(laboratory, own, pixels.astype(np.float64))), 0, 255).astype(np.uint8)
    return slide_statistics(shown, laboratory_white(laboratory, USUAL_WHITE), "glass", _ANY_STAIN)


def _usual_pixels() -> RgbImage:
    """Draw pixels of nuclei and of stroma, (N, 3) RGB, with the usual stain and some spread."""
    rng = np.random.default_rng(0)
    levels = np.repeat([_NUCLEI, _STROMA], _EACH, axis=0) * np.exp(rng.normal(0, _SPREAD, (2 * _EACH, 2)))
    light = (np.asarray(USUAL_WHITE) + 1) * np.exp(-levels @ np.asarray(USUAL)) - 1
    return np.asarray(np.clip(np.rint(light), 0, 255), np.uint8)
