"""The block file: one block of a normalized slide, ready to be copied into a pyramid. Knows no slides and no generator.

Format 1, integers little-endian:

    offset        bytes
    0             8    magic, b"WSIBLOCK"
    8             4    format version, uint32
    12            4    n, length of the index, uint32
    16            n    index, JSON in UTF-8
    16 + n        ...  payload: JPEG streams of levels 0 to 3 in index order, then the mip as a PNG
    last 32       32   SHA-256 of everything before it

The index is an object with

    size      [width, height] of the block at level 0, px; less than 4096 only at the slide's far edges
    quality   JPEG quality
    levels    for each of levels 0 to 3 {"shape": [rows, cols], "lengths": [rows * cols integers]}, row-major:
              bytes of each tile's stream; 0 means that the tile is glass, that is, the output's one shared glass tile
    mip       bytes of the PNG

Tile (row, col) of level k covers px [256 row, 256 row + 256) x [256 col, 256 col + 256) of that level, padded by
replication where the level ends inside it. Its stream is a complete baseline JPEG, YCbCr, no chroma subsampling.
Level k + 1 is (a + b + c + d + 2) >> 2 of level k's pixels as they were before JPEG; sides halve rounding up, an odd
edge is replicated. The mip holds level 4, lossless: coarser levels are made from mips. A block's side, 4096 px, is
16 tiles at level 0 and 1 at level 4, so tile and block borders coincide on all five levels.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from wsi_stain import journal
from wsi_stain.errors import OutputError
from wsi_stain.geometry import BLOCK, TILE, Size, grid_shape, halved
from wsi_stain.settings import Settings

LEVELS = 4
"""JPEG levels in a block file; the mip is the level after the last of them."""

_MAGIC, _VERSION = b"WSIBLOCK", 1
_HEAD = struct.Struct("<8sII")
_DIGEST_BYTES = 32

Pixels = NDArray[np.uint8]
Kept = NDArray[np.bool_]
Run = Callable[[Callable[[Pixels], bytes], Iterable[Pixels]], Iterable[bytes]]
"""Something like `map`: it keeps the order."""


class JpegConfig(Settings):
    """How pixels become JPEG.

    Attributes:
        quality: JPEG quality; 90 keeps about 41 dB on tissue.
    """

    quality: int = Field(default=90, ge=50, le=100)


def encode_jpeg(tile: Pixels, quality: int) -> bytes:
    """A tile, (256, 256, 3) RGB, as a complete JPEG stream: YCbCr, no chroma subsampling."""
    return bytes(
        imagecodecs.jpeg8_encode(tile, level=quality, colorspace="RGB", outcolorspace="YCBCR", subsampling="444")
    )


def halve(pixels: Pixels) -> Pixels:
    """The next coarser level, (ceil(h / 2), ceil(w / 2), 3): (a + b + c + d + 2) >> 2, an odd edge replicated."""
    return np.asarray(Image.fromarray(pixels).reduce(2))


def halve_kept(kept: Kept) -> Kept:
    """Which tiles of the next coarser level lie over at least one kept tile: (ceil(rows / 2), ceil(cols / 2))."""
    rows, cols = kept.shape
    even = np.pad(kept, ((0, rows % 2), (0, cols % 2)))
    return even[0::2, 0::2] | even[1::2, 0::2] | even[0::2, 1::2] | even[1::2, 1::2]


def write_block(
    path: Path,
    pixels: Pixels,
    kept: Kept,
    config: JpegConfig,
    run: Run = map,
) -> None:
    """Make the levels of a block and write its file, whole or not at all.

    Memory bound: `pixels`, a third of them again for the coarser levels, and the encoded bytes.

    Args:
        path: Where the file goes.
        pixels: Level 0, (h, w, 3) RGB, at most 4096 on a side; what is not kept holds the output's background.
        kept: (ceil(h / 256), ceil(w / 256)): tiles that are more than glass.
        config: JPEG settings.
        run: Applies the encoder to tiles in order: `map`, or a thread pool's `map`.

    Raises:
        OutputError: The file cannot be written.
    """
    height, width, _ = pixels.shape
    size = Size(width, height)
    assert max(size) <= BLOCK and kept.shape == grid_shape(size), (size, kept.shape)
    levels: list[dict[str, Any]] = []
    streams: list[bytes] = []
    for _level in range(LEVELS):
        encoded = list(run(lambda tile: encode_jpeg(tile, config.quality), _tiles(pixels, kept)))
        levels.append({"shape": list(kept.shape), "lengths": _lengths(kept, encoded)})
        streams += encoded
        pixels, kept = halve(pixels), halve_kept(kept)
    streams.append(bytes(imagecodecs.png_encode(pixels)))
    index = {"size": list(size), "quality": config.quality, "levels": levels, "mip": len(streams[-1])}
    journal.atomic_write(path, lambda file: _write(file, journal.canonical_json(index), streams))


def _tiles(pixels: Pixels, kept: Kept) -> Iterator[Pixels]:
    """The kept tiles, row-major, each (256, 256, 3) contiguous, padded by replication."""
    for row, col in np.argwhere(kept):
        tile = pixels[row * TILE : (row + 1) * TILE, col * TILE : (col + 1) * TILE]
        missing = [(0, TILE - tile.shape[0]), (0, TILE - tile.shape[1]), (0, 0)]
        yield np.pad(tile, missing, mode="edge")


def _lengths(kept: Kept, encoded: list[bytes]) -> list[int]:
    lengths = np.zeros(kept.size, np.int64)
    lengths[kept.ravel()] = [len(stream) for stream in encoded]
    return [int(length) for length in lengths]


def _write(file: BinaryIO, index: bytes, streams: list[bytes]) -> None:
    digest = hashlib.sha256()
    for piece in (_HEAD.pack(_MAGIC, _VERSION, len(index)), index, *streams):
        digest.update(piece)
        file.write(piece)
    file.write(digest.digest())


class BlockFile:
    """A block file open for reading; a context manager. Reads by offset, so threads may share it.

    Args:
        path: The file.

    Raises:
        OutputError: There is no such file, or it is not a whole block file of a version known here.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._handle = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise self._damaged(error.strerror or str(error)) from error
        try:
            self._read_index()
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, path: Path) -> BlockFile:
        """Open a block file; raises OutputError where there is none."""
        return cls(path)

    def __enter__(self) -> BlockFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; reading is over."""
        os.close(self._handle)

    @property
    def size(self) -> Size:
        """Width and height of the block at level 0, px."""
        return self._size

    @property
    def quality(self) -> int:
        """The quality its JPEG tiles were encoded with."""
        return self._quality

    def shape(self, level: int) -> tuple[int, int]:
        """(rows, cols) of the tile grid of a level, 0 to 3."""
        return self._shapes[level]

    def tile(self, level: int, row: int, col: int) -> bytes:
        """The JPEG stream of a tile, by its place within the block; b"" stands for the output's shared glass tile."""
        rows, cols = self._shapes[level]
        if not (0 <= row < rows and 0 <= col < cols):
            raise IndexError(f"tile ({row}, {col}) of level {level} in a grid of {rows} x {cols}")
        first = self._starts[level] + row * cols + col
        return self._pread(self._offsets[first], self._offsets[first + 1])

    @property
    def mip(self) -> Pixels:
        """The pixels of level 4, (ceil(h / 16), ceil(w / 16), 3) RGB, exact."""
        png = self._pread(self._offsets[-2], self._offsets[-1])
        return np.asarray(imagecodecs.png_decode(png), dtype=np.uint8)

    def verify(self) -> None:
        """Read the whole file and compare its checksum.

        Raises:
            OutputError: The bytes are not those that were written.
        """
        content = self._pread(0, self._offsets[-1] + _DIGEST_BYTES)
        if hashlib.sha256(content[:-_DIGEST_BYTES]).digest() != content[-_DIGEST_BYTES:]:
            raise self._damaged("its checksum differs")

    def _read_index(self) -> None:
        head = os.pread(self._handle, _HEAD.size, 0)
        if len(head) < _HEAD.size or head[: len(_MAGIC)] != _MAGIC:
            raise self._damaged("it does not begin like a block file")
        _, version, length = _HEAD.unpack(head)
        if version != _VERSION:
            raise self._damaged(f"it has format version {version}, and this software reads {_VERSION}")
        try:
            self._take_index(json.loads(self._pread(_HEAD.size, _HEAD.size + length)), _HEAD.size + length)
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged("its index cannot be read") from error
        if os.fstat(self._handle).st_size != self._offsets[-1] + _DIGEST_BYTES:
            raise self._damaged("its length is not what its index says")

    def _take_index(self, index: dict[str, Any], payload: int) -> None:
        width, height = index["size"]
        self._size, self._quality = Size(width, height), int(index["quality"])
        self._shapes = [(rows, cols) for rows, cols in (level["shape"] for level in index["levels"])]
        if self._shapes != _shapes(self._size):
            raise ValueError("the grids do not fit the size")
        tables = [level["lengths"] for level in index["levels"]]
        if any(len(table) != rows * cols for table, (rows, cols) in zip(tables, self._shapes, strict=True)):
            raise ValueError("a grid and its lengths differ")
        self._starts = list(accumulate(map(len, tables[:-1]), initial=0))
        lengths = [length for table in tables for length in table]
        self._offsets = list(accumulate([*lengths, index["mip"]], initial=payload))

    def _pread(self, start: int, end: int) -> bytes:
        content = os.pread(self._handle, end - start, start)
        if len(content) != end - start:
            raise self._damaged("it ends too early")
        return content

    def _damaged(self, what: str) -> OutputError:
        return OutputError(f"{self.path} is not a whole block file: {what}", "Delete it and run the same command again")


def _shapes(size: Size) -> list[tuple[int, int]]:
    """The tile grids of levels 0 to 3 of a block of `size`."""
    shapes = []
    for _level in range(LEVELS):
        shapes.append(grid_shape(size))
        size = halved(size)
    return shapes
