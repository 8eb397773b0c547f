"""The sink of a pyramid that is a TIFF: tiles of its blocks are copied, those of coarser levels encoded by threads."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from wsi_stain.core.arrays import Rgb8, RgbImage
from wsi_stain.core.geometry import TILE, TILES_PER_BLOCK, BlockIndex, TileIndex, ceil_div
from wsi_stain.formats.block_file import BlockFile, JpegConfig, encode_jpeg, pad_tile
from wsi_stain.formats.ome_tiff import PyramidTiff

_STRIPS_AHEAD = 2


class TiffSink:
    """Puts a pyramid into a TIFF. Strips are encoded by threads while the next blocks are put.

    Args:
        tiff: The TIFF.
        levels: How many levels to take from the blocks.
        white: Colour of glass; a tile of nothing else is left to the TIFF's shared one.
        jpeg: How tiles of coarser levels are encoded.
        pool: The threads.
    """

    def __init__(self, tiff: PyramidTiff, levels: int, white: Rgb8, jpeg: JpegConfig, pool: ThreadPoolExecutor) -> None:
        self._tiff, self._levels, self._jpeg, self._pool = tiff, levels, jpeg, pool
        self._white = np.full((TILE, TILE, 3), white, np.uint8)
        self._strips: deque[tuple[int, dict[TileIndex, Future[bytes]]]] = deque()

    def put_block(self, block: BlockIndex, content: BlockFile | None) -> None:
        """Copy a block's tiles."""
        if content is None:
            return
        for level in range(self._levels):
            side = TILES_PER_BLOCK >> level
            first = TileIndex(block.row * side, block.col * side)
            self._tiff.put_grid(level, first, content.lengths(level), content.streams(level))

    def put_strip(self, level: int, row: int, strip: RgbImage) -> None:
        """Start to encode a row of tiles; put one that was given earlier."""
        tiles = {}
        for col in range(ceil_div(strip.shape[1], TILE)):
            pixels = strip[:, col * TILE : (col + 1) * TILE]
            if not np.array_equal(pixels, self._white[: pixels.shape[0], : pixels.shape[1]]):
                tiles[TileIndex(row, col)] = self._pool.submit(
                    encode_jpeg, pad_tile(pixels), self._jpeg.quality, self._jpeg.subsampling
                )
        self._strips.append((level, tiles))
        self._put_strips(_STRIPS_AHEAD)

    def finish(self) -> None:
        """Put the strips that are left."""
        self._put_strips(0)

    def _put_strips(self, remaining: int) -> None:
        while len(self._strips) > remaining:
            level, tiles = self._strips.popleft()
            for tile, jpeg in tiles.items():
                self._tiff.put(level, tile, jpeg.result())
