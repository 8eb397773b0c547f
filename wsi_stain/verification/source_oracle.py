"""A TIFF slide as tifffile reads it: a second opinion on the source, where the reader that a run used may be wrong.

Knows no OpenSlide. It takes pixels from the file as its tags describe them: upright, at their places, and missing where
a tile was never written.

Memory bound: one coarse level, at most `_MOST_PIXELS`, and four tiles of the file.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_stain.core.errors import UnreadableError
from wsi_stain.core.geometry import TILE, Region, Size, TileIndex, grid_shape
from wsi_stain.slides.tiff.tiles import TiffTiles

_MOST_PIXELS = 2**26


class TiffOracle:
    """An open TIFF slide; a context manager.

    Args:
        path: The file.
        size: Size of level 0 as the run saw it, px.

    Raises:
        UnreadableError: tifffile cannot read it, or its first image is another.
    """

    def __init__(self, path: Path, size: Size) -> None:
        self._tiles = TiffTiles(path)
        self._page, self._size = self._tiles.page, size
        if self._tiles.size != size:
            self._tiles.close()
            raise UnreadableError(f"{path} begins with no image of {size.width} x {size.height} px")

    def __enter__(self) -> TiffOracle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tiles.close()

    def tile(self, index: TileIndex) -> NDArray[np.uint8] | None:
        """Return a tile of level 0, (256, 256, 3), 255 beyond its edge; None where some of it cannot be decoded."""
        out = np.full((TILE, TILE, 3), 255, np.uint8)
        left, top = index.col * TILE, index.row * TILE
        width, height = min(TILE, self._size.width - left), min(TILE, self._size.height - top)
        try:
            out[:height, :width] = self._tiles.read(Region(left, top, width, height))
        except UnreadableError:
            return None
        return out

    def unwritten(self) -> NDArray[np.bool_]:
        """Return (rows, cols) of level 0 in tiles of 256 px: those of which some part was never written."""
        page, size = self._page, self._size
        missing = np.zeros(grid_shape(size), np.bool_)
        columns = -(-page.imagewidth // page.tilewidth)
        for number, count in enumerate(page.databytecounts):
            if count == 0:
                y, x = number // columns * page.tilelength, number % columns * page.tilewidth
                last_x = min(x + page.tilewidth, size.width) - 1
                last_y = min(y + page.tilelength, size.height) - 1
                missing[y // TILE : last_y // TILE + 1, x // TILE : last_x // TILE + 1] = True
        return missing

    def overview(self) -> NDArray[np.uint8] | None:
        """Return the largest smaller version of level 0 that is worth reading, (h, w, 3); None where there is none."""
        page, smaller = self._page, []
        for other in page.parent.pages[1:]:
            shape = page.imagewidth * other.imagelength / (page.imagelength * other.imagewidth)
            whole = bool(other.is_tiled) and all(other.databytecounts) and other.imagewidth < page.imagewidth
            if whole and 0.98 < shape < 1.02 and other.imagewidth * other.imagelength <= _MOST_PIXELS:
                smaller.append(other)
        if not smaller:
            return None
        try:
            pixels = max(smaller, key=lambda other: other.imagewidth).asarray()
        except Exception:  # whatever the codec makes of damaged bytes
            return None
        return np.asarray(pixels, np.uint8) if pixels.ndim == 3 and pixels.shape[2] == 3 else None


def tile_means(pixels: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    """Return means over tiles of 256 px, (rows, cols), of a picture of the whole frame, (h, w)."""
    rows, cols = grid_shape(size)
    beyond = (
        (0, round((rows * TILE / size.height - 1) * pixels.shape[0])),
        (0, round((cols * TILE / size.width - 1) * pixels.shape[1])),
    )
    whole = Image.fromarray(np.pad(pixels.astype(np.float32), beyond, mode="edge"))
    return np.asarray(whole.resize((cols, rows), Image.Resampling.BOX))
