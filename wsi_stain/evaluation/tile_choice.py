"""Tiles of a slide that are scored. They depend on its tissue alone, so that all methods are scored on the same."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.errors import SlideError
from wsi_stain.core.geometry import TILE, Region, TileIndex, tile_region
from wsi_stain.store import StoredSlide, TiledSlide
from wsi_stain.store.patches import PATCH_TABLE, from_csv

SIDE_TILES = 4
"""Side of a scored block in tiles; blocks lie on multiples of it."""

_RICH = 0.7
_TISSUE_MIN = 0.25
_LEAST_SIDE = 32


def rich_blocks(tissue: NDArray[np.float32], count: int) -> list[TileIndex]:
    """Choose first tiles of blocks of 4 x 4 that are mostly tissue, by their places alone.

    Args:
        tissue: (rows, cols), share of tissue in each tile; 0 in tiles that are not to be scored.
        count: Most blocks. Where no block is mostly tissue, those with more than half as much as the best one.
    """
    missing = [(0, max(0, SIDE_TILES - length)) for length in tissue.shape]
    share = np.pad(tissue, missing)
    rows, cols = (length // SIDE_TILES for length in share.shape)
    whole_blocks = share[: rows * SIDE_TILES, : cols * SIDE_TILES]
    means = whole_blocks.reshape(rows, SIDE_TILES, cols, SIDE_TILES).mean(axis=(1, 3))
    least = min(_RICH, float(means.max()) / 2)
    rich = [TileIndex(int(row) * SIDE_TILES, int(col) * SIDE_TILES) for row, col in np.argwhere(means > least)]
    return sorted(rich, key=lambda tile: hashlib.sha256(repr(tile).encode()).digest())[:count]


def choose_scored_tiles(slide: TiledSlide, count: int) -> list[TileIndex]:
    """Choose the tiles with tissue of up to `count` blocks rich in it, within the slide; none cut by its edge."""
    share = np.where(slide.kept, slide.tissue, 0).astype(np.float32)
    rows, cols = slide.size.height // TILE, slide.size.width // TILE
    chosen = []
    for first in rich_blocks(share, count):
        for row in range(first.row, min(first.row + SIDE_TILES, rows)):
            for col in range(first.col, min(first.col + SIDE_TILES, cols)):
                if share[row, col] >= _TISSUE_MIN:
                    chosen.append(TileIndex(row, col))
    return chosen


def scored_regions(source: StoredSlide, truth: StoredSlide, blocks: int) -> list[Region]:
    """List what is scored of a pair: tiles of up to `blocks` blocks, or all patches of at least 32 px.

    Raises:
        SlideError: The two have different frames, or nothing to compare.
    """
    if source.size != truth.size:
        sizes = [f"{slide.size.width} x {slide.size.height} px" for slide in (source, truth)]
        raise SlideError(
            f"{source.slide_id} has {sizes[0]}, its truth {sizes[1]}",
            "Give pairs that are registered to one frame, pixel by pixel; --mpp brings both to one resolution",
        )
    regions = patch_regions(source)
    if regions is None:
        tiles = [tile for tile in choose_scored_tiles(source, blocks) if truth.kept[tile]]
        regions = [tile_region(tile) for tile in tiles]
    regions = [region for region in regions if min(region.width, region.height) >= _LEAST_SIDE]
    if not regions:
        raise SlideError(f"{source.slide_id} has no tissue where its truth has some", "Check that they are a pair")
    return regions


def patch_regions(slide: StoredSlide) -> list[Region] | None:
    """List where a slide's patches lie; None where it is no import of patches."""
    if PATCH_TABLE not in slide.tables():
        return None
    return [patch.region for patch in from_csv(slide.table(PATCH_TABLE)) if patch.region]
