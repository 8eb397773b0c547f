"""Nuclei before and after normalization: found by their contrast in hematoxylin, and how many pixels of them are kept.

The segmentation may know no absolute colour, or a mere change of stain would count as a loss. So hematoxylin is
measured along each image set's own stain vector and against its own surroundings, and what it segments afterwards is as
much area as it segmented before: any monotone change of hematoxylin leaves it the same. What counts is which pixels are
darker than which. Knows no slides or files.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from skimage.filters import threshold_otsu
from skimage.morphology import remove_small_objects

from wsi_stain.core.arrays import Mask, RgbTiles
from wsi_stain.formats.block_file import encode_jpeg
from wsi_stain.stain.statistics import stained_limit
from wsi_stain.stain.vectors import could_be_he, macenko, unmixing_matrix
from wsi_stain.tissue.blur import blur
from wsi_stain.tissue.density import remove_tint
from wsi_stain.tissue.ink import pen_mask

_SMOOTHING_UM = 0.5
_SURROUNDINGS_UM = 16.0
_MIN_NUCLEUS_UM2 = 8.0
_QUALITY = 90
_WHITE_PERCENTILE = 99.5
_MIN_STAINED = 1000
_VECTOR_PIXELS = 100_000
_TAIL = 0.015
_MIN_SHARE = 0.001


@dataclass(frozen=True)
class SourceNuclei:
    """Nuclei of a source's tiles, found once for all that is compared with them.

    Attributes:
        tiles: The tiles, RGB, (n, h, w, 3).
        mpp: Their resolution, um per px.
        seen: What is no ink, (n, h, w).
        share: Share of it that nuclei are, 0 to 1.
        mask: Where nuclei are, (n, h, w).
    """

    tiles: RgbTiles
    mpp: float
    seen: Mask
    share: float
    mask: Mask

    def measure_kept(self, after: RgbTiles) -> float | None:
        """Measure the share of nuclei that is kept, relative to what the segmentation itself keeps.

        The Dice coefficient, 2 |A n B| / (|A| + |B|), of nuclei in `after` and in the source, divided by that of nuclei
        in the source as JPEG (quality 90, as outputs are) and in the source: noise that any output has costs nothing.
        Ink is left out on both sides.

        Args:
            after: The normalized tiles, RGB, (n, h, w, 3).

        Returns:
            1 when all is kept, at least 0; None where the source has next to no nuclei.
        """
        if self.mask.mean() < _MIN_SHARE or not self._kept_by_jpeg:
            return None
        return min(1.0, self._overlap(after) / self._kept_by_jpeg)

    @cached_property
    def _kept_by_jpeg(self) -> float:
        return self._overlap(_as_jpeg(self.tiles))

    def _overlap(self, tiles: RgbTiles) -> float:
        return _dice(_nuclei(tiles, self.share, self.seen, self.mpp), self.mask)


def find_source_nuclei(tiles: RgbTiles, mpp: float) -> SourceNuclei | None:
    """Segment nuclei; None where there is too little tissue to tell.

    Args:
        tiles: RGB, (n, h, w, 3), of one slide.
        mpp: Their resolution, um per px.
    """
    seen, contrast = ~pen_mask(remove_tint(tiles, _white(tiles))), _contrast(tiles, mpp)
    if contrast is None:
        return None
    share = _otsu_share(contrast, tiles, seen)
    return SourceNuclei(tiles, mpp, seen, share, _segment(contrast, share, seen, mpp))


def nuclei_mask(tiles: RgbTiles, mpp: float) -> Mask | None:
    """Segment nuclei, (n, h, w), as `find_source_nuclei` does."""
    nuclei = find_source_nuclei(tiles, mpp)
    return None if nuclei is None else nuclei.mask


def _nuclei(tiles: RgbTiles, share: float, seen: Mask, mpp: float) -> Mask:
    """Mark the given share of pixels with the most contrast; none where there is no stain at all."""
    contrast = _contrast(tiles, mpp)
    return np.zeros(seen.shape, bool) if contrast is None else _segment(contrast, share, seen, mpp)


def _contrast(tiles: RgbTiles, mpp: float) -> NDArray[np.float32] | None:
    """Compute hematoxylin against its surroundings, (n, h, w); None where there is too little stain."""
    od = _od(tiles)
    mean = od.mean(axis=-1)
    stained = od[mean > stained_limit(mean)]
    stained = stained[could_be_he(stained)]
    if len(stained) < _MIN_STAINED:
        return None
    vectors = macenko(stained[:: max(1, len(stained) // _VECTOR_PIXELS)], _TAIL)
    hematoxylin = od @ unmixing_matrix(vectors)[:, 0].astype(np.float32)
    smooth, around = (blur(hematoxylin, um / mpp, (1, 2)) for um in (_SMOOTHING_UM, _SURROUNDINGS_UM))
    return np.asarray(smooth - around, np.float32)


def _od(tiles: RgbTiles) -> NDArray[np.float32]:
    """Compute optical density relative to the tiles' own brightest pixels."""
    od: NDArray[np.float32] = np.maximum(-np.log((tiles.astype(np.float32) + 1) / (_white(tiles) + 1)), 0)
    return od


def _white(tiles: RgbTiles) -> NDArray[np.float32]:
    """Return RGB of the tiles' own brightest pixels."""
    return np.asarray(np.percentile(tiles, _WHITE_PERCENTILE, axis=(0, 1, 2)), np.float32)


def _otsu_share(contrast: NDArray[np.float32], tiles: RgbTiles, seen: Mask) -> float:
    """Return the share of pixels above Otsu's threshold among the stained ones."""
    mean = _od(tiles).mean(axis=-1)
    stained = contrast[seen & (mean > stained_limit(mean))]
    return float((contrast[seen] > threshold_otsu(stained)).mean()) if stained.size and np.ptp(stained) > 0 else 0.0


def _segment(contrast: NDArray[np.float32], share: float, seen: Mask, mpp: float) -> Mask:
    high = (contrast > np.quantile(contrast[seen], 1 - share)) & seen
    least = round(_MIN_NUCLEUS_UM2 / mpp**2)
    return np.stack([remove_small_objects(tile, max_size=least) for tile in high])


def _dice(a: Mask, b: Mask) -> float:
    area = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / area if area else 0.0


def _as_jpeg(tiles: RgbTiles) -> RgbTiles:
    return np.stack([imagecodecs.jpeg8_decode(encode_jpeg(np.ascontiguousarray(tile), _QUALITY)) for tile in tiles])
