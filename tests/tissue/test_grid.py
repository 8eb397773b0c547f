"""Tissue shares by exact area, and which tiles are kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_stain.core.geometry import BlockIndex, Size, grid_shape
from wsi_stain.tissue.grid import TileGrid, tile_grid


def test_shares_are_exact_where_mask_pixels_straddle_tiles() -> None:
    """Mask pixels of 102.4 x 128 px on a slide of 512 x 384: column 2 is tissue, from x = 204.8 to 307.2."""
    mask = np.zeros((3, 5), bool)
    mask[:2, 2] = True
    grid = tile_grid(Size(512, 384), mask)
    assert grid.tissue.dtype == np.float32
    assert grid.tissue == pytest.approx(np.array([[51.2 / 256] * 2, [0, 0]]), abs=1e-6)


def test_a_tile_at_the_far_edge_counts_what_lies_on_the_slide() -> None:
    grid = tile_grid(Size(300, 700), np.ones((70, 30), bool))
    assert grid.tissue.shape == (3, 2) and grid.tissue == pytest.approx(1.0)


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 3000),
    height=st.integers(1, 3000),
    rows=st.integers(1, 40),
    cols=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_shares_add_up_to_the_area_of_the_mask(width: int, height: int, rows: int, cols: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((rows, cols)) < 0.4
    grid = tile_grid(Size(width, height), mask)
    assert grid.tissue.shape == grid.kept.shape == grid_shape(Size(width, height))
    assert grid.tissue.min() >= 0 and grid.tissue.max() <= 1
    heights = np.minimum(height - np.arange(grid.tissue.shape[0]) * 256, 256)
    widths = np.minimum(width - np.arange(grid.tissue.shape[1]) * 256, 256)
    area = float((grid.tissue * heights[:, None] * widths).sum())
    assert area == pytest.approx(mask.mean() * width * height, rel=1e-4, abs=1e-2)
    assert grid.kept[grid.tissue > 0].all() or grid.tissue[~grid.kept].max() < 1e-5


@pytest.mark.parametrize(
    ("pixel", "kept"),
    [
        ((10, 13), (slice(1, 4), slice(2, 5))),
        ((0, 0), (slice(0, 2), slice(0, 2))),
        ((19, 27), (slice(3, 5), slice(5, 7))),
    ],
    ids=["inside", "first corner", "last corner"],
)
def test_any_tissue_keeps_its_tile_and_the_eight_around_it(pixel: tuple[int, int], kept: tuple[slice, slice]) -> None:
    mask = np.zeros((20, 28), bool)
    mask[pixel] = True
    expected = np.zeros((5, 7), bool)
    expected[kept] = True
    assert np.array_equal(tile_grid(Size(7 * 256, 5 * 256), mask).kept, expected)


def test_no_tissue_keeps_nothing_and_has_no_blocks() -> None:
    grid = tile_grid(Size(1000, 400), np.zeros((4, 10), bool))
    assert not grid.kept.any() and grid.blocks() == []


def test_blocks_are_those_with_a_kept_tile_the_fullest_first() -> None:
    kept = np.zeros((18, 50), bool)
    kept[0, 49] = kept[17, 15] = kept[16, 16] = kept[17, 17] = True
    grid = TileGrid(Size(50 * 256, 18 * 256), kept.astype(np.float32), kept)
    assert grid.blocks() == [BlockIndex(1, 1), BlockIndex(0, 3), BlockIndex(1, 0)]
