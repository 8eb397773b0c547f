"""The block file: one block of a normalized slide, ready to be copied into a pyramid. Knows no slides or generator.

JPEG tiles of levels 0 to 3 and a lossless level 4, with an index and a checksum: format 3, specified in
docs/block-file.md.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, islice
from pathlib import Path
from typing import Literal

import google_crc32c
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wsi_stain.core import journal
from wsi_stain.core.arrays import Mask, RgbImage, RgbxImage
from wsi_stain.core.errors import OutputError
from wsi_stain.core.geometry import BLOCK, TILE, Size, TileIndex, grid_shape, halve_size
from wsi_stain.core.records import StrictRecord

LEVELS = 4
"""JPEG levels in a block file; the mip is the level after the last of them."""

VERSION = 3
"""The format's version."""

_STRIP = 32
"""Rows that are halved at a time, so that sums stay in the processor's cache."""

_HALVES, _BYTES = np.uint64(0x0002_0002_0002_0002), np.uint64(0x00FF_00FF_00FF_00FF)
"""Of each of a word's four sums: what rounds it, and what its quarter takes."""

_MAGIC = b"WSIBLOCK"
_HEAD = struct.Struct("<8sII")
_CRC = struct.Struct("<I")

OrderedMap = Callable[[Callable[[RgbImage], bytes], Iterable[RgbImage]], Iterable[bytes]]
"""Something like `map`: it keeps the order."""


class JpegConfig(StrictRecord):
    """Settings of JPEG.

    Attributes:
        quality: JPEG quality; 90 keeps about 41 dB on tissue.
        subsampling: 444 keeps colour at every pixel, 420 one colour for four pixels: smaller, and blurs stain edges.
    """

    quality: int = Field(default=90, ge=50, le=100)
    subsampling: Literal[444, 420] = 444


def encode_jpeg(tile: RgbImage | RgbxImage, quality: int, subsampling: int = 444) -> bytes:
    """Encode a tile, (256, 256, 3 or 4), as a complete JPEG stream, YCbCr, with subsampling 444 (none) or 420."""
    colours = "RGB" if tile.shape[-1] == 3 else "RGBA"
    return bytes(
        imagecodecs.jpeg8_encode(
            tile, level=quality, colorspace=colours, outcolorspace="YCBCR", subsampling=str(subsampling)
        )
    )


def halve(pixels: RgbImage | RgbxImage) -> RgbImage | RgbxImage:
    """Halve a level to (ceil(h / 2), ceil(w / 2), 3 or 4): (a + b + c + d + 2) >> 2, an odd edge replicated."""
    height, width, channels = pixels.shape
    if height % 2 or width % 2:
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    out = np.empty((len(pixels) // 2, pixels.shape[1] // 2, channels), np.uint8)
    for top in range(0, len(out), _STRIP):
        strip, rows = out[top : top + _STRIP], pixels[2 * top : 2 * (top + _STRIP)]
        pairs = np.add(rows[0::2], rows[1::2], dtype=np.uint16)
        if channels == 4:
            _halve_words(pairs.view(np.uint64)[..., 0], strip)
            continue
        pairs = pairs.reshape(*strip.shape[:2], 6)
        for channel in range(3):
            strip[..., channel] = (pairs[..., channel] + pairs[..., 3 + channel] + 2) >> 2
    return out


def _halve_words(pairs: NDArray[np.uint64], out: RgbxImage) -> None:
    """Finish with pixels as words of four sums, (h, 2 w), none of which comes near to the next: (h, w, 4)."""
    sums = pairs[:, 0::2] + pairs[:, 1::2]
    sums += _HALVES
    sums >>= np.uint64(2)
    sums &= _BYTES
    out[:] = sums.view(np.uint16).reshape(out.shape)


def halve_kept(kept: Mask) -> Mask:
    """Mark the tiles of the next coarser level that lie over a kept tile: (ceil(rows / 2), ceil(cols / 2))."""
    rows, cols = kept.shape
    even = np.pad(kept, ((0, rows % 2), (0, cols % 2)))
    return even[0::2, 0::2] | even[1::2, 0::2] | even[0::2, 1::2] | even[1::2, 1::2]


def write_block(
    path: Path, pixels: RgbImage | RgbxImage, kept: Mask, config: JpegConfig, run: OrderedMap = map
) -> journal.FileFacts:
    """Make the levels of a block and write its file, whole or not at all.

    Memory bound: `pixels`, a third of them again for the coarser levels, and the encoded bytes.

    Args:
        path: Where the file goes.
        pixels: Level 0, (h, w, 3 or 4), at most 4096 on a side; what is not kept holds the output's background.
        kept: (ceil(h / 256), ceil(w / 256)): tiles that are more than glass.
        config: JPEG settings.
        run: Applies the encoder to tiles in order: `map`, or a thread pool's `map`.

    Returns:
        The facts of the file.

    Raises:
        OutputError: The file cannot be written.
    """
    height, width, _ = pixels.shape
    finest = _encode_tiles(pixels, kept, config, run)
    return finish_block(path, Size(width, height), kept, config, finest, halve(pixels), run)


def finish_block(
    path: Path,
    size: Size,
    kept: Mask,
    config: JpegConfig,
    finest: list[bytes],
    half: RgbImage | RgbxImage,
    run: OrderedMap = map,
) -> journal.FileFacts:
    """Do what `write_block` does, of a block whose finest level is encoded.

    Args:
        path: Where the file goes.
        size: Width and height of level 0, px.
        kept: Its tiles that are more than glass.
        config: JPEG settings.
        finest: The streams of those tiles, row-major.
        half: Level 1, as `halve` makes it.
        run: As `write_block` takes it.
    """
    assert max(size) <= BLOCK and kept.shape == grid_shape(size), (size, kept.shape)
    tables, streams = [_tile_lengths(kept, finest)], list(finest)
    levels = block_levels(half, halve_kept(kept))
    for pixels, level_kept in islice(levels, LEVELS - 1):
        encoded = _encode_tiles(pixels, level_kept, config, run)
        tables.append(_tile_lengths(level_kept, encoded))
        streams += encoded
    mip, _ = next(levels)
    streams.append(bytes(imagecodecs.qoi_encode(np.ascontiguousarray(mip[..., :3]))))
    index = {"size": list(size), "jpeg": config.model_dump(), "levels": tables, "mip": len(streams[-1])}
    return journal.write_hashed(path, lambda file: _write(file, journal.canonical_json(index), streams))


def block_levels(pixels: RgbImage | RgbxImage, kept: Mask) -> Iterator[tuple[RgbImage | RgbxImage, Mask]]:
    """Yield a level of a block and the four coarser ones: each one's pixels, and its tiles that are more than glass."""
    yield pixels, kept
    for _coarser in range(LEVELS):
        pixels, kept = halve(pixels), halve_kept(kept)
        yield pixels, kept


def _encode_tiles(pixels: RgbImage | RgbxImage, kept: Mask, config: JpegConfig, run: OrderedMap) -> list[bytes]:
    tiles = block_tiles(pixels, kept).values()
    return list(run(lambda tile: encode_jpeg(tile, config.quality, config.subsampling), tiles))


def block_tiles(pixels: RgbImage | RgbxImage, kept: Mask) -> dict[TileIndex, RgbImage | RgbxImage]:
    """Cut one level of a block into its kept tiles, row-major, each (256, 256, 3 or 4): views, or padded at the end."""
    indices = (TileIndex(int(row), int(col)) for row, col in np.argwhere(kept))
    return {index: pad_tile(pixels[index.row * TILE :, index.col * TILE :][:TILE, :TILE]) for index in indices}


def pad_tile(pixels: RgbImage | RgbxImage) -> RgbImage | RgbxImage:
    """Pad at most (256, 256, 3 or 4) to a whole tile, the last row and column replicated."""
    height, width, _ = pixels.shape
    if (height, width) == (TILE, TILE):
        return pixels
    return np.pad(pixels, ((0, TILE - height), (0, TILE - width), (0, 0)), mode="edge")


def _tile_lengths(kept: Mask, encoded: list[bytes]) -> list[int]:
    lengths = np.zeros(kept.size, np.int64)
    lengths[kept.ravel()] = [len(stream) for stream in encoded]
    return [int(length) for length in lengths]


def _write(file: journal.HashedFile, index: bytes, streams: list[bytes]) -> None:
    checksum = 0
    for piece in (_HEAD.pack(_MAGIC, VERSION, len(index)), index, *streams):
        checksum = google_crc32c.extend(checksum, piece)
        file.write(piece)
    file.write(_CRC.pack(checksum))


class BlockFile:
    """A block file, read whole and checked. Memory bound: the file, some 10 MB at 4096 x 4096 px.

    Args:
        path: The file.

    Attributes:
        mip: The pixels of level 4, (ceil(h / 16), ceil(w / 16), 3) RGB, exact.

    Raises:
        OutputError: There is no such file, or its bytes are not those that were written, or of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._content = file.read(max(0, path.stat().st_size - _CRC.size))
                end = file.read()
        except OSError as error:
            raise self._damage_error(error.strerror or str(error)) from error
        self._check(end)
        try:
            self._read_index()
        except (KeyError, TypeError, ValueError) as error:
            raise self._damage_error("its index cannot be read") from error

    @property
    def size(self) -> Size:
        """Width and height of the block at level 0, px."""
        return self._size

    @property
    def jpeg(self) -> JpegConfig:
        """Settings that its JPEG tiles were encoded with."""
        return self._jpeg

    def shape(self, level: int) -> tuple[int, int]:
        """Return (rows, cols) of the tile grid of a level, 0 to 3."""
        return self._shapes[level]

    def lengths(self, level: int) -> NDArray[np.int64]:
        """Count the bytes of each tile's stream of a level, (rows, cols); 0 stands for the shared glass tile."""
        return self._tile_lengths[level]

    def streams(self, level: int) -> memoryview:
        """Return the JPEG streams of a level, row-major, without gaps."""
        return memoryview(self._content)[self._starts[level] : self._starts[level + 1]]

    def tile(self, level: int, row: int, col: int) -> bytes:
        """Return the JPEG stream of a tile, by its index within the block; b"" stands for the shared glass tile."""
        rows, cols = self._shapes[level]
        if not (0 <= row < rows and 0 <= col < cols):
            raise IndexError(f"tile ({row}, {col}) of level {level} in a grid of {rows} x {cols}")
        start = int(self._tile_lengths[level].ravel()[: row * cols + col].sum())
        return bytes(self.streams(level)[start : start + int(self._tile_lengths[level][row, col])])

    def _check(self, end: bytes) -> None:
        if len(self._content) < _HEAD.size or self._content[: len(_MAGIC)] != _MAGIC:
            raise self._damage_error("it does not begin like a block file")
        _, version, _ = _HEAD.unpack_from(self._content)
        if version != VERSION:
            raise self._damage_error(f"it has format version {version}, and this software reads {VERSION}")
        if _CRC.pack(google_crc32c.value(self._content)) != end:
            raise self._damage_error("its checksum differs")

    def _read_index(self) -> None:
        _, _, length = _HEAD.unpack_from(self._content)
        index = json.loads(self._content[_HEAD.size : _HEAD.size + length])
        width, height = index["size"]
        self._size, self._jpeg = Size(width, height), JpegConfig.model_validate(index["jpeg"])
        self._shapes = _shapes(self._size)
        self._tile_lengths = [
            np.array(table, np.int64).reshape(shape) for table, shape in zip(index["levels"], self._shapes, strict=True)
        ]
        totals = (int(lengths.sum()) for lengths in self._tile_lengths)
        self._starts = list(accumulate(totals, initial=_HEAD.size + length))
        if self._starts[-1] + index["mip"] != len(self._content):
            raise ValueError("the lengths do not add up")
        self.mip: RgbImage = imagecodecs.qoi_decode(self._content[self._starts[-1] :])

    def _damage_error(self, what: str) -> OutputError:
        return OutputError(f"{self.path} is not a whole block file: {what}", "Run the same command again")


def _shapes(size: Size) -> list[tuple[int, int]]:
    """Return the tile grids of levels 0 to 3 of a block of `size`."""
    shapes = []
    for _level in range(LEVELS):
        shapes.append(grid_shape(size))
        size = halve_size(size)
    return shapes
