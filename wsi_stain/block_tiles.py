"""The tiles of one block, read from a slide. Knows no store.

Memory bound: the tiles of a block (at most 50 MB) and one row of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from wsi_stain.geometry import TILE, BlockIndex, Region, TileIndex, tiles_of
from wsi_stain.slide import Slide


def read_tiles(
    slide: Slide, kept: NDArray[np.bool_], block: BlockIndex
) -> tuple[dict[TileIndex, NDArray[np.uint8]], list[TileIndex]]:
    """The kept tiles of a block, read in runs along rows: one read of a run decodes each of its JPEG tiles once.

    Args:
        slide: The slide.
        kept: (rows, cols) of the slide's tile grid: the tiles that are wanted.
        block: Place in the block grid.

    Returns:
        RGB, (256, 256, 3), 255 beyond the slide's edge, by place in the tile grid; and the holes among them: tiles
        with pixels that cannot be decoded, shown as the next coarser level has them.

    Raises:
        SlideError: The slide can no longer be read at all.
    """
    tiles, holes = {}, []
    for run in _runs([tile for tile in tiles_of(block, kept.shape) if kept[tile]]):
        pixels, damaged = slide.read_mended(_region(run[0], len(run)))
        for place, tile in enumerate(run):
            tiles[tile] = pixels[:, place * TILE : (place + 1) * TILE]
        if damaged:
            holes += [tile for tile in run if slide.read_mended(_region(tile))[1]]
    return tiles, holes


def _region(tile: TileIndex, count: int = 1) -> Region:
    return Region(tile.col * TILE, tile.row * TILE, count * TILE, TILE)


def _runs(tiles: list[TileIndex]) -> Iterator[list[TileIndex]]:
    """Cut tiles in row-major order into runs of neighbours in one row."""
    run: list[TileIndex] = []
    for tile in tiles:
        if run and tile != (run[-1].row, run[-1].col + 1):
            yield run
            run = []
        run.append(tile)
    if run:
        yield run
