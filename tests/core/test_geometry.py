"""Sizes, regions and grids: every pixel is covered once, and every rounding is up."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_stain.core.geometry import (
    BLOCK,
    TILE,
    BlockIndex,
    Mpp,
    Region,
    Size,
    TileIndex,
    block_region,
    ceil_div,
    grid_shape,
    halve_size,
    level_sizes,
    tiles_of,
)

SIZES = st.builds(Size, st.integers(1, 200_000), st.integers(1, 200_000))
SMALL_SIZES = st.builds(Size, st.integers(1, 14_000), st.integers(1, 14_000))


REGIONS = st.builds(Region, *2 * [st.integers(-9, 9)], *2 * [st.integers(1, 9)])


@given(REGIONS, REGIONS)
def test_regions_share_the_pixels_that_both_have(one: Region, other: Region) -> None:
    def pixels(region: Region | None) -> set[tuple[int, int]]:
        if region is None:
            return set()
        across, down = range(region.x, region.x + region.width), range(region.y, region.y + region.height)
        return {(x, y) for x in across for y in down}

    shared = one.intersect(other)
    assert pixels(shared) == pixels(one) & pixels(other)
    assert shared is None or pixels(shared)


@given(st.integers(-(10**12), 10**12), st.integers(1, 10**6))
def test_ceil_div_rounds_up(numerator: int, denominator: int) -> None:
    assert ceil_div(numerator, denominator) == ceil(Fraction(numerator, denominator))


@given(SIZES, st.integers(1, 1000))
def test_levels_halve_down_to_the_smallest(size: Size, smallest: int) -> None:
    sizes = level_sizes(size, smallest)
    assert sizes == [Size(ceil_div(size.width, 2**k), ceil_div(size.height, 2**k)) for k in range(len(sizes))]
    assert max(sizes[-1]) <= smallest or len(sizes) == 1
    assert all(max(level) > smallest for level in sizes[:-1])


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (Size(256, 100), [Size(256, 100)]),
        (Size(257, 100), [Size(257, 100), Size(129, 50)]),
        (Size(1, 1025), [Size(1, 1025), Size(1, 513), Size(1, 257), Size(1, 129)]),
    ],
    ids=["one level", "just over", "a line"],
)
def test_level_sizes_by_hand(size: Size, expected: list[Size]) -> None:
    assert level_sizes(size) == expected
    assert [halve_size(level) for level in expected[:-1]] == expected[1:]


@given(SIZES, st.sampled_from([TILE, BLOCK]))
def test_a_grid_covers_its_size_and_no_more(size: Size, side: int) -> None:
    rows, cols = grid_shape(size, side)
    assert (rows - 1) * side < size.height <= rows * side
    assert (cols - 1) * side < size.width <= cols * side


@given(SMALL_SIZES)
def test_blocks_cover_every_pixel_and_tile_once(size: Size) -> None:
    block_rows, block_cols = grid_shape(size, BLOCK)
    blocks = [BlockIndex(row, col) for row in range(block_rows) for col in range(block_cols)]
    regions = [block_region(block, size) for block in blocks]
    assert sum(region.width * region.height for region in regions) == size.width * size.height
    assert all(region.x + region.width <= size.width for region in regions)
    assert all(region.y + region.height <= size.height for region in regions)
    rows, cols = grid_shape(size)
    tiles = [tile for block in blocks for tile in tiles_of(block, (rows, cols))]
    assert sorted(tiles) == [TileIndex(row, col) for row in range(rows) for col in range(cols)]


@given(SMALL_SIZES, st.integers(0, 3), st.integers(0, 3))
def test_a_tile_lies_in_its_block(size: Size, row: int, col: int) -> None:
    region = Region(col * BLOCK, row * BLOCK, BLOCK, BLOCK)
    for tile in tiles_of(BlockIndex(row, col), grid_shape(size)):
        assert region.x <= tile.col * TILE < region.x + region.width
        assert region.y <= tile.row * TILE < region.y + region.height


def test_a_halo_grows_on_each_side() -> None:
    assert Region(10, -3, 100, 50).expand(7) == Region(3, -10, 114, 64)


def test_mean_mpp_keeps_the_area_of_a_pixel() -> None:
    mpp = Mpp(0.2, 0.45)
    assert mpp.mean**2 == pytest.approx(0.2 * 0.45)
