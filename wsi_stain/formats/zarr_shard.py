"""The bytes of one Zarr v3 shard of tiles, and of the chunks in it, written and read without zarr. Knows no slides.

A shard is the encoded chunks, one after the other, and at the end an index: for each chunk of the shard, in row-major
order, its (offset, size) as little-endian uint64, both 2^64-1 where the chunk is absent; then the CRC-32C of the index
(Zarr v3 codecs `sharding_indexed`, `bytes`, `crc32c`, version 1.0). A chunk is one tile.

Every chunk ends in its own CRC-32C: LZ4 alone would turn a flipped bit into other pixels without a word, and so would
JPEG. With the codecs stands the Zarr v3 metadata that says how a chunk was made.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, ClassVar, Literal

import google_crc32c
import imagecodecs
import numcodecs.blosc
import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.errors import StoreError
from wsi_stain.core.geometry import TILE, TILES_PER_BLOCK, TileIndex
from wsi_stain.core.journal import HashedFile
from wsi_stain.core.storage import StoragePath, open_file

CRC: dict[str, Any] = {"name": "crc32c"}
"""What `with_checksum` does, in Zarr's words."""

BLOSC: dict[str, Any] = {
    "name": "blosc",
    "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "bitshuffle", "typesize": 1, "blocksize": 0},
}
"""What `encode` does before the checksum. About 0.7 GB/s in and 1 GB/s out on one core."""

_LEVEL: int = BLOSC["configuration"]["clevel"]

_RESIDUE = 0x48674BC7
"""CRC-32C of everything that ends in its own CRC-32C, whatever it is: the residue of the checksum's polynomial."""

TILE_BYTES = 3 * TILE**2
"""Size of a tile's pixels."""

CodecName = Literal["lossless", "jpeg", "source"]

Tile = NDArray[np.uint8] | bytes
"""RGB of a tile, (256, 256, 3); for a codec of JPEG also the JPEG file that is to be its chunk."""

# Blosc's own threads share global state, which forks and threads of ours would meet. Without them it frees the GIL.
numcodecs.blosc.use_threads = False


def encode(values: NDArray[Any]) -> bytes:
    """Compress an array's bytes in C order, and append their checksum."""
    return with_checksum(_compress(np.ascontiguousarray(values).view(np.uint8).reshape(-1), _LEVEL))


def _compress(flat: NDArray[np.uint8], level: int) -> bytes:
    """Compress by Blosc; level 0 copies, in a frame that says so."""
    method = BLOSC["configuration"]["cname"].encode()
    return bytes(numcodecs.blosc.compress(flat, method, level, numcodecs.blosc.BITSHUFFLE))


def decode(chunk: bytes, size: int) -> NDArray[np.uint8]:
    """Decompress a chunk that must hold exactly `size` bytes; 1-D.

    Raises:
        ValueError: The chunk is damaged.
    """
    packed = without_checksum(chunk)
    if len(packed) < 16 or struct.unpack_from("<I4xI", packed, 4) != (size, len(packed)):
        raise ValueError("the header of a chunk does not fit its size")
    values = np.empty(size, np.uint8)
    try:
        numcodecs.blosc.decompress(packed, values)
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    return values


class TileCodec(ABC):
    """Codec between a tile and its chunk of a (3, height, width) image.

    Attributes:
        name: What a configuration calls it.
        share: About what part of their raw bytes a slide's tiles take.
        is_planar: Whether it stores red, green and blue one after the other; a tile that lies so is not copied.
        zarr: The chunk's codecs as Zarr v3 metadata.
    """

    name: ClassVar[CodecName]
    is_planar: ClassVar[bool]
    share: ClassVar[float]
    zarr: ClassVar[list[dict[str, Any]]]

    @abstractmethod
    def encode(self, tile: NDArray[np.uint8]) -> bytes:
        """Encode an RGB tile, (256, 256, 3), as a chunk."""

    @abstractmethod
    def decode(self, chunk: bytes) -> NDArray[np.uint8]:
        """Decode an RGB tile, (256, 256, 3), perhaps a transposed view; ValueError where the chunk is damaged."""


_PROBE = slice(TILE_BYTES // 2 - 8192, TILE_BYTES // 2 + 8192)
"""The middle of green, by which it is told how well a tile compresses: correlated at 0.99 on a real slide."""

_WORTH = 0.9


class Lossless(TileCodec):
    """Planar, as the image's axes are, compressed with LZ4 after bitshuffle where that saves a tenth, else copied.

    Two thirds of a real slide's tiles at 0.25 um/px are copied: the slide takes 4.5 % more, and they are neither
    compressed nor decompressed, 0.1 and 0.07 ms a tile.
    """

    name, is_planar = "lossless", True
    share = 0.85
    zarr: ClassVar[list[dict[str, Any]]] = [{"name": "bytes"}, BLOSC, CRC]

    def encode(self, tile: NDArray[np.uint8]) -> bytes:
        flat = np.ascontiguousarray(tile.transpose(2, 0, 1)).reshape(-1)
        is_worth = len(_compress(flat[_PROBE], _LEVEL)) < _WORTH * len(flat[_PROBE])
        return with_checksum(_compress(flat, _LEVEL if is_worth else 0))

    def decode(self, chunk: bytes) -> NDArray[np.uint8]:
        return decode(chunk, TILE_BYTES).reshape(3, TILE, TILE).transpose(1, 2, 0)


def _jpeg_codecs(**settings: Any) -> list[dict[str, Any]]:
    """Return a chunk's codecs where it is JPEG.

    Args:
        settings: How pixels are encoded, by the names of imagecodecs' `jpeg8_encode`.
    """
    return [
        {"name": "transpose", "configuration": {"order": [1, 2, 0]}},
        {"name": "imagecodecs_jpeg", "configuration": settings},
        CRC,
    ]


class Jpeg(TileCodec):
    """JPEG of quality 95 without chroma subsampling: about an eighth of the lossless size, PSNR about 43 dB."""

    name: ClassVar[CodecName] = "jpeg"
    is_planar = False
    share = 0.13
    zarr: ClassVar[list[dict[str, Any]]] = _jpeg_codecs(level=95, subsampling="444")

    def encode(self, tile: NDArray[np.uint8]) -> bytes:
        settings = self.zarr[1]["configuration"]
        return with_checksum(bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(tile), **settings)))

    def decode(self, chunk: bytes) -> NDArray[np.uint8]:
        try:
            tile: NDArray[np.uint8] = imagecodecs.jpeg8_decode(bytes(without_checksum(chunk)))
        except imagecodecs.Jpeg8Error as error:
            raise ValueError(str(error)) from error
        if tile.shape != (TILE, TILE, 3):
            raise ValueError(f"expected a tile of {TILE} x {TILE} px, found {tile.shape}")
        return tile


class Source(Jpeg):
    """The JPEG files that the slide's own tiles are: nothing is encoded, and nothing lost.

    What is given as pixels, since the slide lacks a sound tile there, becomes a lossless JPEG (ITU-T T.81 annex H).
    """

    name = "source"
    share = 0.08
    zarr: ClassVar[list[dict[str, Any]]] = _jpeg_codecs(lossless=True)


CODECS: dict[CodecName, TileCodec] = {codec.name: codec for codec in (Lossless(), Jpeg(), Source())}


def with_checksum(content: bytes) -> bytes:
    """Append the content's CRC-32C, little-endian."""
    return content + struct.pack("<I", google_crc32c.value(content))


def without_checksum(content: bytes) -> memoryview:
    """Return the content before the checksum; ValueError where that is wrong."""
    if google_crc32c.value(content) != _RESIDUE:
        raise ValueError("the checksum is wrong")
    return memoryview(content)[:-4]


CHUNK_SHAPE = (3, TILE, TILE)
INDEX_BYTES = TILES_PER_BLOCK**2 * 16 + 4
"""Size of the index with its checksum, at the end of every shard."""

REMEDY = "Remove the slide's folder from the tile store and run the same command again"
"""What helps against every damage in a store."""

_ABSENT = 2**64 - 1


def write_shard(
    file: BinaryIO | HashedFile,
    tiles: Mapping[TileIndex, Tile],
    side: int = TILES_PER_BLOCK,
    fill_tile: NDArray[np.uint8] | None = None,
    codec: TileCodec = CODECS["lossless"],
) -> None:
    """Write a shard.

    Args:
        file: Open for writing, at its beginning.
        tiles: By their index in the shard or in the slide's tile grid. They are written in the order of their indices,
            so that equal tiles make equal bytes.
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
        content = tiles[tile]
        chunk = with_checksum(content) if isinstance(content, bytes) else codec.encode(content)
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
