"""Pixels that a level of a slide file has itself, in the file's own colours. Knows no colour profile or resolution.

Plain JPEG tiles are decoded straight from the file, exact at any level; all else by the slide's reader.

OpenSlide spends more on its way over RGBA than on JPEG itself. Where a level is one directory of JPEG tiles side by
side, its pixels are those of the tiles, and libjpeg-turbo gives the very values that OpenSlide gives: the largest
difference is 0, in RGB and YCbCr, 4:4:4, 4:2:2 and 4:2:0 (tested on real and on made files). Only plain Aperio and
generic TIFF layouts are taken; other vendors lay their tiles with gaps or overlaps. Whatever else is unusual is left to
OpenSlide, which says what it shows and whether it is an error: a level, or a single tile that is missing or of which
the decoder says as much as a warning. So no tile is shown that OpenSlide would refuse.

Memory bound: beside the pixels returned, one piece of `_PIECE` pixels in RGBA; the decoded tiles under one row of a
block, at most 24 MiB, so that a block read row by row over tiles of another size decodes each once; and for each tile
of the file 16 B, its offset and length.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.arrays import window
from wsi_stain.core.errors import UnreadableError
from wsi_stain.core.geometry import BLOCK, Region, Size, ceil_div, split_on_grid
from wsi_stain.slides.claims import PLAIN_VENDORS
from wsi_stain.slides.levels.level import AbsentTiles, Level
from wsi_stain.slides.readers.base import SlideReader
from wsi_stain.slides.remedies import DAMAGED
from wsi_stain.slides.tiff.directories import TiffDirectory
from wsi_stain.slides.tiff.tiles import TiffTiles

_PIECE = Size(4096, 512)


class OwnPixels:
    """The pixels of an open slide, level by level.

    Args:
        reader: The slide's, which whoever opened it closes.

    Attributes:
        path: The slide's file.
        absent: The tiles that were never written.
        lacks_tiles: Whether there may be others whose places are not known, which the reader cannot decode.
    """

    def __init__(self, reader: SlideReader) -> None:
        self.path = reader.path
        directories, vendor = reader.claims.directories, reader.properties["openslide.vendor"]
        self.absent = AbsentTiles(reader.claims)
        self.lacks_tiles = reader.claims.lacks_tiles
        self._reader = reader
        self._hidden = self.absent.hidden_levels(vendor)
        self._tifffile: dict[int, TiffTiles] = {}
        self._jpeg_tiles: JpegTiles | None = None
        if isinstance(self.path, Path) and vendor in PLAIN_VENDORS:
            self._jpeg_tiles = JpegTiles(self.path, vendor, directories)

    def close(self) -> None:
        """Release what was opened beside the slide's reader."""
        if self._jpeg_tiles is not None:
            self._jpeg_tiles.close()
        for tiles in self._tifffile.values():
            tiles.close()

    def read(self, level: Level, region_level: Region) -> NDArray[np.uint8]:
        """Read what a level has itself, (height, width, 3).

        Raises:
            UnreadableError: It lacks a part, or one cannot be decoded.
            SlideError: The file can no longer be opened.
        """
        out = np.empty((region_level.height, region_level.width, 3), np.uint8)
        for piece in self.paste(level, region_level, out):
            if self.absent.touch(level, piece):
                raise UnreadableError(f"{self.path} lacks tiles at level {level.number}", DAMAGED)
            window(out, region_level, piece)[:] = self.decode(level, piece)
        return out

    def paste(self, level: Level, region_level: Region, out: NDArray[np.uint8]) -> Iterator[Region]:
        """Fill in a region's plain JPEG tiles, and yield what is left in pieces that `decode` takes."""
        jpeg_tiles = self._jpeg_tiles
        left = [region_level] if jpeg_tiles is None else jpeg_tiles.paste(level.number, region_level, out)
        for part in left:
            yield from split_on_grid(part, _PIECE)

    def tile_size(self, level: Level) -> Size | None:
        """Return the size of a level's plain JPEG tiles, px; None where it has none."""
        return None if self._jpeg_tiles is None else self._jpeg_tiles.size(level.number)

    def read_jpeg(self, level: Level, place: Region) -> JpegTile | None:
        """Read a plain JPEG tile of a level as it is; None where it is missing or not quite sound."""
        return None if self._jpeg_tiles is None else self._jpeg_tiles.read(level.number, place)

    def decode(self, level: Level, piece: Region) -> NDArray[np.uint8]:
        """Decode a piece.

        Raises:
            UnreadableError: It cannot be decoded.
            SlideError: The file can no longer be opened.
        """
        if level.number in self._hidden:
            return self._hidden_tiles(level.number).read(piece)
        return self._reader.read(level.number, piece)

    def _hidden_tiles(self, number: int) -> TiffTiles:
        if number not in self._tifffile:
            assert isinstance(self.path, Path)
            self._tifffile[number] = TiffTiles(self.path, self._hidden[number])
        return self._tifffile[number]


try:
    import simplejpeg
except ImportError:  # no wheel for this platform: OpenSlide reads everything
    simplejpeg = None

_JPEG = 7
_TRANSFORMS = {2: 0, 6: 1}
"""Adobe's colour transform (none, YCbCr) by the tag PhotometricInterpretation (TIFF 6.0): RGB, YCbCr."""

_HELD_BYTES = 24 * 2**20
_MAX_TILE_PIXELS = 1024 * 1024
_MAX_BYTES_A_PIXEL = 8
_MAX_OFFSET = 2**62

_SOI = b"\xff\xd8"
_SOS = 0xDA
_FRAMES = {0xC0, 0xC1, 0xC2}
_APPLICATION = {*range(0xE0, 0xF0), 0xFE}


class JpegTile(NamedTuple):
    """A tile of a slide's file.

    Attributes:
        stream: A JPEG file of its own, whose coefficients are the slide's.
        pixels: What it shows, RGB, (height, width, 3): of a tile at a far edge beyond the slide as well.
    """

    stream: bytes
    pixels: NDArray[np.uint8]


class _Level(NamedTuple):
    """Offsets of the tiles of one level in the file, and their coding."""

    columns: int
    tile: Size
    offsets: NDArray[np.uint64]
    counts: NDArray[np.uint64]
    header: bytes
    """What a tile needs before it to be a JPEG file of its own: colour transform and shared tables."""

    def place_at(self, part: Region) -> Region:
        """Return the place, in pixels of the level, of the tile that a part begins in."""
        return Region(part.x - part.x % self.tile.width, part.y - part.y % self.tile.height, *self.tile)


class JpegTiles:
    """The JPEG tiles of an open slide. Reads at positions only, so that threads may share it.

    Args:
        path: The slide's file.
        vendor: OpenSlide's name for its format.
        directories: Of each of OpenSlide's levels the one directory that holds it; None where that is not known.
    """

    def __init__(self, path: Path, vendor: str, directories: Sequence[TiffDirectory | None]) -> None:
        taken = simplejpeg is not None and vendor in PLAIN_VENDORS
        self._levels = [_level(matching) if taken and matching is not None else None for matching in directories]
        cached_tiles = [_cached_tiles(level.tile) for level in self._levels if level is not None]
        self._held_tile = lru_cache(min(cached_tiles, default=1))(self._decode_apart)
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 held until `close`

    def close(self) -> None:
        """Release the file and the tiles held."""
        self._file.close()
        self._held_tile.cache_clear()

    def paste(self, number: int, region_level: Region, out: NDArray[np.uint8]) -> list[Region]:
        """Fill in the pixels of a region of a level, as far as its tiles can be decoded here.

        Args:
            number: The level.
            region_level: Within the level, in its own pixels.
            out: (height, width, 3); RGB goes here.

        Returns:
            The parts of the region that were left as they are, in pixels of the level.
        """
        level = self._levels[number]
        if level is None:
            return [region_level]
        if region_level == level.place_at(region_level) and out.flags.c_contiguous:
            return [region_level] if self._decode(level, region_level, out) is None else []
        remaining: list[Region] = []
        for part in split_on_grid(region_level, level.tile):
            place = level.place_at(part)
            tile = self._held_tile(number, place)
            if tile is None:
                remaining.append(part)
                continue
            window(out, region_level, part)[:] = window(tile, place, part)
        return remaining

    def size(self, number: int) -> Size | None:
        """Return the size of a level's tiles, px; None where they are not taken."""
        level = self._levels[number]
        return None if level is None else level.tile

    def read(self, number: int, place: Region) -> JpegTile | None:
        """Read the tile of a level that lies at a place; None where it is missing or not quite sound, or not taken."""
        level = self._levels[number]
        if level is None:
            return None
        pixels = np.empty((level.tile.height, level.tile.width, 3), np.uint8)
        stream = self._decode(level, place, pixels)
        return None if stream is None else JpegTile(stream, pixels)

    def _decode_apart(self, number: int, place: Region) -> NDArray[np.uint8] | None:
        """Decode a tile, (height, width, 3); None where it is missing or not quite sound."""
        tile = self.read(number, place)
        return None if tile is None else tile.pixels

    def _decode(self, level: _Level, place: Region, pixels: NDArray[np.uint8]) -> bytes | None:
        """Decode a tile into (height, width, 3), and return its stream; None where it is missing or not quite sound."""
        index = place.y // level.tile.height * level.columns + place.x // level.tile.width
        try:
            content = os.pread(self._file.fileno(), int(level.counts[index]), int(level.offsets[index]))
            stream = _complete_jpeg(content, level.header, level.tile)
            simplejpeg.decode_jpeg(stream, "RGB", buffer=pixels, strict=True)
        except (OSError, ValueError):
            return None
        return stream


def _cached_tiles(tile: Size) -> int:
    """Count the tiles to hold: no more than are of use, since what was decoded just before is at hand in the cache."""
    return max(1, min(ceil_div(BLOCK, tile.width) + 2, _HELD_BYTES // (tile.width * tile.height * 3)))


def _complete_jpeg(tile: bytes, header: bytes, size: Size) -> bytes:
    """Make a tile a JPEG file of its own (ITU-T T.81 annex B), with `header` in place of its own on colours.

    Raises:
        ValueError: It is no JPEG of three components of this size: nothing is allocated for any other.
    """
    if tile[:2] != _SOI:
        raise ValueError("no JPEG")
    parts, at, marker = [_SOI, header], 2, 0
    while marker != _SOS:
        marker = int.from_bytes(tile[at : at + 2]) - 0xFF00
        length = 2 + int.from_bytes(tile[at + 2 : at + 4])
        if not 0xC0 <= marker <= 0xFE or length < 4 or at + length > len(tile):
            raise ValueError("no marker where one belongs")
        segment = tile[at : at + length]
        if marker in _FRAMES and segment[4:10] != b"\x08" + struct.pack(">HHB", size.height, size.width, 3):
            raise ValueError("another size")
        if marker not in _APPLICATION:
            parts.append(segment)
        at += length
    return b"".join([*parts, tile[at:]])


def _jpeg_header(directory: TiffDirectory) -> bytes:
    """Return the colour transform in Adobe's marker (Technical Note 5116), then the directory's shared tables."""
    marker = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([_TRANSFORMS[directory.photometric]])
    return marker + (directory.jpeg_tables or _SOI)[2:].removesuffix(b"\xff\xd9")


def _level(directory: TiffDirectory) -> _Level | None:
    """Return where a directory's tiles lie, if it holds nothing but plain RGB tiles as JPEG."""
    rows, columns = directory.grid
    if directory.tile is None or not _is_plain(directory) or len(directory.offsets) != rows * columns:
        return None
    offsets, counts = directory.offsets.copy(), directory.counts.copy()
    most = directory.tile.width * directory.tile.height * _MAX_BYTES_A_PIXEL
    absurd = (counts > most) | (offsets > _MAX_OFFSET)
    counts[absurd] = offsets[absurd] = 0
    return _Level(columns, directory.tile, offsets, counts, _jpeg_header(directory))


def _is_plain(directory: TiffDirectory) -> bool:
    """Check whether a directory holds interleaved RGB or YCbCr of 8 bits as JPEG, in tiles that are not too large."""
    coding = directory.compression, directory.planes, directory.samples, directory.bits, directory.depth
    tile = directory.tile
    fits = tile is not None and tile.width * tile.height <= _MAX_TILE_PIXELS
    return fits and coding == (_JPEG, 1, 3, 8, 1) and directory.photometric in _TRANSFORMS
