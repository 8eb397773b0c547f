"""A slide as tiles on a grid, be they in the store or in the slide's own file: reading regions, tiles and batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.arrays import Mask
from wsi_stain.core.errors import StainError
from wsi_stain.core.geometry import TILE, BlockIndex, Mpp, Region, Size, TileIndex, block_of, ceil_div, tile_region
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.store.record import SlideRecord
from wsi_stain.tissue.exempt import Exempt
from wsi_stain.tissue.grid import TileGrid

_THREADS = 4
_BATCH = 64

Self = TypeVar("Self", bound="TiledSlide")


class TiledSlide(ABC):
    """A slide whose kept tiles can be read; a context manager. What is not kept reads as 255.

    Attributes:
        record: What is known of the slide.
        repaired: Tiles that were read, but not all of whose pixels could be decoded: these show a coarser level.
    """

    def __init__(self, record: SlideRecord) -> None:
        self.record = record
        self.repaired: set[TileIndex] = set()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Release what reading holds open."""

    @property
    @abstractmethod
    def opener(self) -> Callable[[], TiledSlide]:
        """Opens the slide again, in any process: a few paths, to be pickled."""

    @property
    @abstractmethod
    def kept(self) -> Mask:
        """(rows, cols): which tiles exist."""

    @property
    @abstractmethod
    def tissue(self) -> NDArray[np.float32]:
        """(rows, cols): share of tissue in each tile, 0 to 1."""

    @property
    @abstractmethod
    def thumbnail(self) -> NDArray[np.uint8]:
        """RGB of the whole frame, (h, w, 3)."""

    @property
    @abstractmethod
    def mask(self) -> Mask:
        """(h, w): where tissue was found on the thumbnail."""

    @property
    @abstractmethod
    def exempt(self) -> Exempt:
        """(h, w): what is not normalized, on the thumbnail, and how it is shown; see `exempt`."""

    @property
    @abstractmethod
    def suspect(self) -> Mask:
        """(rows, cols): tiles without tissue that look as if they had some."""

    @abstractmethod
    def _decode_tiles(self, tiles: Sequence[TileIndex]) -> Iterator[NDArray[np.uint8]]:
        """Decode each tile in turn, (256, 256, 3), all of them kept; neighbours come together."""

    @property
    def slide_id(self) -> str:
        """Its name in the store."""
        return self.record.slide_id

    @property
    def stain(self) -> StainStatistics | None:
        """Stain of the slide; None where it was not measured."""
        return self.record.stain

    def require_stain(self) -> StainStatistics:
        """Return the stain of the slide; StainError where it was not measured."""
        if self.stain is None:
            raise StainError(f"The stain of {self.slide_id} was not measured", "Tile the slide again")
        return self.stain

    @property
    def size(self) -> Size:
        """Width and height of the working frame, px."""
        return self.record.size

    @property
    def mpp(self) -> Mpp:
        """Resolution of the working frame, um per px."""
        return self.record.mpp

    @property
    def grid(self) -> TileGrid:
        """The slide's tile grid."""
        return TileGrid(self.size, self.tissue, self.kept)

    @property
    def thumbnail_mpp(self) -> float:
        """Resolution of the thumbnail and of the mask, um per px."""
        height, width, _ = self.thumbnail.shape
        return float(self.mpp.mean * (self.size.width * self.size.height / (height * width)) ** 0.5)

    def read(self, region: Region, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Read RGB pixels, (height, width, 3); 255 in tiles that are not kept and outside the slide.

        Args:
            region: In the working frame; may reach beyond the slide.
            out: Where they go, which is returned; None makes a new array.

        Raises:
            StoreError: Of a stored slide, a shard or a chunk is missing or damaged.
            SlideError: Of a slide's file, it can no longer be read at all.
        """
        pixels = np.empty((region.height, region.width, 3), np.uint8) if out is None else out
        pixels[:] = 255
        tiles = self._kept_tiles(region)
        for tile, source in zip(tiles, self._decode_tiles(tiles), strict=True):
            _paste(source, tile, pixels, region, self.size)
        return pixels

    def read_tile(self, tile: TileIndex) -> NDArray[np.uint8]:
        """Read RGB pixels of one tile, (256, 256, 3); 255 where it is not kept and outside the slide."""
        pixels: NDArray[np.uint8] = self.read_tiles([tile], threads=1)[0]
        return pixels

    def read_tiles(self, tiles: Sequence[TileIndex], threads: int = _THREADS) -> NDArray[np.uint8]:
        """Read RGB pixels of many tiles at once, which is the fastest way to read them.

        Args:
            tiles: Any tiles, in any order.
            threads: How many to read with.

        Returns:
            (n, 256, 256, 3), in the order asked for; 255 where a tile is not kept and outside the slide.

        Raises:
            StoreError: Of a stored slide, a shard or a chunk is missing or damaged.
            SlideError: Of a slide's file, it can no longer be read at all.
        """
        pixels = np.empty((len(tiles), TILE, TILE, 3), np.uint8)
        kept = []
        for position, tile in enumerate(tiles):
            there = self._is_kept(tile)
            if there:
                kept.append(position)
            if not there or self._is_partial(tile):
                pixels[position] = 255
        kept.sort(key=lambda position: _block_order(tiles[position]))

        def read_part(positions: Sequence[int]) -> None:
            wanted = [tiles[position] for position in positions]
            for position, tile, source in zip(positions, wanted, self._decode_tiles(wanted), strict=True):
                _paste(source, tile, pixels[position], tile_region(tile), self.size)

        if threads == 1:
            read_part(kept)
            return pixels
        length = max(ceil_div(len(kept), 2 * threads), 1)
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(read_part, (kept[start : start + length] for start in range(0, len(kept), length))))
        return pixels

    def tile_indices(self, min_tissue: float = 0.0) -> list[TileIndex]:
        """Return the kept tiles whose share of tissue is at least `min_tissue`, 0 to 1, in row-major order."""
        return [TileIndex(row, col) for row, col in np.argwhere(self.kept & (self.tissue >= min_tissue)).tolist()]

    def tiles(self, min_tissue: float = 0.0) -> Iterator[tuple[TileIndex, NDArray[np.uint8]]]:
        """Yield the kept tiles with enough tissue one after the other, each with its RGB pixels, (256, 256, 3).

        Memory bound: 64 tiles.

        Args:
            min_tissue: Least share of tissue, 0 to 1.
        """
        wanted = self.tile_indices(min_tissue)
        for start in range(0, len(wanted), _BATCH):
            batch = wanted[start : start + _BATCH]
            yield from zip(batch, self.read_tiles(batch), strict=True)

    def _kept_tiles(self, region: Region) -> list[TileIndex]:
        """Return the kept tiles that a region touches, shard by shard."""
        rows = slice(max(region.y // TILE, 0), max(ceil_div(region.y + region.height, TILE), 0))
        cols = slice(max(region.x // TILE, 0), max(ceil_div(region.x + region.width, TILE), 0))
        positions = np.argwhere(self.kept[rows, cols]) + np.array([rows.start, cols.start])
        return sorted((TileIndex(row, col) for row, col in positions.tolist()), key=_block_order)

    def _is_kept(self, tile: TileIndex) -> bool:
        rows, cols = self.kept.shape
        return 0 <= tile.row < rows and 0 <= tile.col < cols and bool(self.kept[tile])

    def _is_partial(self, tile: TileIndex) -> bool:
        return (tile.row + 1) * TILE > self.size.height or (tile.col + 1) * TILE > self.size.width


def _block_order(tile: TileIndex) -> tuple[BlockIndex, TileIndex]:
    return block_of(tile), tile


def _paste(source: NDArray[np.uint8], tile: TileIndex, pixels: NDArray[np.uint8], region: Region, size: Size) -> None:
    """Copy the part of a tile, (256, 256, 3), that lies within both the region and the slide."""
    x, y = tile.col * TILE, tile.row * TILE
    left, right = max(x, region.x), min(x + TILE, region.x + region.width, size.width)
    top, bottom = max(y, region.y), min(y + TILE, region.y + region.height, size.height)
    if left >= right or top >= bottom:  # the region lies beyond the slide's edge, within its last tile
        return
    target = pixels[top - region.y : bottom - region.y, left - region.x : right - region.x]
    part = source[top - y : bottom - y, left - x : right - x]
    if part.strides[-1] == 1:
        target[:] = part
    else:  # planes: one at a time is six times as fast as one transposed copy
        for channel in range(3):
            target[..., channel] = part[..., channel]
