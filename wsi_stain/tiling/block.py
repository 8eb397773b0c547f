"""One block of a slide, tiled: its tiles are read one after the other, and written as one shard. Knows no torch.

Memory bound: one tile, what reading it takes, and the thread and buffers that hash the shard.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.arrays import Mask
from wsi_stain.core.geometry import TILE, BlockIndex, Region, TileIndex, tiles_of
from wsi_stain.slides.listing.find import SlideSource
from wsi_stain.slides.slide import Slide
from wsi_stain.store import ShardReceipt, TileStore
from wsi_stain.tiling.config import TilingConfig
from wsi_stain.tiling.record import open_slide
from wsi_stain.tissue.tile_quality import QUALITIES, quality_on_slide


@dataclass(frozen=True)
class BlockTask:
    """Tile one block of a surveyed slide.

    Attributes:
        source: The slide.
        store: The tile store's directory.
        config: How it is tiled.
        block: Place in the block grid, one of the survey's `blocks`.
        key: The survey's `key`.
    """

    source: SlideSource
    store: Path
    config: TilingConfig
    block: BlockIndex
    key: str


def tile_block(task: BlockTask) -> ShardReceipt:
    """Write the shard of one block, unless it stands or the slide is complete.

    Raises:
        SlideError: The slide can no longer be read at all.
        OutputError: The shard cannot be written.
    """
    writer = TileStore(task.store).writer(task.source.slide_id)
    if writer.is_complete(task.key):
        return {"key": task.key, "product": None, "block": list(task.block), "tiles": 0, "quality": {}, "holes": []}
    valid = writer.valid_shard(task.block, task.key)
    if valid is not None:
        return valid
    with open_slide(task.source, task.config) as slide:
        tiles = _BlockTiles(slide, writer.kept(), task.block)
        return writer.write_shard(task.block, tiles, task.key, quality=tiles.quality, holes=tiles.holes)


class _BlockTiles(Mapping[TileIndex, NDArray[np.uint8]]):
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
