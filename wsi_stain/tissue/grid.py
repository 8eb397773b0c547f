"""Grid of the tiles of a slide, and which of them exist. Knows masks and tile grids, no pixels and no files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsi_stain.core.arrays import Mask
from wsi_stain.core.geometry import TILE, TILES_PER_BLOCK, BlockIndex, Size, ceil_div, grid_shape

_ANY = 1e-6


@dataclass(frozen=True)
class TileGrid:
    """Tiles of one slide.

    Attributes:
        size: Working frame, px.
        tissue: (rows, cols) float32: share of tissue in each tile, 0 to 1.
        kept: (rows, cols) bool: which tiles exist.
    """

    size: Size
    tissue: NDArray[np.float32]
    kept: Mask

    def blocks(self) -> list[BlockIndex]:
        """List the blocks that hold a kept tile, the fullest first: so no worker has a long one left at the end."""
        rows, cols = (ceil_div(count, TILES_PER_BLOCK) for count in self.kept.shape)
        padded = np.zeros((rows * TILES_PER_BLOCK, cols * TILES_PER_BLOCK), bool)
        padded[: self.kept.shape[0], : self.kept.shape[1]] = self.kept
        tiles = padded.reshape(rows, TILES_PER_BLOCK, cols, TILES_PER_BLOCK).sum(axis=(1, 3))
        blocks = [BlockIndex(int(row), int(col)) for row, col in np.argwhere(tiles)]
        return sorted(blocks, key=lambda block: -int(tiles[block]))


def tile_grid(size: Size, mask: Mask) -> TileGrid:
    """Lay the tile grid over a tissue mask.

    Args:
        size: Working frame, px.
        mask: (h, w), true on tissue; it covers the whole frame, whatever its own resolution.

    Returns:
        The share of tissue in each tile, by exact areas (a tile at the far edge counts the part on the slide), and the
        tiles to keep: every tile with any tissue, and the eight around it.
    """
    rows, cols = grid_shape(size)
    shares = _means(_means(mask.astype(np.float64), size.height, rows).T, size.width, cols).T
    tissue = np.clip(shares, 0, 1).astype(np.float32)
    kept = ndimage.binary_dilation(shares > _ANY, np.ones((3, 3), bool))
    return TileGrid(size, tissue, kept)


def _means(values: NDArray[np.float64], length: int, tiles: int) -> NDArray[np.float64]:
    """Compute exact means along axis 0 over tiles of 256 px, where the axis's values together cover `length` px."""
    edges = np.minimum(np.arange(tiles + 1) * TILE, length) * (len(values) / length)
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
    whole = np.minimum(edges.astype(int), len(values) - 1)
    part = (edges - whole)[:, None]
    at_edges = sums[whole] + part * values[whole]
    means: NDArray[np.float64] = np.diff(at_edges, axis=0) / np.diff(edges)[:, None]
    return means
