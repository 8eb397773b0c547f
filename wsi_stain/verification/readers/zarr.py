"""A finished OME-Zarr as zarr-python sees it, as a `PyramidReader`. What writes it does not use zarr-python.

Memory bound: one tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import zarr

from wsi_stain.core.arrays import RgbImage
from wsi_stain.core.errors import OutputError
from wsi_stain.core.geometry import TILE, Mpp, Size, TileIndex, grid_shape
from wsi_stain.core.icc import decode_profile
from wsi_stain.verification.faults import REPORT
from wsi_stain.verification.readers.base import StoredTile


class ZarrPyramid:
    """An open OME-Zarr; a context manager.

    Args:
        path: Its directory.

    Attributes:
        layouts: Sizes of the levels.
        resolutions: Resolution of level 0 by the OME-NGFF metadata, um per px.
        icc_profile: The embedded profile, or None.

    Raises:
        OutputError: zarr-python cannot open it, or it is no image of ours.
    """

    def __init__(self, path: Path) -> None:
        try:
            group = zarr.open_group(path, mode="r")
            attributes: dict[str, Any] = dict(group.attrs)
            datasets = attributes["ome"]["multiscales"][0]["datasets"]
            self._levels: list[Any] = [group[dataset["path"]] for dataset in datasets]
            _, y, x = datasets[0]["coordinateTransformations"][0]["scale"]
            profile = attributes["wsi_stain"]["icc_profile"]
        except Exception as error:  # a damaged store shows in many ways
            raise OutputError(f"{path} cannot be opened by zarr-python: {error!r}", REPORT) from error
        self._sizes = [Size(level.shape[2], level.shape[1]) for level in self._levels]
        self.layouts = {"zarr-python": self._sizes}
        self.resolutions: dict[str, Mpp | None] = {"OME-NGFF": Mpp(float(x), float(y))}
        self.icc_profile = decode_profile(profile)

    def __enter__(self) -> ZarrPyramid:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close nothing: no file is held open."""

    def tiles(self, level: int) -> Iterator[StoredTile]:
        """Yield every tile of a level, row by row."""
        for place in map(TileIndex._make, np.ndindex(grid_shape(self._sizes[level]))):
            try:
                yield StoredTile(np.asarray([place]), self._read(level, place))
            except (OSError, RuntimeError, ValueError) as error:
                yield StoredTile(np.asarray([place]), None, str(error))

    def tile(self, level: int, place: TileIndex) -> RgbImage | None:
        """Read one tile, (256, 256, 3); None where it cannot be decoded."""
        try:
            return self._read(level, place)
        except (OSError, RuntimeError, ValueError):
            return None

    def _read(self, level: int, place: TileIndex) -> RgbImage:
        x, y = place.col * TILE, place.row * TILE
        planes = np.asarray(self._levels[level][:, y : y + TILE, x : x + TILE], np.uint8)
        missing = [(0, 0), (0, TILE - planes.shape[1]), (0, TILE - planes.shape[2])]
        return np.ascontiguousarray(np.pad(planes, missing, mode="edge").transpose(1, 2, 0))
