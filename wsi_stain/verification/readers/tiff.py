"""A finished OME-TIFF as tifffile sees it, as a `PyramidReader`. Shares no code with what wrote it.

Memory bound: one decoded tile, and 12 bytes for each tile of the level being read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_stain.core.errors import OutputError
from wsi_stain.core.geometry import Mpp, Size, TileIndex, grid_shape
from wsi_stain.verification.faults import REPORT
from wsi_stain.verification.readers.base import StoredTile

_ICC_PROFILE = 34675
_END_OF_JPEG = b"\xff\xd9"


class TiffPyramid:
    """An open OME-TIFF; a context manager.

    Args:
        path: The file.

    Attributes:
        layouts: Sizes of the levels by the chain of directories, which OpenSlide and libvips walk, and by the SubIFDs,
            which Bio-Formats and QuPath walk.
        resolutions: Resolution of level 0 by the OME-XML, um per px; None where it is not there.
        icc_profile: The embedded profile, or None.

    Raises:
        OutputError: tifffile cannot open it.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._tiff = tifffile.TiffFile(path)
            try:
                self._describe()
            except BaseException:
                self._tiff.close()
                raise
        except Exception as error:  # a damaged directory shows in as many ways as there are bytes
            raise OutputError(f"{path} cannot be opened by tifffile: {error}", REPORT) from error

    def _describe(self) -> None:
        first = self._tiff.pages[0]
        self._sizes = [_size(page) for page in self._tiff.pages]
        self.layouts = {
            "tifffile": self._sizes,
            "tifffile, SubIFDs": [_size(page) for page in (first, *(first.pages or ()))],
        }
        self.resolutions = {"OME-XML": _ome_mpp(self._tiff.ome_metadata)}
        tag = first.tags.get(_ICC_PROFILE)
        self.icc_profile: bytes | None = None if tag is None else bytes(tag.value)

    def __enter__(self) -> TiffPyramid:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tiff.close()

    def tiles(self, level: int) -> Iterator[StoredTile]:
        """Yield every stored tile of a level, in the order of its first place; levels are cut into tiles of 256 px."""
        page = self._tiff.pages[level]
        rows, cols = grid_shape(self._sizes[level])
        if len(page.dataoffsets) != rows * cols:
            yield StoredTile(_places(np.arange(rows * cols), cols), None, f"{len(page.dataoffsets)} tiles are listed")
            return
        starts, lengths = (np.asarray(values, np.int64) for values in (page.dataoffsets, page.databytecounts))
        _, first, shared = np.unique(np.stack([starts, lengths]), axis=1, return_index=True, return_inverse=True)
        order = np.argsort(shared, kind="stable")
        groups = np.split(order, np.cumsum(np.bincount(shared))[:-1])
        for number in np.argsort(first):
            pixels, problem = self._decode(page, int(first[number]), int(starts[first[number]]))
            yield StoredTile(_places(groups[number], cols), pixels, problem)

    def tile(self, level: int, place: TileIndex) -> NDArray[np.uint8] | None:
        """Read one tile, (256, 256, 3); None where it cannot be decoded."""
        page = self._tiff.pages[level]
        index = place.row * grid_shape(self._sizes[level])[1] + place.col
        return self._decode(page, index, page.dataoffsets[index])[0]

    def _decode(self, page: Any, index: int, start: int) -> tuple[NDArray[np.uint8] | None, str]:
        length = page.databytecounts[index]
        decode = page.decode  # made at the first use, which moves the file's position
        content = os.pread(self._tiff.filehandle.fileno(), length, start)
        if not length or len(content) < length:
            return None, "it has no bytes" if not length else "it reaches beyond the end of the file"
        if not content.endswith(_END_OF_JPEG):  # decoders fill the rest with gray and say nothing
            return None, "its JPEG stream has no end"
        try:
            pixels = decode(content, index)[0]
        except Exception as error:  # whatever the codec makes of damaged bytes
            return None, str(error)
        return np.asarray(pixels, np.uint8)[0], ""


def _size(page: Any) -> Size:
    return Size(int(page.imagewidth), int(page.imagelength))


def _ome_mpp(xml: str | None) -> Mpp | None:
    try:
        pixels = tifffile.xml2dict(xml or "")["OME"]["Image"]["Pixels"]
        return Mpp(float(pixels["PhysicalSizeX"]), float(pixels["PhysicalSizeY"]))
    except (KeyError, TypeError, ValueError, SyntaxError):
        return None


def _places(indices: NDArray[np.intp], cols: int) -> NDArray[np.intp]:
    return np.stack([indices // cols, indices % cols], axis=1)
