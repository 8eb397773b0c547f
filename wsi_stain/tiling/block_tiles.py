"""The tiles of one block, read from a slide one after the other. Knows no store.

Memory bound: one tile, and what reading it takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.arrays import Mask
from wsi_stain.core.geometry import TILE, BlockIndex, Region, TileIndex, tiles_of
from wsi_stain.slides.slide import Slide
from wsi_stain.tissue.tile_quality import QUALITIES, quality_on_slide


class BlockTiles(Mapping[TileIndex, NDArray[np.uint8]]):
    """The kept tiles of a block: RGB, (256, 256, 3), 255 beyond the slide's edge, by place in the slide's tile grid.

    A tile is read from the slide, and its quality measured, whenever it is asked for. Ask for each once, in the
    mapping's order: then a slide's own tiles are decoded once, whatever their size, and `quality` has that order.

    Args:
        slide: The slide; it must stay open.
        kept: (rows, cols) of the slide's tile grid: the tiles that are wanted.
        block: Place in the block grid.

    Attributes:
        quality: For each of `QUALITIES`, its value for each tile that was read.
        holes: [row, column] of those tiles that cannot be read from the file and show its next coarser level.
    """

    def __init__(self, slide: Slide, kept: Mask, block: BlockIndex) -> None:
        self._slide = slide
        self._tiles = [tile for tile in tiles_of(block, kept.shape) if kept[tile]]
        self.quality: dict[str, list[float | None]] = {name: [] for name in QUALITIES}
        self.holes: list[list[int]] = []

    def __iter__(self) -> Iterator[TileIndex]:
        return iter(self._tiles)

    def __len__(self) -> int:
        return len(self._tiles)

    def __getitem__(self, tile: TileIndex) -> NDArray[np.uint8]:
        """Read a tile; SlideError where the slide can no longer be read at all."""
        pixels, mended_tile = self._slide.read_repaired(Region(tile.col * TILE, tile.row * TILE, TILE, TILE))
        if mended_tile:
            self.holes.append(list(tile))
        for name, value in quality_on_slide(pixels, tile, self._slide.size, self._slide.mpp).items():
            self.quality[name].append(value)
        return pixels
