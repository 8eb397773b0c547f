"""Stain statistics that are off, as those of real slides are, so that the generator learns not to trust them.

In a simulated laboratory the statistics of a slide are nearly exact. In life a slide shows other tissue than the
reference, is measured on few tiles, and has a white point that is a few levels off: what statistics make of the very
same tissue then differs from the reference. A generator that has seen this reads the tissue itself as well.

Knows stain; no slides and no network. A strength of 1 is about as far off as the statistics of two real scanners were.

Shape legend: T tiles, N pixels of each.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.arrays import Rgb, to_rgb
from wsi_stain.laboratories.perturbation import tilt_vector
from wsi_stain.stain.statistics import StainConfig, StainStatistics
from wsi_stain.stain.vectors import LUMINANCE, angle_deg

_EACH_LEVEL = 0.45
_BOTH_LEVELS = 0.22
_TILT_DEG = 3.0
_WHITE_LEVELS = 4.0
_LEAN = 2.0
_FEWER = 2.0
_FEWEST_TILES = 4
_MIN_SEPARATION_DEG = StainConfig().min_separation_deg


def jitter_statistics(stain: StainStatistics, strength: float, rng: np.random.Generator) -> StainStatistics:
    """Return statistics that are off by chance.

    At strength 1 the levels of each stain are multiplied by exp(U(-.45, .45)), those of both together by
    exp(U(-.22, .22)); luminance follows from the two stains. Each vector turns by up to 3 degrees in two directions,
    and each channel of the white point moves by up to 4 grey levels.

    Args:
        stain: As it was measured.
        strength: Factor on all of these ranges; 0 changes nothing.
        rng: Source of chance; the same number of draws for every strength.
    """
    spread = rng.uniform(-strength, strength, 10)
    h, e = (float(factor) for factor in np.exp(_EACH_LEVEL * spread[:2] + _BOTH_LEVELS * spread[2]))
    vectors = _turn_vectors(stain.vectors, _TILT_DEG * spread[3:7])
    white = np.clip(np.asarray(stain.white) + _WHITE_LEVELS * spread[7:], 0, 255)
    light = np.asarray(stain.vectors) @ np.asarray(LUMINANCE)
    return stain.model_copy(
        update={
            "white": to_rgb(white),
            "vectors": vectors,
            "h_nuclei": stain.h_nuclei * h,
            "h_stroma": stain.h_stroma * h,
            "e_nuclei": stain.e_nuclei * e,
            "e_stroma": stain.e_stroma * e,
            "lum_nuclei": stain.lum_nuclei * _mean_factor(light * (stain.h_nuclei, stain.e_nuclei), (h, e)),
            "lum_stroma": stain.lum_stroma * _mean_factor(light * (stain.h_stroma, stain.e_stroma), (h, e)),
        }
    )


def recompose(pool_TNC: NDArray[np.uint8], strength: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return pixels of a slide that shows less of it, and tissue of another composition.

    Args:
        pool_TNC: RGB of tiles, (T, N, 3).
        strength: At 1 down to a seventh of the tiles, and up to 55 times as many of the tile richest in nuclei as of
            the poorest, or the other way round; 0 draws as many tiles, all alike.
        rng: Source of chance.

    Returns:
        (n, 3), whole tiles, drawn with replacement; at least four.
    """
    tiles = len(pool_TNC)
    red = pool_TNC[..., 0].mean(axis=1)  # hematoxylin absorbs red, eosin hardly does
    nuclear = 1 - 2 * np.argsort(np.argsort(red)) / max(tiles - 1, 1)
    lean, fewer = rng.uniform(-1, 1), rng.uniform()
    weights = np.exp(_LEAN * strength * lean * nuclear)
    count = max(_FEWEST_TILES, round(tiles * np.exp(-_FEWER * strength * fewer)))
    pixels: NDArray[np.uint8] = pool_TNC[rng.choice(tiles, count, p=weights / weights.sum())].reshape(-1, 3)
    return pixels


def _turn_vectors(vectors: tuple[Rgb, Rgb], tilts_deg: NDArray[np.float64]) -> tuple[Rgb, Rgb]:
    """Turn each vector by two angles; leave them where the two would come too close to be told apart."""
    tilts = tilts_deg.reshape(2, 2)
    h, e = (to_rgb(tilt_vector(np.asarray(v), (a, b))) for v, (a, b) in zip(vectors, tilts, strict=True))
    return (h, e) if angle_deg(h, e) >= _MIN_SEPARATION_DEG else vectors


def _mean_factor(weights: NDArray[np.float64], factors: tuple[float, float]) -> float:
    """Return the weighted mean of the factors of hematoxylin and eosin."""
    return float(weights @ factors / weights.sum())
