"""Tiles that stand for a slide, the same ones each time, and the nuclei that they show. Knows no generator.

Spread over the slide's area and its shades, they tell its colours; those rich in tissue, its nuclei: of the reference,
to compare normalized slides with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np

from wsi_stain.core.arrays import Mask, RgbImage, RgbTiles
from wsi_stain.core.errors import NoTissueError
from wsi_stain.core.geometry import TILE, TileIndex, tile_region
from wsi_stain.metrics.chromatin import NuclearDetail, mean_detail, nuclear_detail
from wsi_stain.metrics.nuclei import nuclei_mask
from wsi_stain.normalizers.background import exempt_mask
from wsi_stain.store import TiledSlide
from wsi_stain.store.stain_sample import sample_tiles

T = TypeVar("T")

_CANDIDATES_PER_TILE = 4
_STRATA = 10
_CELLS = 8
_TISSUE_MIN = 0.25
_THIN = 4
"""Rows and columns of a tile for one that is read for its shade and its colours."""

SPARSE = slice(_THIN // 2, None, _THIN)

_NUCLEAR_TILES = 16


def choose_tiles(slide: TiledSlide, count: int) -> list[TileIndex]:
    """Choose tissue tiles spread over the slide and over its shades, the same ones whenever the slide is the same.

    Args:
        slide: Where from. Four times `count` tiles are read to see how dark they are.
        count: How many; fewer where the slide has fewer.

    Returns:
        Tiles in an order whose every stretch is mixed.

    Raises:
        NoTissueError: No tile holds tissue.
    """
    candidates = list_candidates(slide, count)
    tiles = pick_shades(candidates, read_candidates(slide, candidates), count)
    if not tiles:
        raise NoTissueError("No tile of the slide holds tissue", "Check the tissue mask, or leave the slide out")
    return tiles


def list_candidates(slide: TiledSlide, count: int) -> list[TileIndex]:
    """List four times `count` tissue tiles, in an order whose every stretch is spread over the slide."""
    tissue = _find_tissue(slide)
    return list(_spread(tissue.shape, tissue.tobytes(), count * _CANDIDATES_PER_TILE))


def read_candidates(slide: TiledSlide, tiles: Sequence[TileIndex]) -> RgbTiles:
    """Read some pixels of each tile, (n, 64, 64, 3)."""
    pixels = np.empty((len(tiles), TILE // _THIN, TILE // _THIN, 3), np.uint8)
    for tile, sparse in zip(tiles, pixels, strict=True):
        sparse[:] = slide.read(tile_region(tile))[SPARSE, SPARSE]
    return pixels


def read_pixels(slide: TiledSlide, count: int, every: int = 1) -> RgbImage:
    """Read (N, 3): every so many pixels of up to `count` chosen tiles, but for those that are not normalized.

    Raises:
        NoTissueError: No tile holds tissue.
    """
    regions = [tile_region(tile) for tile in choose_tiles(slide, count)]
    return np.concatenate([slide.read(region)[~exempt_mask(slide, region)][::every] for region in regions])


def pick_shades(tiles: Sequence[TileIndex], pixels: RgbTiles, count: int) -> list[TileIndex]:
    """Pick so many of some tiles, as many of each shade; their own order spreads over the slide."""
    shade = pixels.sum(axis=(1, 2, 3), dtype=np.int64)
    strata = np.array_split(np.argsort(shade, kind="stable"), min(_STRATA, len(tiles)) or 1)
    return [tiles[index] for index in _interleave([sorted(stratum) for stratum in strata])[:count]]


def find_nuclei(slide: TiledSlide) -> tuple[list[TileIndex], RgbTiles, Mask] | None:
    """Find nuclei on at most 16 tiles rich in tissue, none cut by the slide's edge; always the same ones.

    Returns:
        The tiles, their pixels (n, 256, 256, 3), and where nuclei are, (n, 256, 256); None without any tissue.
    """
    tiles = _nuclear_tiles(slide)
    if not tiles:
        return None
    pixels = np.stack([slide.read_tile(tile) for tile in tiles])
    nuclei = nuclei_mask(pixels, slide.mpp.mean)
    return None if nuclei is None else (tiles, pixels, nuclei)


def reference_nuclei(slides: Sequence[TiledSlide]) -> NuclearDetail | None:
    """Measure the nuclei of the reference's slides, all counting the same; None where these show hardly any."""
    found = [(slide.mpp.mean, find_nuclei(slide)) for slide in slides]
    details = [nuclear_detail(nuclei[1], nuclei[2], mpp) for mpp, nuclei in found if nuclei]
    return mean_detail([detail for detail in details if detail])


def _nuclear_tiles(slide: TiledSlide) -> list[TileIndex]:
    rows, cols = slide.size.height // TILE, slide.size.width // TILE
    within = [tile for tile in sample_tiles(slide.kept, slide.tissue) if tile.row < rows and tile.col < cols]
    return within[:_NUCLEAR_TILES]


def _find_tissue(slide: TiledSlide) -> Mask:
    """Mark kept tiles with at least a quarter of tissue; where there is none, with any."""
    share = np.where(slide.kept, slide.tissue, 0.0)
    rich: Mask = share >= _TISSUE_MIN
    return rich if rich.any() else share > 0


@lru_cache(maxsize=4)
def _spread(shape: tuple[int, int], marked: bytes, count: int) -> tuple[TileIndex, ...]:
    """Take one tile from each of 8 x 8 cells in turn; cells, and tiles within one, by hash of their coordinates.

    All tasks of a slide want the same ones, and hashing takes a millisecond for a thousand tiles.

    Args:
        shape: Of the slide's grid, (rows, cols).
        marked: Which tiles to choose from, a byte each, row-major.
        count: How many at most.
    """
    tiles = [TileIndex(*place) for place in np.argwhere(np.frombuffer(marked, bool).reshape(shape)).tolist()]
    if not tiles:
        return ()
    cell_rows, cell_cols = (max(max(axis) + 1, _CELLS) for axis in zip(*tiles, strict=True))
    cells: dict[tuple[int, int], list[TileIndex]] = {}
    for tile in sorted(tiles, key=_hash):
        cell = tile.row * _CELLS // cell_rows, tile.col * _CELLS // cell_cols
        cells.setdefault(cell, []).append(tile)
    return tuple(_interleave([cells[cell] for cell in sorted(cells, key=_hash)])[:count])


def _interleave(groups: Sequence[Sequence[T]]) -> list[T]:
    """Join the first of each group, the second of each group, and so on."""
    turns = max(map(len, groups))
    return [group[turn] for turn in range(turns) for group in groups if turn < len(group)]


def _hash(index: tuple[int, int]) -> bytes:
    row, col = index
    return hashlib.sha256(f"{row},{col}".encode()).digest()
