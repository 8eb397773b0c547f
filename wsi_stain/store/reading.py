"""One slide of the store, read. Knows nothing of how it was made."""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_stain import shard, zarr_files
from wsi_stain.geometry import TILE, TILES_PER_BLOCK, BlockIndex, Mpp, Region, Size, TileIndex, ceil_div
from wsi_stain.grid import TileGrid
from wsi_stain.store.record import SlideRecord, complete_record

_INDICES_HELD = 1024


class StoredSlide:
    """A slide of the store, as a `BlockReader`. Threads may share it, and it may be pickled.

    Memory bound: the indices of at most 1024 shards (4 KiB each), the maps and the thumbnail; no pixels are held.

    Args:
        path: The slide's folder.
        record: What is known of a slide that is still being made; by default the record in its completion mark.

    Raises:
        StoreError: No record was given, and the slide has no completion mark.
    """

    def __init__(self, path: Path, record: SlideRecord | None = None) -> None:
        self.path = path
        self.record = record or complete_record(path)
        self._index = lru_cache(_INDICES_HELD)(self._read_index)

    def __reduce__(self) -> tuple[type[StoredSlide], tuple[Path, SlideRecord]]:
        return StoredSlide, (self.path, self.record)

    @property
    def size(self) -> Size:
        """Width and height of the working frame, px."""
        return self.record.size

    @property
    def mpp(self) -> Mpp:
        """Resolution of the working frame, um per px."""
        return self.record.mpp

    @cached_property
    def kept(self) -> NDArray[np.bool_]:
        """(rows, cols): which tiles exist."""
        return zarr_files.read_array(self.path / "maps" / "kept", "bool")

    @cached_property
    def tissue(self) -> NDArray[np.float32]:
        """(rows, cols): share of tissue in each tile, 0 to 1."""
        return zarr_files.read_array(self.path / "maps" / "tissue", "float32")

    def map(self, name: str) -> NDArray[Any]:
        """A map of the slide, (rows, cols): one value a tile; StoreError where there is none of that name."""
        return zarr_files.read_array(self.path / "maps" / name)

    @cached_property
    def thumbnail(self) -> NDArray[np.uint8]:
        """RGB of the whole frame, (h, w, 3)."""
        return zarr_files.read_array(self.path / "thumbnail", "uint8")

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """(h, w): where tissue was found on the thumbnail."""
        return zarr_files.read_array(self.path / "mask", "bool")

    def read(self, region: Region) -> NDArray[np.uint8]:
        """RGB pixels, (height, width, 3); 255 in tiles that are not kept and outside the slide.

        Raises:
            StoreError: A shard or a chunk is missing or damaged.
        """
        pixels = np.full((region.height, region.width, 3), 255, np.uint8)
        for block, tiles in self._kept_tiles(region).items():
            index = self._index(block)
            with shard.ShardFile(zarr_files.shard_path(self.path, block)) as file:
                for tile in tiles:
                    _paste(file.planes(tile, index), tile, pixels, region, self.size)
        return pixels

    def read_tile(self, tile: TileIndex) -> NDArray[np.uint8]:
        """RGB pixels of one tile, (256, 256, 3); 255 where it is not kept and outside the slide."""
        return self.read(Region(tile.col * TILE, tile.row * TILE, TILE, TILE))

    @property
    def grid(self) -> TileGrid:
        """The slide's tile grid."""
        return TileGrid(self.size, self.tissue, self.kept)

    def _kept_tiles(self, region: Region) -> dict[BlockIndex, list[TileIndex]]:
        """The kept tiles that a region touches, by the shard they are in."""
        rows = slice(max(region.y // TILE, 0), max(ceil_div(region.y + region.height, TILE), 0))
        cols = slice(max(region.x // TILE, 0), max(ceil_div(region.x + region.width, TILE), 0))
        tiles: dict[BlockIndex, list[TileIndex]] = {}
        for row, col in np.argwhere(self.kept[rows, cols]) + np.array([rows.start, cols.start]):
            block = BlockIndex(int(row) // TILES_PER_BLOCK, int(col) // TILES_PER_BLOCK)
            tiles.setdefault(block, []).append(TileIndex(int(row), int(col)))
        return tiles

    def _read_index(self, block: BlockIndex) -> NDArray[np.uint64]:
        with shard.ShardFile(zarr_files.shard_path(self.path, block)) as file:
            return file.read_index()


def _paste(planes: NDArray[np.uint8], tile: TileIndex, pixels: NDArray[np.uint8], region: Region, size: Size) -> None:
    """Copy the part of a tile (planar) that lies within both the region and the slide."""
    x, y = tile.col * TILE, tile.row * TILE
    left, right = max(x, region.x), min(x + TILE, region.x + region.width, size.width)
    top, bottom = max(y, region.y), min(y + TILE, region.y + region.height, size.height)
    target = pixels[top - region.y : bottom - region.y, left - region.x : right - region.x]
    source = planes[:, top - y : bottom - y, left - x : right - x]
    for channel in range(3):  # one plane at a time is six times as fast as one transposed copy
        target[..., channel] = source[channel]
