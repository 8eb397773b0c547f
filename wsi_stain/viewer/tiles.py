"""Slides as JPEG tiles for a browser, in OpenSlide's Deep Zoom scheme over the full frame. Knows no pages.

Level n of it halves level n + 1, rounded up, down to one pixel; the last is the slide's level 0. A tile has a margin of
one pixel towards each neighbour, so that no line shows between them where they are enlarged. Pixels are shown as the
file has them, without ICC conversion: what differs between two slides is the slides.

Tiles are read as a run reads slides (`Slide`): levels lie where it lays them, and what is lost there is lost here.

Memory bound: decoded tiles, 56 MiB for each of `_MOST_OPEN` slides; and for each tile being read a piece of 8 Mpx.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg

from wsi_stain.core.errors import MppError, UnreadableError
from wsi_stain.core.geometry import Mpp, Region, Size, ceil_div
from wsi_stain.slides.remedies import DAMAGED
from wsi_stain.slides.slide import Slide, SlideConfig
from wsi_stain.stain.colour_table import Table, apply_table

TILE_PX = 512
"""Side of a tile without its margins: a quarter of the requests of 256 px."""

_MARGIN_PX = 1
_QUALITY = 90
_MOST_OPEN = 8
_MOST_READ = 4096**2
_MOST_LOST = 1 / 64
"""Share of a tile that may be lost: the overview of a slide is worth seeing without a tile of the file."""


class DeepSlide(NamedTuple):
    """Facts of a slide that a page needs.

    Attributes:
        size: Level 0, px.
        mpp: Resolution of level 0, um per px; None where nobody says.
        levels: Deep Zoom levels; the last is level 0.
        first_level: The coarsest that is served: a slide without coarse levels of its own cannot be read whole.
    """

    size: Size
    mpp: Mpp | None
    levels: int
    first_level: int


class SlideTiles:
    """Tiles of any number of slides, opened when they are asked for; safe for threads.

    A slide that is not being read stays open, of `_MOST_OPEN` of them those used last; two threads that read the same
    one each have it open.
    """

    def __init__(self) -> None:
        self._idle: list[Slide] = []
        weakref.finalize(self, _close_all, self._idle)
        self._lock = threading.Lock()

    def describe(self, path: Path, slide_mpp: float | None = None) -> DeepSlide:
        """Describe a slide for a page.

        Args:
            path: The file that OpenSlide opens.
            slide_mpp: Resolution in place of what the file says, um per px.

        Raises:
            SlideError: It cannot be opened.
        """
        try:
            with Slide(path, SlideConfig(slide_mpp=slide_mpp)) as slide:
                mpp: Mpp | None = slide.mpp_l0
        except MppError:
            mpp = None
        with self._lend(path) as slide:
            levels = _level_count(slide.size)
            served = [level for level in range(levels) if _pixels_read(slide, level) <= _MOST_READ]
            return DeepSlide(slide.size, mpp, levels, min(served))

    def jpeg(self, path: Path, level: int, column: int, row: int, table: Table | None = None) -> bytes:
        """Encode one tile with its margins, RGB.

        Args:
            path: The file that OpenSlide opens.
            level: Deep Zoom level.
            column: Index in the level's grid of tiles.
            row: Likewise.
            table: Colour table that its pixels go through; None leaves them as they are.

        Raises:
            IndexError: There is no such tile.
            UnreadableError: A good part of it is lost, not to be decoded by a fresh handle, nor shown by a finer level.
            SlideError: The slide cannot be opened.
        """
        with self._lend(path) as slide:
            region = _tile_region(slide, level, column, row)
            if region is None:
                raise IndexError(f"no tile {column}, {row} at level {level} of {path}")
            factor = 2 ** (_level_count(slide.size) - 1 - level)
            pixels, lost = slide.read_shrunk_repaired(factor, region)
        if lost > _MOST_LOST:
            where = f"at Deep Zoom level {level}, column {column}, row {row}"
            raise UnreadableError(f"{path} cannot be read {where}: {lost:.0%} of the tile is lost", DAMAGED)
        if table is not None:
            pixels = apply_table(table, pixels)
        return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=_QUALITY, colorsubsampling="444"))

    @contextmanager
    def _lend(self, path: Path) -> Iterator[Slide]:
        """Lend a slide that no other thread reads, of any resolution: here pixels count."""
        with self._lock:
            slide = next((idle for idle in self._idle if idle.path == path), None)
            if slide is not None:
                self._idle.remove(slide)
        slide = slide or Slide(path, SlideConfig(slide_mpp=1.0))
        try:
            yield slide
        except BaseException:
            slide.close()
            raise
        with self._lock:
            self._idle.append(slide)
            over = self._idle[:-_MOST_OPEN]
            del self._idle[:-_MOST_OPEN]
        _close_all(over)


def file_version(path: Path) -> str:
    """Make a name for the file as it is now, for addresses that browsers may keep: another one after any change."""
    try:
        state = path.stat()
    except OSError:
        return hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()[:20]
    state_text = f"{path}\0{state.st_size}\0{state.st_mtime_ns}\0{state.st_ino}"
    return hashlib.sha256(state_text.encode("utf-8", "surrogateescape")).hexdigest()[:20]


def _close_all(slides: Sequence[Slide]) -> None:
    for slide in slides:
        slide.close()


def _level_count(size: Size) -> int:
    """Count the Deep Zoom levels of a slide, down to one pixel."""
    return (max(size) - 1).bit_length() + 1


def _tile_region(slide: Slide, level: int, column: int, row: int) -> Region | None:
    """Return what a tile shows, margins included, in the level's pixels; None where there is no such tile."""
    if not 0 <= level < _level_count(slide.size) or _pixels_read(slide, level) > _MOST_READ:
        return None
    factor = 2 ** (_level_count(slide.size) - 1 - level)
    width, height = ceil_div(slide.size.width, factor), ceil_div(slide.size.height, factor)
    if not (0 <= column * TILE_PX < width and 0 <= row * TILE_PX < height):
        return None
    left, top = max(column * TILE_PX - _MARGIN_PX, 0), max(row * TILE_PX - _MARGIN_PX, 0)
    right = min((column + 1) * TILE_PX + _MARGIN_PX, width)
    bottom = min((row + 1) * TILE_PX + _MARGIN_PX, height)
    return Region(left, top, right - left, bottom - top)


def _pixels_read(slide: Slide, level: int) -> int:
    """Count the pixels of the file that are read for a level's first tile, which is as large as any."""
    factor = 2 ** (_level_count(slide.size) - 1 - level)
    width, height = ceil_div(slide.size.width, factor), ceil_div(slide.size.height, factor)
    side = TILE_PX + _MARGIN_PX
    return slide.pixels_read(factor, Region(0, 0, min(side, width), min(side, height)))
