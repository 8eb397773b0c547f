"""One slide of the store, read. Knows nothing of how it was made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_stain import zarr_files
from wsi_stain.chunks import TileCodec
from wsi_stain.errors import StoreError
from wsi_stain.geometry import TILE, BlockIndex, Mpp, Region, Size, TileIndex, block_of, ceil_div, grid_shape
from wsi_stain.grid import TileGrid
from wsi_stain.place import Place, folders
from wsi_stain.shard import REMEDY, ShardFile
from wsi_stain.stain import StainStatistics
from wsi_stain.store.cards import slide_card
from wsi_stain.store.record import SlideRecord, complete_record

_INDICES_HELD = 1024
_THREADS = 4
_BATCH = 64


class StoredSlide:
    """A slide of the store, as a `BlockReader`. Threads may share it, and it may be pickled.

    Memory bound: the indices of at most 1024 shards (4 KiB each), the maps and the thumbnail; no pixels are held.

    Args:
        path: The slide's folder.
        record: What is known of a slide that is still being made; by default the record in its completion mark.

    Raises:
        StoreError: No record was given, and the slide has no completion mark.
    """

    def __init__(self, path: Place, record: SlideRecord | None = None) -> None:
        self.path = path
        self.record = record or complete_record(path)
        self._index = lru_cache(_INDICES_HELD)(self._read_index)

    def __reduce__(self) -> tuple[type[StoredSlide], tuple[Place, SlideRecord]]:
        return StoredSlide, (self.path, self.record)

    def __repr__(self) -> str:
        return f"<StoredSlide {self.path}: {self.size.width} x {self.size.height} px, {self.kept.sum()} tiles>"

    def _repr_html_(self) -> str:
        return slide_card(self.slide_id, {**self.facts(), "maps": ", ".join(self.maps())}, self.thumbnail)

    def facts(self) -> dict[str, str]:
        """What a table says of the slide, by name, as text."""
        record, rich = self.record, int((self.tissue[self.kept] >= 0.5).sum())
        labels = {name: getattr(record, name) for name in ("group", "patient", "site", "split", "label")}
        return {
            "size": f"{self.size.width} x {self.size.height} px",
            "resolution": f"{self.mpp.mean:.4g} um/px",
            "tiles": f"{self.kept.sum()}, {rich} of them at least half tissue, {record.holes} holes, {self.codec.name}",
            "stain": "measured" if self.stain else "not measured",
            "labels": ", ".join(f"{name}: {value}" for name, value in labels.items() if value is not None),
        }

    @property
    def slide_id(self) -> str:
        """Its name in the store."""
        return self.record.slide_id

    @property
    def stain(self) -> StainStatistics | None:
        """How the slide is stained; None where it was not measured."""
        return self.record.stain

    @property
    def size(self) -> Size:
        """Width and height of the working frame, px."""
        return self.record.size

    @property
    def mpp(self) -> Mpp:
        """Resolution of the working frame, um per px."""
        return self.record.mpp

    @cached_property
    def codec(self) -> TileCodec:
        """How the tiles are compressed."""
        return zarr_files.read_image_codec(self.path / "0")

    @cached_property
    def kept(self) -> NDArray[np.bool_]:
        """(rows, cols): which tiles exist."""
        return zarr_files.read_array(self.path / "maps" / "kept", "bool")

    @cached_property
    def tissue(self) -> NDArray[np.float32]:
        """(rows, cols): share of tissue in each tile, 0 to 1."""
        return zarr_files.read_array(self.path / "maps" / "tissue", "float32")

    def maps(self) -> list[str]:
        """Names of the slide's maps, sorted."""
        return folders(self.path / "maps")

    def map(self, name: str) -> NDArray[Any]:
        """A map of the slide, (rows, cols): one value a tile; StoreError where there is none of that name."""
        return zarr_files.read_array(self.path / "maps" / name)

    def table(self, name: str) -> str:
        """A table of the slide, as CSV; StoreError where there is none of that name."""
        return zarr_files.read_array(self.path / "tables" / name, "uint8").tobytes().decode("utf-8", "surrogateescape")

    @cached_property
    def thumbnail(self) -> NDArray[np.uint8]:
        """RGB of the whole frame, (h, w, 3)."""
        return zarr_files.read_array(self.path / "thumbnail", "uint8")

    @property
    def thumbnail_mpp(self) -> float:
        """Resolution of the thumbnail and of the mask, um per px."""
        height, width, _ = self.thumbnail.shape
        return float(self.mpp.mean * (self.size.width * self.size.height / (height * width)) ** 0.5)

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """(h, w): where tissue was found on the thumbnail."""
        return zarr_files.read_array(self.path / "mask", "bool")

    def check(self) -> None:
        """Read what is needed before any tile; StoreError where it is missing, damaged or does not fit."""
        _ = self.codec
        shapes = {self.kept.shape, self.tissue.shape}
        if shapes != {grid_shape(self.size)}:
            raise StoreError(f"{self.path} has maps of {shapes}, expected {grid_shape(self.size)} tiles", REMEDY)

    def read(self, region: Region) -> NDArray[np.uint8]:
        """RGB pixels, (height, width, 3); 255 in tiles that are not kept and outside the slide.

        Raises:
            StoreError: A shard or a chunk is missing or damaged.
        """
        pixels = np.full((region.height, region.width, 3), 255, np.uint8)
        tiles = self._kept_tiles(region)
        for tile, source in zip(tiles, self._decoded(tiles), strict=True):
            _paste(source, tile, pixels, region, self.size)
        return pixels

    def read_tile(self, tile: TileIndex) -> NDArray[np.uint8]:
        """RGB pixels of one tile, (256, 256, 3); 255 where it is not kept and outside the slide."""
        pixels: NDArray[np.uint8] = self.read_tiles([tile], threads=1)[0]
        return pixels

    def read_tiles(self, tiles: Sequence[TileIndex], threads: int = _THREADS) -> NDArray[np.uint8]:
        """RGB pixels of many tiles at once, which is the fastest way to read them.

        Args:
            tiles: Any tiles, in any order.
            threads: How many to read with.

        Returns:
            (n, 256, 256, 3), in the order asked for; 255 where a tile is not kept and outside the slide.

        Raises:
            StoreError: A shard or a chunk is missing or damaged.
        """
        pixels = np.empty((len(tiles), TILE, TILE, 3), np.uint8)
        kept = []
        for place, tile in enumerate(tiles):
            there = self._is_kept(tile)
            if there:
                kept.append(place)
            if not there or self._is_cut(tile):
                pixels[place] = 255
        kept.sort(key=lambda place: _by_block(tiles[place]))

        def read_part(places: Sequence[int]) -> None:
            wanted = [tiles[place] for place in places]
            for place, tile, source in zip(places, wanted, self._decoded(wanted), strict=True):
                _paste(source, tile, pixels[place], _region(tile), self.size)

        if threads == 1:
            read_part(kept)
            return pixels
        length = max(ceil_div(len(kept), 2 * threads), 1)
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(read_part, (kept[start : start + length] for start in range(0, len(kept), length))))
        return pixels

    def tile_indices(self, min_tissue: float = 0.0) -> list[TileIndex]:
        """The kept tiles whose share of tissue is at least `min_tissue`, 0 to 1, in row-major order."""
        return [TileIndex(row, col) for row, col in np.argwhere(self.kept & (self.tissue >= min_tissue)).tolist()]

    def tiles(self, min_tissue: float = 0.0) -> Iterator[tuple[TileIndex, NDArray[np.uint8]]]:
        """The kept tiles with enough tissue one after the other, each with its RGB pixels, (256, 256, 3).

        Memory bound: 64 tiles.

        Args:
            min_tissue: Least share of tissue, 0 to 1.
        """
        wanted = self.tile_indices(min_tissue)
        for start in range(0, len(wanted), _BATCH):
            batch = wanted[start : start + _BATCH]
            yield from zip(batch, self.read_tiles(batch), strict=True)

    @property
    def grid(self) -> TileGrid:
        """The slide's tile grid."""
        return TileGrid(self.size, self.tissue, self.kept)

    def _kept_tiles(self, region: Region) -> list[TileIndex]:
        """The kept tiles that a region touches, shard by shard."""
        rows = slice(max(region.y // TILE, 0), max(ceil_div(region.y + region.height, TILE), 0))
        cols = slice(max(region.x // TILE, 0), max(ceil_div(region.x + region.width, TILE), 0))
        places = np.argwhere(self.kept[rows, cols]) + np.array([rows.start, cols.start])
        return sorted((TileIndex(row, col) for row, col in places.tolist()), key=_by_block)

    def _is_kept(self, tile: TileIndex) -> bool:
        rows, cols = self.kept.shape
        return 0 <= tile.row < rows and 0 <= tile.col < cols and bool(self.kept[tile])

    def _is_cut(self, tile: TileIndex) -> bool:
        return (tile.row + 1) * TILE > self.size.height or (tile.col + 1) * TILE > self.size.width

    def _decoded(self, tiles: Sequence[TileIndex]) -> Iterator[NDArray[np.uint8]]:
        """RGB of each tile in turn, all of them kept; neighbours in one shard are read together."""
        for block, group in groupby(tiles, block_of):
            index = self._index(block)
            with ShardFile(self.path / zarr_files.shard_key(block), self.codec) as file:
                yield from file.read_tiles(list(group), index)

    def _read_index(self, block: BlockIndex) -> NDArray[np.uint64]:
        with ShardFile(self.path / zarr_files.shard_key(block), self.codec) as file:
            return file.read_index()


def _region(tile: TileIndex) -> Region:
    return Region(tile.col * TILE, tile.row * TILE, TILE, TILE)


def _by_block(tile: TileIndex) -> tuple[BlockIndex, TileIndex]:
    return block_of(tile), tile


def _paste(source: NDArray[np.uint8], tile: TileIndex, pixels: NDArray[np.uint8], region: Region, size: Size) -> None:
    """Copy the part of a tile, (256, 256, 3), that lies within both the region and the slide."""
    x, y = tile.col * TILE, tile.row * TILE
    left, right = max(x, region.x), min(x + TILE, region.x + region.width, size.width)
    top, bottom = max(y, region.y), min(y + TILE, region.y + region.height, size.height)
    target = pixels[top - region.y : bottom - region.y, left - region.x : right - region.x]
    part = source[top - y : bottom - y, left - x : right - x]
    if part.strides[-1] == 1:
        target[:] = part
    else:  # planes: one at a time is six times as fast as one transposed copy
        for channel in range(3):
            target[..., channel] = part[..., channel]
