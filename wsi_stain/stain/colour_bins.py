"""Colours counted in 64^3 bins of four levels a side: pairs to fit a table to, and what lies outside of them.

All sums are integers, so the order in which pixels are counted is nothing, nor is into how many parts they are cut.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from wsi_stain.core.arrays import Mask, RgbImage

Colours = NDArray[np.float64]
Counts = NDArray[np.int64]

BINS = 64
"""Along each of red, green and blue."""

_SHIFT = 2
_NEAR = 2
"""Bins: a colour within 8 to 11 levels of one that was fitted, in each channel, is not outside. The table's own nodes
lie 8 (33 a side) to 16 levels (17 a side) apart."""


class ColourPairs:
    """Pairs (source, wanted colour) gathered in bins of the source."""

    def __init__(self) -> None:
        self._sums = np.zeros((7, BINS**3), np.int64)  # pixels, then R, G, B of the source and of the wanted colour

    def add(self, source: RgbImage, target: RgbImage) -> None:
        """Add pairs of pixels.

        Args:
            source: (N, 3) RGB.
            target: (N, 3) RGB of the same pixels.
        """
        bins = _bins(source)
        self._sums[0] += np.bincount(bins, minlength=BINS**3)
        for sums, values in zip(self._sums[1:], np.hstack([source, target]).T, strict=True):
            sums += np.bincount(bins, weights=values, minlength=BINS**3).astype(np.int64)

    def means(self) -> tuple[Colours, Colours, Colours]:
        """Return source (M, 3), target (M, 3) and number of pixels (M,) of the M occupied bins."""
        (seen,) = np.nonzero(self._sums[0])
        count = self._sums[0, seen].astype(np.float64)
        means = self._sums[1:, seen].T / count[:, None]
        return means[:, :3], means[:, 3:], count

    def pack(self) -> Counts:
        """Pack for `add_packed`: (8, M), the M occupied bins and their sums."""
        (seen,) = np.nonzero(self._sums[0])
        return np.vstack([seen, self._sums[:, seen]])

    def add_packed(self, packed: NDArray[Any]) -> None:
        """Add what another's `pack` gave."""
        self._sums[:, packed[0]] += packed[1:]

    def share_outside(self, counts: Counts) -> float:
        """Measure the share of pixels whose colour is not near any that a pair was added for.

        Args:
            counts: (64^3,) from `colour_counts`.

        Returns:
            0 to 1; 0 where no pixel was counted.
        """
        near = binary_dilation((self._sums[0] > 0).reshape(BINS, BINS, BINS), np.ones((3, 3, 3), bool), _NEAR)
        return float(counts[~near.ravel()].sum() / max(counts.sum(), 1))


def colour_counts(pixels: RgbImage, counted: Mask | None = None) -> Counts:
    """Count the pixels, (..., 3) RGB, of which a mask may say whether they count, in each bin: (64^3,)."""
    bins = _bins(pixels.reshape(-1, 3))
    if counted is not None:
        bins[~counted.ravel()] = BINS**3  # a bin of their own: three times as fast as picking the others
    return np.bincount(bins, minlength=BINS**3 + 1)[:-1]


def _bins(pixels: RgbImage) -> Counts:
    red, green, blue = (pixels >> _SHIFT).astype(np.int64).T
    return np.asarray((red * BINS + green) * BINS + blue)
