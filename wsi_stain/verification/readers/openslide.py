"""A finished pyramid as OpenSlide sees it, as a `PyramidReader`: the OME-TIFF, and the first file of a DICOM directory.

Memory bound: one tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import openslide

from wsi_stain.core.arrays import RgbImage
from wsi_stain.core.errors import OutputError
from wsi_stain.core.geometry import TILE, Mpp, Size, TileIndex, grid_shape
from wsi_stain.verification.faults import REPORT
from wsi_stain.verification.readers.base import StoredTile, tile_size


class OpenSlidePyramid:
    """An open pyramid; a context manager.

    Args:
        path: The file, or a directory of DICOM files.

    Attributes:
        layouts: Sizes of the levels.
        resolutions: Resolution of level 0, um per px.
        icc_profile: The embedded profile, or None.

    Raises:
        OutputError: OpenSlide cannot open it.
    """

    def __init__(self, path: Path) -> None:
        self._path = next(iter(sorted(path.glob("*.dcm"))), path) if path.is_dir() else path
        self._slide = self._open()
        self._sizes = [Size(*size) for size in self._slide.level_dimensions]
        self.layouts = {"OpenSlide": self._sizes}
        self.resolutions = {"OpenSlide": _mpp(self._slide)}
        profile = self._slide.color_profile
        self.icc_profile: bytes | None = None if profile is None else bytes(profile.tobytes())

    def _open(self) -> openslide.OpenSlide:
        try:
            return openslide.OpenSlide(self._path)
        except openslide.OpenSlideError as error:
            raise OutputError(f"{self._path} cannot be opened by OpenSlide: {error}", REPORT) from error

    def __enter__(self) -> OpenSlidePyramid:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._slide.close()

    def tiles(self, level: int) -> Iterator[StoredTile]:
        """Yield every tile of a level, row by row."""
        for place in map(TileIndex._make, np.ndindex(grid_shape(self._sizes[level]))):
            try:
                yield StoredTile(np.asarray([place]), self._read(level, place))
            except openslide.OpenSlideError as error:
                self._slide.close()  # it is dead after its first error
                self._slide = self._open()
                yield StoredTile(np.asarray([place]), None, str(error))

    def tile(self, level: int, place: TileIndex) -> RgbImage | None:
        """Read one tile, (256, 256, 3); None where it cannot be decoded."""
        try:
            return self._read(level, place)
        except openslide.OpenSlideError:
            self._slide.close()
            self._slide = self._open()
            return None

    def _read(self, level: int, place: TileIndex) -> RgbImage:
        size = tile_size(self._sizes[level], place)
        downsample = self._slide.level_downsamples[level]  # its own figure: of narrow levels it is not quite 2^level
        corner_l0 = round(place.col * TILE * downsample), round(place.row * TILE * downsample)
        pixels = np.asarray(self._slide.read_region(corner_l0, level, size))[..., :3]
        return np.pad(pixels, ((0, TILE - size.height), (0, TILE - size.width), (0, 0)), mode="edge")


def _mpp(slide: openslide.OpenSlide) -> Mpp | None:
    try:
        return Mpp(float(slide.properties["openslide.mpp-x"]), float(slide.properties["openslide.mpp-y"]))
    except (KeyError, ValueError):
        return None
