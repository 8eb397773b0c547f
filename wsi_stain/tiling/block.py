"""One block of a slide, tiled: its tiles are read one after the other, and written as one shard. Knows no torch.

Memory bound: one tile, what reading it takes, and a sixteenth of each tile's pixels until ink is told from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.arrays import Mask
from wsi_stain.core.geometry import BlockIndex, TileIndex, tile_region, tiles_of
from wsi_stain.formats.zarr_shard import Tile, TileCodec
from wsi_stain.slides.listing.find import SlideSource
from wsi_stain.slides.slide import Slide
from wsi_stain.store import ShardReceipt, TileStore
from wsi_stain.tiling.config import TilingConfig
from wsi_stain.tiling.record import open_slide
from wsi_stain.tissue.tile_quality import ink_sample, ink_shares, measure_blur, part_on_slide


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
        tiles = _BlockTiles(slide, writer.kept(), task.block, writer.codec())
        return writer.write_shard(task.block, tiles, task.key, quality=tiles.quality, holes=tiles.holes)


class _BlockTiles(Mapping[TileIndex, Tile]):
    """The kept tiles of a block by place in the slide's tile grid, as the writer takes them.

    A tile is read from the slide, and its quality measured, whenever it is asked for. Ask for each once, in the
    mapping's order: then a slide's own tiles are decoded once, whatever their size.

    Args:
        slide: The slide; it must stay open.
        kept: (rows, cols) of the slide's tile grid: the tiles that are wanted.
        block: Place in the block grid.
        codec: How they are stored: tiles that lie plane by plane are given so, since green alone is then measured
            faster; where the slide's own JPEG tiles are stored, those are given.

    Attributes:
        holes: [row, column] of those tiles that cannot be read from the file and show its next coarser level.
    """

    def __init__(self, slide: Slide, kept: Mask, block: BlockIndex, codec: TileCodec) -> None:
        self._slide, self._codec = slide, codec
        self._tiles = [tile for tile in tiles_of(block, kept.shape) if kept[tile]]
        self._blur: list[float | None] = []
        self._ink_samples: list[NDArray[np.uint8]] = []
        self.holes: list[list[int]] = []

    def __iter__(self) -> Iterator[TileIndex]:
        return iter(self._tiles)

    def __len__(self) -> int:
        return len(self._tiles)

    def __getitem__(self, tile: TileIndex) -> Tile:
        """Read a tile; SlideError where the slide can no longer be read at all."""
        if self._codec.name == "source" and (own := self._slide.read_jpeg(tile_region(tile))) is not None:
            self._measure(tile, own.pixels)
            return own.stream
        pixels, mended_tile = self._slide.read_repaired(tile_region(tile))
        if mended_tile:
            self.holes.append(list(tile))
        if self._codec.is_planar:
            pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1)).transpose(1, 2, 0)
        self._measure(tile, pixels)
        return pixels

    def _measure(self, tile: TileIndex, pixels: NDArray[np.uint8]) -> None:
        seen = part_on_slide(pixels, tile, self._slide.size)
        self._blur.append(measure_blur(seen, self._slide.mpp.mean))
        self._ink_samples.append(ink_sample(seen))

    def quality(self) -> dict[str, Sequence[float | None]]:
        """Return for each of `QUALITIES` its value for each tile that was read, in that order."""
        return {"blur": self._blur, "pen": ink_shares(self._ink_samples)}
