"""Pixels that normalization leaves alone, because they are neither stained tissue nor glass, and how they are shown.

    AS_SCANNED  ink, and dark over tissue (a coverslip edge across it, a clump of pigment, black pen): the source's own
                colours, so that what shows through stays visible
    AS_GLASS    dark beside tissue (borders, coverslip edges, bubbles, shadows, fill): the reference's white, as all
                that lies outside of the kept tiles is

Found once on a slide's thumbnail, so that every tile, mode and method shows the same: see `normalizers.background`.
Knows no slides or files.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, label

from wsi_stain.core.arrays import Mask
from wsi_stain.tissue.areas import close_mask, grow_mask
from wsi_stain.tissue.config import TissueConfig
from wsi_stain.tissue.grid import TileGrid, tile_grid
from wsi_stain.tissue.ink import InkAndDark
from wsi_stain.tissue.mask import textured_mask

Exempt = NDArray[np.uint8]
"""(h, w) of a thumbnail: 0 where pixels are normalized, else `AS_SCANNED` or `AS_GLASS`."""

Pixels = NDArray[np.uint8]

AS_SCANNED, AS_GLASS = 1, 2

_ACROSS_UM = 100.0
"""Dark bands up to this wide with tissue on both sides lie over it."""

_AMID_TISSUE = 0.25
"""Share of the surroundings of a dark piece that are tissue, from which all of it lies over tissue."""

_LEAST_REPORTED = 0.001
"""Shares below it are not worth a remark."""

_NEAR_UM = 1000.0
"""Ink whose texture is that of tissue lies over tissue, within this distance of it."""


def exempt_areas(ink_and_dark: InkAndDark, tissue: Mask, mpp: float, config: TissueConfig) -> Exempt:
    """Find what is not to be normalized.

    Args:
        ink_and_dark: What is neither tissue nor glass.
        tissue: (h, w), true on tissue.
        mpp: Resolution of both, um per px.
        config: How wide the rims are.
    """
    ink, dark, with_rims, _ = ink_and_dark
    exempt = np.zeros(tissue.shape, np.uint8)
    if not (ink.any() or with_rims.any()):
        return exempt
    margin = config.ink_margin_um / mpp
    over = grow_mask(_find_amid_tissue(dark, tissue | ink, margin), margin) | close_mask(tissue, _ACROSS_UM / 2 / mpp)
    exempt[grow_mask(ink, margin / 2)] = AS_SCANNED
    found = with_rims & ~tissue
    exempt[found], exempt[found & over] = AS_GLASS, AS_SCANNED
    return exempt


def exempt_remarks(under_ink: float, exempt: Exempt, grid: TileGrid) -> list[str]:
    """Say of a slide, a sentence each, how much of its tissue is covered, and what is left out of its tiles.

    Args:
        under_ink: From `share_under_ink`.
        exempt: (h, w), from `exempt_areas`.
        grid: The slide's tiles.
    """
    remarks = []
    if under_ink >= _LEAST_REPORTED:
        remarks.append(f"{under_ink:.1%} of the tissue lies under ink or dark, and is shown as scanned")
    blank = tile_grid(grid.size, exempt == AS_GLASS).tissue[grid.kept]
    if len(blank) and (share := float(blank.mean())) >= _LEAST_REPORTED:
        remarks.append(f"dark that is no tissue, {share:.1%} of the tiles, is shown as glass")
    return remarks


def share_under_ink(thumbnail: Pixels, tissue: Mask, exempt: Exempt, mpp: float) -> float:
    """Estimate how much of the tissue lies under ink or dark, 0 to 1: by its texture, where light comes through.

    Args:
        thumbnail: RGB, (h, w, 3).
        tissue: (h, w), true on tissue.
        exempt: (h, w), from `exempt_areas`.
        mpp: Resolution of all, um per px.
    """
    covering = exempt == AS_SCANNED
    if not covering.any():
        return 0.0
    covered = covering & textured_mask(thumbnail, covering, mpp) & grow_mask(tissue, _NEAR_UM / mpp)
    return round(float(covered.sum() / max((covered | tissue).sum(), 1)), 4)


def _find_amid_tissue(dark: Mask, tissue: Mask, margin: float) -> Mask:
    """Find the pieces of dark that tissue surrounds, and that do not reach the frame: those lie over it.

    Of the pixels just beyond a piece's rim, of `margin` px, at least a quarter are tissue.
    """
    names, count = label(dark)
    if not count:
        return dark
    distance, (rows, cols) = distance_transform_edt(~dark, return_indices=True)
    around = (distance > margin) & (distance <= margin + 2)
    nearest = names[rows[around], cols[around]]
    share = np.bincount(nearest, tissue[around], count + 1) / np.maximum(np.bincount(nearest, minlength=count + 1), 1)
    at_frame = np.unique(np.concatenate([names[[0, -1]].ravel(), names[:, [0, -1]].ravel()]))
    share[at_frame] = 0
    amid: Mask = (share >= _AMID_TISSUE)[names] & dark
    return amid
