"""Pixels of one image of a TIFF, decoded by tifffile and imagecodecs whatever their coding. Knows no OpenSlide.

Tiles or strips; RGB interleaved or in separate planes; RGBA on white.

Memory bound: beside the pixels returned, decoded tiles of 24 MiB, or a single one that is larger.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_stain.core.arrays import window
from wsi_stain.core.errors import UnreadableError
from wsi_stain.core.geometry import Region, Size, ceil_div, split_on_grid
from wsi_stain.slides.remedies import DAMAGED

_HELD_BYTES = 24 * 2**20
_SEPARATE_PLANES = 2


class TiffTiles:
    """The tiles of an RGB image in a TIFF; a context manager. Not for several threads.

    Args:
        path: The file.
        number: The directory's place in the chain.

    Attributes:
        page: The directory, as tifffile has it.
        size: Size of the image, px.

    Raises:
        UnreadableError: tifffile cannot read it, or it is no tiled RGB image of 8 bits.
    """

    def __init__(self, path: Path, number: int = 0) -> None:
        self._tiff = open_tiff(path)
        try:
            self.page: Any = self._tiff.pages[number]
            coding = self.page.planarconfig, self.page.samplesperpixel, self.page.bitspersample
            if not self.page.is_tiled or coding != (1, 3, 8):
                raise UnreadableError(f"{path} has no tiled RGB image of 8 bits at its directory {number}", DAMAGED)
            self._pixels = PagePixels(path, self._tiff, self.page)
        except BaseException:
            self._tiff.close()
            raise
        self.size = self._pixels.size

    def close(self) -> None:
        """Release the file."""
        self._tiff.close()

    def read(self, region: Region) -> NDArray[np.uint8]:
        """Return the pixels of a region within the image, (height, width, 3).

        Raises:
            UnreadableError: A tile was never written, or cannot be decoded.
        """
        return self._pixels.read(region)


class PagePixels:
    """The pixels of one directory of an open TIFF, of 3 or 4 samples of 8 bits.

    Args:
        path: The file, for messages.
        tiff: It, opened by tifffile.
        page: The directory, as tifffile has it.

    Attributes:
        size: Size of the image, px.
        tile: Size of its tiles, px; strips are as wide as the image.
    """

    def __init__(self, path: Path, tiff: tifffile.TiffFile, page: Any) -> None:
        self._path, self._handle, self._page = path, tiff.filehandle, page
        self.size = Size(int(page.imagewidth), int(page.imagelength))
        strips = Size(self.size.width, min(int(page.rowsperstrip or self.size.height), self.size.height))
        self.tile = Size(int(page.tilewidth), int(page.tilelength)) if page.is_tiled else strips
        self._grid = ceil_div(self.size.height, self.tile.height), ceil_div(self.size.width, self.tile.width)
        held = _HELD_BYTES // max(self.tile.width * self.tile.height * 3, 1)
        self._tile = lru_cache(max(held, 1))(self._decode_rgb)

    def read(self, region: Region) -> NDArray[np.uint8]:
        """Return the pixels of a region within the image, (height, width, 3).

        Raises:
            UnreadableError: A tile was never written, or cannot be decoded.
        """
        out = np.empty((region.height, region.width, 3), np.uint8)
        for part in split_on_grid(region, self.tile):
            row, column = part.y // self.tile.height, part.x // self.tile.width
            place = Region(column * self.tile.width, row * self.tile.height, *self.tile)
            window(out, region, part)[:] = window(self._tile(row * self._grid[1] + column), place, part)
        return out

    def _decode_rgb(self, number: int) -> NDArray[np.uint8]:
        if int(self._page.planarconfig or 1) == _SEPARATE_PLANES:
            plane = self._grid[0] * self._grid[1]
            planes = [self._decode(number + plane * sample) for sample in range(int(self._page.samplesperpixel))]
            pixels = np.concatenate(planes, axis=-1)
        else:
            pixels = self._decode(number)
        return _on_white(pixels) if pixels.shape[-1] > 3 else pixels

    def _decode(self, number: int) -> NDArray[np.uint8]:
        try:
            start, length = self._page.dataoffsets[number], self._page.databytecounts[number]
            decode = self._page.decode  # made at the first use, which moves the file's position
            content = os.pread(self._handle.fileno(), length, start)
            if not length or len(content) < length:
                raise ValueError("it is not in the file")
            pixels = decode(content, number, jpegtables=self._page.jpegtables)[0]
            tile: NDArray[np.uint8] = np.asarray(pixels[0], np.uint8)
            return tile
        except Exception as error:  # whatever tifffile and the codec make of damaged bytes
            raise UnreadableError(f"{self._path}: tile {number} cannot be decoded: {error}", DAMAGED) from error


def open_tiff(path: Path) -> tifffile.TiffFile:
    """Open a TIFF.

    Raises:
        UnreadableError: tifffile cannot read it.
    """
    try:
        return tifffile.TiffFile(path)
    except Exception as error:  # whatever a parser makes of a strange file
        raise UnreadableError(f"{path} cannot be read by tifffile: {error}", DAMAGED) from error


def _on_white(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lay RGBA (h, w, 4) on white."""
    share = pixels[..., 3:4].astype(np.float32) / 255
    return np.asarray(np.rint(pixels[..., :3] * share + 255 * (1 - share)), np.uint8)
