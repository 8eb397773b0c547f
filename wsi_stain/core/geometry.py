"""Sizes, regions and indices, and how they round. Knows no files or pixels.

Two coordinate frames exist. *Slide space* is (x, y), (width, height), in pixels of a named level; here it is the
*working frame*, the level-0 grid of what is stored and written (the slide's own level 0, unless the run resamples).
*Arrays* are (row, column). A `TileIndex` or `BlockIndex` is (row, column) in its grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

TILE = 256
"""Side of a tile in pixels: the chunk of the store, the JPEG tile of a pyramid."""

BLOCK = 4096
"""Side of a block in pixels: one shard of the store, one task of the normalization."""

TILES_PER_BLOCK = BLOCK // TILE


class Size(NamedTuple):
    """Width and height in pixels of a named level."""

    width: int
    height: int


class Mpp(NamedTuple):
    """Micrometres per pixel along x and along y."""

    x: float
    y: float

    @property
    def mean(self) -> float:
        """The geometric mean: the side of a square pixel of the same area, um."""
        return float((self.x * self.y) ** 0.5)


class GlassPlacement(NamedTuple):
    """Placement of an image on its glass, in DICOM's slide coordinate system (PS3.3, C.8.12.2.1).

    Attributes:
        orientation: Direction cosines of its rows and of its columns, three each.
        x_mm: Where its first pixel lies along x.
        y_mm: Likewise along y.
    """

    orientation: tuple[float, float, float, float, float, float]
    x_mm: float
    y_mm: float


class Region(NamedTuple):
    """A rectangle in slide space; x and y may be negative and the far edge may lie outside the slide."""

    x: int
    y: int
    width: int
    height: int

    def expand(self, halo: int) -> Region:
        """Return the region with `halo` pixels more on each side."""
        return Region(self.x - halo, self.y - halo, self.width + 2 * halo, self.height + 2 * halo)

    def intersect(self, other: Region) -> Region | None:
        """Return what the region shares with another one; None where that is nothing."""
        left, top = max(self.x, other.x), max(self.y, other.y)
        right = min(self.x + self.width, other.x + other.width)
        bottom = min(self.y + self.height, other.y + other.height)
        return Region(left, top, right - left, bottom - top) if left < right and top < bottom else None


class TileIndex(NamedTuple):
    """Index of a tile in the tile grid."""

    row: int
    col: int


class BlockIndex(NamedTuple):
    """Index of a block in the block grid."""

    row: int
    col: int


def ceil_div(numerator: int, denominator: int) -> int:
    """Return the quotient rounded up."""
    return -(-numerator // denominator)


def round_up(length: int, step: int) -> int:
    """Return the least multiple of `step` that is at least `length`."""
    return ceil_div(length, step) * step


def halve_size(size: Size) -> Size:
    """Return the next coarser level's size: each side halved, rounded up."""
    return Size(ceil_div(size.width, 2), ceil_div(size.height, 2))


def level_sizes(size: Size, smallest: int = TILE) -> list[Size]:
    """Return sizes of all levels, finest first, down to the first whose longer side is at most `smallest` px."""
    sizes = [size]
    while max(sizes[-1]) > smallest:
        sizes.append(halve_size(sizes[-1]))
    return sizes


def grid_shape(size: Size, side: int = TILE) -> tuple[int, int]:
    """Return (rows, cols) of the grid of squares of `side` px that covers `size`."""
    return ceil_div(size.height, side), ceil_div(size.width, side)


def split_on_grid(region: Region, piece: Size) -> Iterator[Region]:
    """Yield the parts of a region (x, y >= 0) between the lines of a grid of `piece` px from (0, 0), row by row."""
    right, bottom = region.x + region.width, region.y + region.height
    y = region.y
    while y < bottom:
        next_y = min(bottom, y - y % piece.height + piece.height)
        x = region.x
        while x < right:
            next_x = min(right, x - x % piece.width + piece.width)
            yield Region(x, y, next_x - x, next_y - y)
            x = next_x
        y = next_y


def block_region(block: BlockIndex, size: Size) -> Region:
    """Return the part of the slide that a block covers, cut at the slide's far edge."""
    x, y = block.col * BLOCK, block.row * BLOCK
    return Region(x, y, min(BLOCK, size.width - x), min(BLOCK, size.height - y))


def tile_slices(area: Region) -> tuple[slice, slice]:
    """Return the rows and columns of the tile grid that an area on its lines covers."""
    right, bottom = area.x + area.width, area.y + area.height
    return slice(area.y // TILE, ceil_div(bottom, TILE)), slice(area.x // TILE, ceil_div(right, TILE))


def tile_region(tile: TileIndex) -> Region:
    """Return the square that a tile covers; at the slide's far edge part of it lies outside."""
    return Region(tile.col * TILE, tile.row * TILE, TILE, TILE)


def block_of(tile: TileIndex) -> BlockIndex:
    """Return the block that a tile is in."""
    return BlockIndex(tile.row // TILES_PER_BLOCK, tile.col // TILES_PER_BLOCK)


def tiles_of(block: BlockIndex, shape: tuple[int, int]) -> Iterator[TileIndex]:
    """Yield the tiles of a block that exist in a tile grid of `shape` (rows, cols), in row-major order."""
    rows, cols = shape
    first_row, first_col = block.row * TILES_PER_BLOCK, block.col * TILES_PER_BLOCK
    for row in range(first_row, min(first_row + TILES_PER_BLOCK, rows)):
        for col in range(first_col, min(first_col + TILES_PER_BLOCK, cols)):
            yield TileIndex(row, col)
