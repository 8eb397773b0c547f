"""Tiles of one directory of a TIFF, decoded by tifffile whatever their coding. Knows no OpenSlide.

Memory bound: beside the pixels returned, one tile.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_stain.core.errors import UnreadableError
from wsi_stain.core.geometry import Region, Size, ceil_div, split_on_grid
from wsi_stain.slides.remedies import DAMAGED


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
        self._path = path
        try:
            self._tiff = tifffile.TiffFile(path)
        except Exception as error:  # whatever a parser makes of a strange file
            raise UnreadableError(f"{path} cannot be read by tifffile: {error}", DAMAGED) from error
        try:
            self.page: Any = self._tiff.pages[number]
            coding = self.page.planarconfig, self.page.samplesperpixel, self.page.bitspersample
            if not self.page.is_tiled or coding != (1, 3, 8):
                raise UnreadableError(f"{path} has no tiled RGB image of 8 bits at its directory {number}", DAMAGED)
        except BaseException:
            self._tiff.close()
            raise
        self.size = Size(int(self.page.imagewidth), int(self.page.imagelength))
        self._tile = Size(int(self.page.tilewidth), int(self.page.tilelength))

    def close(self) -> None:
        """Release the file."""
        self._tiff.close()

    def read(self, region: Region) -> NDArray[np.uint8]:
        """Return the pixels of a region within the image, (height, width, 3).

        Raises:
            UnreadableError: A tile was never written, or cannot be decoded.
        """
        out = np.empty((region.height, region.width, 3), np.uint8)
        columns = ceil_div(self.size.width, self._tile.width)
        for part in split_on_grid(region, self._tile):
            tile = self._decode(part.y // self._tile.height * columns + part.x // self._tile.width)
            y, x = part.y % self._tile.height, part.x % self._tile.width
            target = out[part.y - region.y :, part.x - region.x :][: part.height, : part.width]
            target[:] = tile[y : y + part.height, x : x + part.width]
        return out

    def _decode(self, number: int) -> NDArray[np.uint8]:
        start, length = self.page.dataoffsets[number], self.page.databytecounts[number]
        decode = self.page.decode  # made at the first use, which moves the file's position
        content = os.pread(self._tiff.filehandle.fileno(), length, start)
        try:
            if not length or len(content) < length:
                raise ValueError("it is not in the file")
            pixels = decode(content, number, jpegtables=self.page.jpegtables)[0]
            tile: NDArray[np.uint8] = np.asarray(pixels[0], np.uint8)
            return tile
        except Exception as error:  # whatever the codec makes of damaged bytes
            raise UnreadableError(f"{self._path}: tile {number} cannot be decoded: {error}", DAMAGED) from error
