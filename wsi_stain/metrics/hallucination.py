"""Hallucination map: change by the generator that no colour table for the slide explains.

A table moves colours, for the whole slide alike: stain, tone, contrast. What the output has beyond that is structure
that it lost or invented. Both images are compared cell by cell, a cell being 16 x 16 px, smaller than a nucleus is
wide at 40x: the table on the source against the output, as a colour difference. Finer differences, such as a noise
that the generator does not repeat, average out within a cell. A tile is worth the mean over the sixteenth of its cells
that differ most, about as many as a few nuclei cover: over all cells these would drown in faint differences.

Ink that the generator takes for tissue stands out as well: the table was not fitted to it. Knows no files.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_stain.core.arrays import Mask, RgbImage, RgbTiles, sum_cells
from wsi_stain.core.geometry import TILE, TILES_PER_BLOCK, BlockIndex
from wsi_stain.formats.block_file import block_tiles
from wsi_stain.metrics.colour_difference import ciede2000_map
from wsi_stain.stain.colour_table import Table, apply_table

PER_UNIT = 10
"""Grey levels of the map for a CIEDE2000 of 1; 25.5 and more are white."""

_THIN, _CELL = 4, 16
"""One in so many pixels, along and across, is looked at; side of a cell, px."""

_WORST = (TILE // _CELL) ** 2 // 16
"""Cells of a tile that decide its value."""


def hallucination(source: RgbImage, output: RgbImage, kept: Mask, table: Table) -> NDArray[np.uint8]:
    """Compute the map of a block, or of a part of it: (rows, cols).

    Args:
        source: (h, w, 3) RGB before normalization.
        output: (h, w, 3) RGB after it, before it fades into the background.
        kept: (rows, cols): tiles to look at; the others get 0.
        table: The slide's table, source to output.
    """
    grid = np.zeros(kept.shape, np.uint8)
    if kept.any():
        before, after = _thin_tiles(source, kept), _thin_tiles(output, kept)
        explained = apply_table(table, before.reshape(len(before), -1, 3)).reshape(before.shape)
        difference = ciede2000_map(_cells(explained), _cells(after)).astype(np.float64)
        difference *= _whole_cells(source, kept)
        worst = np.sort(difference.reshape(len(difference), -1), axis=1)[:, -_WORST:]
        values = PER_UNIT * worst.mean(axis=1)
        grid[kept] = np.minimum(np.rint(values), 255)
    return grid


def pack_map(grid: NDArray[np.uint8]) -> str:
    """Pack a block's map for its receipt: a byte for each tile, row-major, in base64."""
    return base64.b64encode(grid.tobytes()).decode("ascii")


def join_hallucination_maps(blocks: Mapping[BlockIndex, str], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Join the map of a slide whose tile grid has `shape` (rows, cols), from the packed ones of its blocks."""
    values = np.zeros(shape, np.uint8)
    for block, text in blocks.items():
        rows, cols = (slice(at * TILES_PER_BLOCK, (at + 1) * TILES_PER_BLOCK) for at in block)
        part = values[rows, cols]
        part[:] = np.frombuffer(base64.b64decode(text), np.uint8).reshape(part.shape)
    return values


def map_png(values: NDArray[np.uint8]) -> bytes:
    """Encode a map as a PNG of mode L, one pixel a tile."""
    png = io.BytesIO()
    Image.fromarray(values).save(png, "PNG")
    return png.getvalue()


def _thin_tiles(image: RgbImage, kept: Mask) -> RgbTiles:
    """Thin each kept tile to (n, 64, 64, 3): one pixel in 16."""
    tiles, start = block_tiles(image, kept).values(), _THIN // 2
    thin = np.empty((len(tiles), TILE // _THIN, TILE // _THIN, 3), np.uint8)
    for small, tile in zip(thin, tiles, strict=True):
        for channel in range(3):  # by planes it is three times as fast
            small[..., channel] = tile[start::_THIN, start::_THIN, channel]
    return thin


def _whole_cells(image: RgbImage, kept: Mask) -> Mask:
    """Return (n, 16, 16): which cells of each kept tile the image covers; at the slide's far edges not all of them."""
    height, width, _ = image.shape
    rows = np.arange(kept.shape[0] * (TILE // _CELL)) < height // _CELL
    cols = np.arange(kept.shape[1] * (TILE // _CELL)) < width // _CELL
    cells = (rows[:, None] & cols).reshape(kept.shape[0], TILE // _CELL, kept.shape[1], TILE // _CELL)
    return np.asarray(cells.swapaxes(1, 2)[kept])


def _cells(tiles: RgbTiles) -> RgbTiles:
    """Average each cell: (n, 64, 64, 3) to (n, 16, 16, 3)."""
    side, count = _CELL // _THIN, TILE // _CELL
    total = sum_cells(tiles.reshape(1, -1, TILE // _THIN, 3), side)
    return np.asarray(np.rint(total / side**2), np.uint8).reshape(-1, count, count, 3)
