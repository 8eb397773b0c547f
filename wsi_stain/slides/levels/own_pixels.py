"""Pixels that a level of a slide file has itself, in the file's own colours. Knows no resolution.

Plain JPEG tiles are read from the file directly (`jpeg_tiles`), exact at any level; all else by the slide's reader.

Memory bound: beside the pixels returned, one piece of `_PIECE` pixels in RGBA, 24 MiB of JPEG tiles, and 16 B for each
tile of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.arrays import window
from wsi_stain.core.errors import UnreadableError
from wsi_stain.core.geometry import Region, Size, split_on_grid
from wsi_stain.slides.jpeg_tiles import PLAIN_VENDORS, JpegTiles
from wsi_stain.slides.levels.level import AbsentTiles, Level
from wsi_stain.slides.readers.base import SlideReader
from wsi_stain.slides.remedies import DAMAGED
from wsi_stain.slides.tiff.tiles import TiffTiles

_PIECE = Size(4096, 512)


class OwnPixels:
    """The pixels of an open slide, level by level.

    Args:
        reader: The slide's, which whoever opened it closes.

    Attributes:
        path: The slide's file.
        absent: The tiles that were never written.
    """

    def __init__(self, reader: SlideReader) -> None:
        self.path = reader.path
        directories, vendor = reader.claims.directories, reader.properties["openslide.vendor"]
        self.absent = AbsentTiles(directories)
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
