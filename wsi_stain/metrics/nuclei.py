"""Nuclei before and after normalization: found by their contrast in hematoxylin, and how many pixels of them are kept.

The segmentation may know no absolute colour, or a mere change of stain would count as a loss. So hematoxylin is
measured along each image set's own stain vector and against its own surroundings, and what it segments afterwards is as
much area as it segmented before: any monotone change of hematoxylin leaves it the same. What counts is which pixels are
darker than which. Knows no slides or files.
"""

from __future__ import annotations

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from skimage.filters import threshold_otsu
from skimage.morphology import remove_small_objects

from wsi_stain.core.arrays import Mask, RgbTiles
from wsi_stain.formats.block_file import encode_jpeg
from wsi_stain.stain.vectors import could_be_he, macenko, unmixing
from wsi_stain.tissue.blur import blur
from wsi_stain.tissue.ink import pen_mask

_SMOOTHING_UM = 0.5
_SURROUNDINGS_UM = 16.0
_MIN_NUCLEUS_UM2 = 8.0
_QUALITY = 90
_WHITE_PERCENTILE = 99.5
_MIN_OD = 0.15
_MIN_STAINED = 1000
_VECTOR_PIXELS = 100_000
_TAIL = 0.015
_MIN_SHARE = 0.001


def nuclei_kept(after: RgbTiles, before: RgbTiles, mpp: float) -> float | None:
    """Measure the share of nuclei that is kept, relative to what the segmentation itself keeps.

    The Dice coefficient, 2 |A n B| / (|A| + |B|), of nuclei in `after` and in `before`, divided by that of nuclei in
    `before` as JPEG (quality 90, as outputs are) and in `before`: noise that any output has costs nothing. Ink is left
    out on both sides.

    Args:
        after: The normalized tiles, RGB, (n, h, w, 3).
        before: The same places of the source.
        mpp: Resolution of both, um per px.

    Returns:
        1 when all is kept, at least 0; None where `before` has too little tissue or no nuclei.
    """
    seen = ~pen_mask(before)
    contrast = _contrast(before, mpp)
    if contrast is None:
        return None
    share = _otsu_share(contrast, before, seen)
    nuclei = _segment(contrast, share, seen, mpp)
    if nuclei.mean() < _MIN_SHARE:
        return None
    own, other = (_dice(_nuclei(tiles, share, seen, mpp), nuclei) for tiles in (_as_jpeg(before), after))
    return min(1.0, other / own) if own else None


def nuclei_mask(tiles: RgbTiles, mpp: float) -> Mask | None:
    """Segment nuclei, (n, h, w); None where there is too little tissue to tell.

    Args:
        tiles: RGB, (n, h, w, 3), of one slide.
        mpp: Their resolution, um per px.
    """
    seen, contrast = ~pen_mask(tiles), _contrast(tiles, mpp)
    return None if contrast is None else _segment(contrast, _otsu_share(contrast, tiles, seen), seen, mpp)


def _nuclei(tiles: RgbTiles, share: float, seen: Mask, mpp: float) -> Mask:
    """Mark the given share of pixels with the most contrast; none where there is no stain at all."""
    contrast = _contrast(tiles, mpp)
    return np.zeros(seen.shape, bool) if contrast is None else _segment(contrast, share, seen, mpp)


def _contrast(tiles: RgbTiles, mpp: float) -> NDArray[np.float32] | None:
    """Compute hematoxylin against its surroundings, (n, h, w); None where there is too little stain."""
    od = _od(tiles)
    stained = od[od.mean(axis=-1) > _MIN_OD]
    stained = stained[could_be_he(stained)]
    if len(stained) < _MIN_STAINED:
        return None
    vectors = macenko(stained[:: max(1, len(stained) // _VECTOR_PIXELS)], _TAIL)
    hematoxylin = od @ unmixing(vectors)[:, 0].astype(np.float32)
    smooth, around = (blur(hematoxylin, um / mpp, (1, 2)) for um in (_SMOOTHING_UM, _SURROUNDINGS_UM))
    return np.asarray(smooth - around, np.float32)


def _od(tiles: RgbTiles) -> NDArray[np.float32]:
    """Compute optical density relative to the tiles' own brightest pixels."""
    white = np.percentile(tiles, _WHITE_PERCENTILE, axis=(0, 1, 2)).astype(np.float32)
    od: NDArray[np.float32] = np.maximum(-np.log((tiles.astype(np.float32) + 1) / (white + 1)), 0)
    return od


def _otsu_share(contrast: NDArray[np.float32], tiles: RgbTiles, seen: Mask) -> float:
    """Return the share of pixels above Otsu's threshold among the stained ones."""
    stained = contrast[seen & (_od(tiles).mean(axis=-1) > _MIN_OD)]
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
