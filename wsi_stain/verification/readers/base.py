"""The protocol of a reader of finished pyramids, whatever their format; and what is computed with one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_stain.core.arrays import RgbImage
from wsi_stain.core.geometry import TILE, Mpp, Size, TileIndex, grid_shape


class StoredTile(NamedTuple):
    """One tile as it is stored, with every place where it stands.

    Attributes:
        places: (n, 2): rows and columns in the level's tile grid; several where tiles share their bytes.
        pixels: RGB, (256, 256, 3); any values beyond the level's edge. None where it cannot be decoded.
        problem: Why it cannot.
    """

    places: NDArray[np.intp]
    pixels: RgbImage | None
    problem: str = ""


class PyramidReader(Protocol):
    """An open pyramid."""

    @property
    def layouts(self) -> Mapping[str, Sequence[Size]]:
        """Sizes of all levels, finest first, by the way they are found; by the first way tiles are read."""

    @property
    def resolutions(self) -> Mapping[str, Mpp | None]:
        """Resolution of level 0, um per px, by where it is said; None where it is not."""

    @property
    def icc_profile(self) -> bytes | None:
        """The embedded profile."""

    def tiles(self, level: int) -> Iterator[StoredTile]:
        """Yield every stored tile of a level once."""

    def tile(self, level: int, place: TileIndex) -> RgbImage | None:
        """Read one tile, (256, 256, 3); any values beyond the level's edge. None where it cannot be decoded."""


def level_size(reader: PyramidReader, level: int) -> Size:
    """Return width and height of a level, px."""
    return next(iter(reader.layouts.values()))[level]


def tile_size(size: Size, place: TileIndex) -> Size:
    """Return width and height of the part of a tile that lies within a level of a size."""
    return Size(min(TILE, size.width - place.col * TILE), min(TILE, size.height - place.row * TILE))


def overview(reader: PyramidReader, size: Size) -> RgbImage:
    """Read the whole pyramid, (height, width, 3), averaged from the coarsest level as fine; 255 where none decodes.

    Memory bound: that level, at most four times the size asked for.
    """
    sizes = next(iter(reader.layouts.values()))
    level = max(
        (k for k, found in enumerate(sizes) if found.width >= size.width and found.height >= size.height), default=0
    )
    whole = np.full((sizes[level].height, sizes[level].width, 3), 255, np.uint8)
    for place in map(TileIndex._make, np.ndindex(grid_shape(sizes[level]))):
        target = whole[place.row * TILE :, place.col * TILE :][:TILE, :TILE]
        tile = reader.tile(level, place)
        if tile is not None:
            target[:] = tile[: target.shape[0], : target.shape[1]]
    return np.asarray(Image.fromarray(whole).resize(size, Image.Resampling.BOX))
