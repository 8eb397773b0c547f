"""A slide in the reference's stain, region by region as it is asked for; nothing is written.

The same pixels as the blocks of a run, before JPEG: worked out in cells that begin where the normalizer lets a
block begin.

Memory bound: the slide's maps, one pass of the generator, and at most `cached_cells` cells, of 3 MB unless
`normalize.stride_px` is large.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np

from wsi_stain.core.arrays import RgbImage, RgbTiles, window
from wsi_stain.core.geometry import (
    BLOCK,
    TILE,
    Region,
    Size,
    TileIndex,
    ceil_div,
    grid_shape,
    split_on_grid,
    tile_slices,
)
from wsi_stain.executor.forks import ForkAware
from wsi_stain.normalizers.background import fade_to_white, show_exempt, with_ring
from wsi_stain.normalizers.base import Normalizer
from wsi_stain.normalizers.config import Mode, NormalizeConfig
from wsi_stain.normalizers.load import load_normalizer
from wsi_stain.normalizers.windows import crop_square
from wsi_stain.pix2pix.precision import default_device
from wsi_stain.stain.colour_table import apply_table
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.store import TiledSlide
from wsi_stain.store.artifact import TABLE, Artifact

_CELLS = (1024, 2048, BLOCK)
"""Sides of a cell: the least that is a whole number of the generator's cores, which then lie as in a block."""


class RegionNormalizer(ForkAware):
    """Normalizes regions of one slide. Threads may share it; they work one after the other.

    Forked processes may go on with it where the mode is `lut`, which needs neither torch's threads nor a GPU.

    Args:
        slide: The slide, stored or streamed; it must stay open.
        checkpoint: The checkpoint's file.
        mode: What becomes of generated pixels: generator, guard, lut, or auto (lut without a GPU); or all settings.
        statistics: What to take for the slide's stain, such as a group's; by default its own.
        device: Where the generator runs, as torch names it; by default a GPU where there is one.
        cached_cells: Cells to keep in memory.
        fade: Whether tiles fade into white towards those that are not kept, as in a run's pyramids.
        artifact: What the normalization has to know about the slide, where that was worked out before.

    Attributes:
        artifact: What the normalization has to know about the slide.
        white: What glass becomes, RGB.
        mode: What becomes of generated pixels, `auto` resolved.

    Raises:
        StainError: The slide's stain was not measured.
        CheckpointError: There is no such checkpoint, or it does not fit the slide.
    """

    def __init__(
        self,
        slide: TiledSlide,
        checkpoint: str | Path,
        mode: Mode | NormalizeConfig = "auto",
        statistics: StainStatistics | None = None,
        device: str | None = None,
        cached_cells: int = 16,
        fade: bool = True,
        artifact: Artifact | None = None,
    ) -> None:
        self.slide = slide
        device = device or default_device()
        config = config_of_mode(mode).resolve_auto(device)
        self._side = next(side for side in _CELLS if side % config.stride_px == 0 or side == BLOCK)
        self.mode = config.name
        self._normalizer = load_normalizer(config, Path(checkpoint), device)
        self.artifact = artifact or self._normalizer.prepare(slide, statistics or slide.require_stain())
        self.white = self._normalizer.white
        self._fade = fade
        self._lock = Lock()
        self._cell = lru_cache(cached_cells)(self._normalize_cell)
        self.watch_forks()

    def after_fork(self) -> None:
        """Make the lock anew: a thread of the parent may have held it."""
        self._lock = Lock()

    def read(self, region: Region) -> RgbImage:
        """Read RGB pixels, (height, width, 3), white outside the slide."""
        pixels = np.empty((region.height, region.width, 3), np.uint8)
        pixels[:] = self.white
        if inside := region.intersect(Region(0, 0, *self.slide.size)):
            for part in split_on_grid(inside, Size(self._side, self._side)):
                area = self._area(part.x - part.x % self._side, part.y - part.y % self._side)
                with self._lock:
                    cell = self._cell(area.x, area.y)
                window(pixels, region, part)[:] = window(cell, area, part)
        return pixels

    def read_many(self, regions: Sequence[Region]) -> RgbTiles:
        """Read many regions of one size, (n, height, width, 3), cell by cell, so that each cell is worked out once.

        Args:
            regions: Any number, in any order; they may overlap.
        """
        if len({(region.width, region.height) for region in regions}) != 1:
            raise ValueError("Expected regions of one size")
        pixels = np.empty((len(regions), regions[0].height, regions[0].width, 3), np.uint8)
        side = self._side
        for place in sorted(range(len(regions)), key=lambda at: (regions[at].y // side, regions[at].x // side)):
            pixels[place] = self.read(regions[place])
        return pixels

    def normalize_coarse(self, pixels: RgbImage) -> RgbImage:
        """Normalize pixels of the slide at any resolution, (h, w, 3), by its colour table: for looking."""
        return normalize_any_resolution(pixels, self._normalizer, self.artifact)

    def tiles(self, min_tissue: float = 0.0) -> Iterator[tuple[TileIndex, RgbImage]]:
        """Yield the kept tiles with enough tissue, cell by cell, each (256, 256, 3) and not faded.

        Args:
            min_tissue: Least share of tissue, 0 to 1.
        """
        tiles_left = set(self.slide.tile_indices(min_tissue))
        side = self._side // TILE
        for row, col in sorted({(tile.row // side, tile.col // side) for tile in tiles_left}):
            area = self._area(col * self._side, row * self._side)
            pixels = normalize_area(self.slide, area, self._normalizer, self.artifact)
            for tile in sorted(tiles_left):
                if (tile.row // side, tile.col // side) == (row, col):
                    top, left = tile.row * TILE - area.y, tile.col * TILE - area.x
                    yield tile, crop_square(pixels, top, left, TILE, self.white).copy()

    def _area(self, x: int, y: int) -> Region:
        """Return the cell with a corner, cut at the slide's far edge."""
        size = self.slide.size
        return Region(x, y, min(self._side, size.width - x), min(self._side, size.height - y))

    def _normalize_cell(self, x: int, y: int) -> RgbImage:
        area = self._area(x, y)
        pixels = normalize_area(self.slide, area, self._normalizer, self.artifact)
        if self._fade:
            fade_to_white(pixels, with_ring(self.slide.kept, *tile_slices(area)), self.white)
        return pixels


def normalize_area(slide: TiledSlide, area: Region, normalizer: Normalizer, artifact: Artifact) -> RgbImage:
    """Normalize an area of a slide that lies on the lines of `Normalizer.band`, but for the slide's far edge.

    Returns:
        (h, w, 3) RGB, what is exempt shown as it is to be; anything in tiles that are not kept.
    """
    around = area.expand(normalizer.halo)
    source = slide.read(around)
    pixels = normalizer.apply(source, slide.kept[tile_slices(area)], artifact)
    show_exempt(slide, area, pixels, window(source, around, area), normalizer.white)
    return pixels


def normalized_tiles(
    slide: TiledSlide,
    checkpoint: str | Path,
    mode: Mode | NormalizeConfig = "auto",
    statistics: StainStatistics | None = None,
    min_tissue: float = 0.0,
) -> Iterator[tuple[TileIndex, RgbImage]]:
    """Yield the tiles of a slide in the reference's stain, for those who feed models; glass is not faded away.

    Args:
        slide: The slide, stored or streamed.
        checkpoint: The checkpoint's file.
        mode: As for `RegionNormalizer`.
        statistics: What to take for the slide's stain; by default its own.
        min_tissue: Least share of tissue of a tile, 0 to 1.

    Yields:
        Each kept tile with enough tissue, and its RGB pixels, (256, 256, 3).

    Raises:
        StainError: The slide's stain was not measured.
        CheckpointError: There is no such checkpoint, or it does not fit the slide.
    """
    yield from RegionNormalizer(slide, checkpoint, mode, statistics).tiles(min_tissue)


def normalize_any_resolution(pixels: RgbImage, normalizer: Normalizer, artifact: Artifact) -> RgbImage:
    """Normalize pixels of a slide, (h, w, 3), by its colour table, which all modes of Pix2Pix have: for looking."""
    if TABLE in artifact:
        return apply_table(artifact[TABLE], pixels)
    return normalize_patch(pixels, normalizer, artifact)


def normalize_patch(pixels: RgbImage, normalizer: Normalizer, artifact: Artifact) -> RgbImage:
    """Normalize a patch, (h, w, 3), on its own: mirrored at its sides, since what lies beyond is not known."""
    halo = normalizer.halo
    mirrored = np.pad(pixels, ((halo, halo), (halo, halo), (0, 0)), mode="symmetric")
    every = np.ones(grid_shape(Size(pixels.shape[1], pixels.shape[0])), bool)
    return normalizer.apply(mirrored, every, artifact)


def patch_config(config: NormalizeConfig, patch: RgbImage) -> NormalizeConfig:
    """Return settings whose passes of the generator are no larger than a patch, (h, w, 3), needs."""
    side = ceil_div(max(patch.shape[:2]), TILE) * TILE
    return config.model_copy(update={"stride_px": min(side, config.stride_px)})


def config_of_mode(mode: Mode | NormalizeConfig) -> NormalizeConfig:
    """Return a mode as settings."""
    return mode if isinstance(mode, NormalizeConfig) else NormalizeConfig(mode=mode)
