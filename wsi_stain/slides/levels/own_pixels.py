"""Pixels that a level of a slide file has itself, in the file's own colours. Knows no resolution.

Plain JPEG tiles are read from the file directly (`jpeg_tiles`), exact at any level; all else by OpenSlide. It places
a level by `x_l0 / downsample` and blends neighbouring pixels when that is fractional. Levels whose downsample is not
whole are therefore read in whole cells of a fixed grid: what a pixel shows depends on its place alone, never on the
region asked for. Level 0 and whole downsamples are exact anywhere.

Memory bound: beside the pixels returned, one piece of `_PIECE` pixels in RGBA, 24 MiB of JPEG tiles, and 16 B for each
tile of the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.arrays import RgbImage
from wsi_stain.core.errors import UnreadableError
from wsi_stain.core.geometry import Region, Size, split_on_grid
from wsi_stain.slides.jpeg_tiles import JpegTiles
from wsi_stain.slides.levels.absent_tiles import AbsentTiles
from wsi_stain.slides.levels.level import Level
from wsi_stain.slides.openslide_handle import OpenSlideHandle
from wsi_stain.slides.remedies import DAMAGED
from wsi_stain.slides.tiff.directories import TiffDirectory
from wsi_stain.slides.tiff.tiles import TiffTiles

_PIECE = Size(4096, 512)
_CELL = Size(512, 512)


class OwnPixels:
    """The pixels of an open slide, level by level.

    Args:
        handle: OpenSlide's, which whoever opened it closes.
        vendor: OpenSlide's name for the format.
        directories: Of each of OpenSlide's levels the one directory that holds it; None where that is not known.

    Attributes:
        path: The slide's file.
        absent: The tiles that were never written.
    """

    def __init__(self, handle: OpenSlideHandle, vendor: str, directories: Sequence[TiffDirectory | None]) -> None:
        self.path = handle.path
        self.absent = AbsentTiles(directories)
        self._handle = handle
        self._hidden = self.absent.hidden_levels(vendor)
        self._tifffile: dict[int, TiffTiles] = {}
        self._jpeg_tiles = JpegTiles(self.path, vendor, directories)

    def close(self) -> None:
        """Release what was opened beside OpenSlide's handle."""
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
        side = _PIECE if level.downsample.is_integer() else _CELL
        for part in self._jpeg_tiles.paste(level.number, region_level, out):
            yield from split_on_grid(part, side)

    def decode(self, level: Level, piece: Region) -> NDArray[np.uint8]:
        """Decode a piece that lies within one cell of the grid, where the level has a fractional downsample.

        Raises:
            UnreadableError: It cannot be decoded, not even by a fresh handle.
            SlideError: The file can no longer be opened.
        """
        if level.number in self._hidden:
            return self._hidden_tiles(level.number).read(piece)
        part = piece if level.downsample.is_integer() else _whole_cell(piece, level.size)
        location_l0 = round(part.x * level.downsample), round(part.y * level.downsample)
        pixels = self._handle.read(location_l0, level.number, Size(part.width, part.height))
        return window(pixels, part, piece)

    def _hidden_tiles(self, number: int) -> TiffTiles:
        if number not in self._tifffile:
            self._tifffile[number] = TiffTiles(self.path, self._hidden[number])
        return self._tifffile[number]


def window(pixels: RgbImage, frame: Region, part: Region) -> RgbImage:
    """Return a part of a region's pixels (height, width, 3), as a view."""
    return pixels[part.y - frame.y :, part.x - frame.x :][: part.height, : part.width]


def _whole_cell(part: Region, size_level: Size) -> Region:
    x, y = part.x - part.x % _CELL.width, part.y - part.y % _CELL.height
    return Region(x, y, min(_CELL.width, size_level.width - x), min(_CELL.height, size_level.height - y))
