"""The bytes of one Zarr v3 shard of tiles, written and read without zarr. Knows no slides or metadata.

A shard is the encoded chunks, one after the other, and at the end an index: for each chunk of the shard, in row-major
order, its (offset, size) as little-endian uint64, both 2^64-1 where the chunk is absent; then the CRC-32C of the index
(Zarr v3 codecs `sharding_indexed`, `bytes`, `crc32c`, version 1.0). A chunk is one tile (see `chunks`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.errors import StoreError
from wsi_stain.core.geometry import TILE, TILES_PER_BLOCK, TileIndex
from wsi_stain.core.journal import HashedFile
from wsi_stain.core.storage import StoragePath, open_file
from wsi_stain.formats.zarr_chunks import CODECS, TileCodec, with_checksum, without_checksum

CHUNK_SHAPE = (3, TILE, TILE)
INDEX_BYTES = TILES_PER_BLOCK**2 * 16 + 4
"""Size of the index with its checksum, at the end of every shard."""

REMEDY = "Remove the slide's folder from the tile store and run the same command again"
"""What helps against every damage in a store."""

_ABSENT = 2**64 - 1


def write_shard(
    file: BinaryIO | HashedFile,
    tiles: Mapping[TileIndex, NDArray[np.uint8]],
    side: int = TILES_PER_BLOCK,
    fill_tile: NDArray[np.uint8] | None = None,
    codec: TileCodec = CODECS["lossless"],
) -> None:
    """Write a shard.

    Args:
        file: Open for writing, at its beginning.
        tiles: RGB tiles, (256, 256, 3), by their index in the shard or in the slide's tile grid. They are written in
            the order of their indices, so that equal tiles make equal bytes.
        side: Rows and columns of tiles in the shard.
        fill_tile: The tile at every other index, stored once and first, which all of these share in the index; by
            default the chunks there are absent.
        codec: How they are compressed.
    """
    index = np.full((side, side, 2), _ABSENT, "<u8")
    offset = 0
    if fill_tile is not None:
        chunk = codec.encode(fill_tile)
        file.write(chunk)
        offset = len(chunk)
        index[:] = 0, offset
    for tile in sorted(tiles):
        chunk = codec.encode(tiles[tile])
        index[tile.row % side, tile.col % side] = offset, len(chunk)
        file.write(chunk)
        offset += len(chunk)
    file.write(with_checksum(index.tobytes()))


class ShardFile:
    """An open shard, a context manager. Reads at positions only, so that threads may share it.

    Args:
        path: The shard.
        codec: How its tiles are compressed.

    Raises:
        StoreError: The file cannot be opened.
    """

    def __init__(self, path: StoragePath, codec: TileCodec = CODECS["lossless"]) -> None:
        self.path, self.codec = path, codec
        try:
            self._file = open_file(path)
        except OSError as error:
            raise self._unreadable_error(error) from error

    def __enter__(self) -> ShardFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read_index(self) -> NDArray[np.uint64]:
        """Read the shard's index.

        Returns:
            (16, 16, 2): offset and size of each chunk, bytes.

        Raises:
            StoreError: The shard is missing, or its index is damaged or points outside the chunks.
        """
        try:
            end, size = self._file.read_end(INDEX_BYTES)
            slots = np.frombuffer(without_checksum(end), "<u8").reshape(TILES_PER_BLOCK, TILES_PER_BLOCK, 2)
        except OSError as error:
            raise self._unreadable_error(error) from error
        except ValueError as error:
            raise StoreError(f"{self.path} is damaged in its index: {error}", REMEDY) from error
        room = np.uint64(size - INDEX_BYTES)
        offsets, sizes = slots[slots[..., 0] != _ABSENT].T
        if np.any(offsets > room) or np.any(sizes > room - offsets):
            raise StoreError(f"{self.path} is damaged in its index: it points beyond the chunks", REMEDY)
        return slots

    def read_tiles(self, tiles: Sequence[TileIndex], index: NDArray[np.uint64]) -> Iterator[NDArray[np.uint8]]:
        """Yield RGB of each tile in turn, (256, 256, 3), perhaps a transposed view.

        Args:
            tiles: By their index in the shard or in the slide's tile grid.
            index: The shard's.

        Raises:
            StoreError: A tile is absent or damaged.
        """
        chunks = self._file.read_ranges([self._range(tile, index) for tile in tiles])
        for tile in tiles:
            try:
                yield self.codec.decode(next(chunks))
            except OSError as error:
                raise self._unreadable_error(error) from error
            except ValueError as error:
                where = f"the tile at row {tile.row}, column {tile.col}"
                raise StoreError(f"{self.path} is damaged at {where}: {error}", REMEDY) from error

    def _range(self, tile: TileIndex, index: NDArray[np.uint64]) -> tuple[int, int]:
        offset, size = index[tile.row % TILES_PER_BLOCK, tile.col % TILES_PER_BLOCK].tolist()
        if offset == _ABSENT:
            raise StoreError(f"{self.path} lacks the tile at row {tile.row}, column {tile.col}", REMEDY)
        return offset, size

    def _unreadable_error(self, error: OSError) -> StoreError:
        return StoreError(f"{self.path} cannot be read: {error.strerror}", REMEDY)
