"""Slides as JPEG tiles for a browser, in OpenSlide's Deep Zoom scheme over the full frame. Knows no pages.

Level n of it halves level n + 1, rounded up, down to one pixel; the last is the slide's level 0. A tile has a margin of
one pixel towards each neighbour, so that no line shows between them where they are enlarged. Pixels are shown as the
file has them, without ICC conversion: what differs between two slides is the slides.

Memory bound: decoded tiles, 128 MiB in all and 24 MiB for each of `_MOST_OPEN` slides; and for each tile being read
`_MOST_READ` pixels in RGBA, twice.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import openslide
import simplejpeg
from openslide.deepzoom import DeepZoomGenerator
from PIL import Image

from wsi_stain.core.errors import MppError, SlideError, UnreadableError
from wsi_stain.core.geometry import Mpp, Region, Size
from wsi_stain.slides.jpeg_tiles import JpegTiles
from wsi_stain.slides.openslide_handle import DAMAGED
from wsi_stain.slides.resolution import resolve_mpp
from wsi_stain.slides.slide_file import SlideFile

TILE_PX = 512
"""Side of a tile without its margins: a quarter of the requests of 256 px."""

_MARGIN_PX = 1
_QUALITY = 90
_MOST_OPEN = 8
_CACHE_BYTES = 128 * 2**20
_MOST_READ = 4096**2
_SLACK = 1.002


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


class _Handle(openslide.OpenSlide):  # type: ignore[misc]
    """OpenSlide, but quicker: plain JPEG tiles come straight from the file, with the very same pixels.

    And a level that is 0.2 % coarser than wanted will do. Scanners drop the last odd pixel, so that a fourth is 4.0005
    by OpenSlide's figure: too coarse by its own rule, and then 16 times the pixels are read.
    """

    def __init__(self, path: Path) -> None:
        with SlideFile(path) as file:
            self._levels, self._vendor = file.levels, file.properties.get("openslide.vendor", "")
        super().__init__(path)
        self._tiles = JpegTiles(path, self._vendor, [(level.size, level.tile) for level in self._levels])
        weakref.finalize(self, self._tiles.close)

    def get_best_level_for_downsample(self, downsample: float) -> int:
        return int(super().get_best_level_for_downsample(downsample * _SLACK))

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        own, (width, height) = self._levels[level], size
        x, y = round(location[0] / own.scale_x), round(location[1] / own.scale_y)
        if x + width <= own.size.width and y + height <= own.size.height:
            pixels = np.empty((height, width, 3), np.uint8)
            if not self._tiles.paste(level, Region(x, y, width, height), pixels):
                return Image.fromarray(pixels).convert("RGBA")
        image: Image.Image = super().read_region(location, level, size)
        if self._vendor == "aperio" and image.getchannel("A").getextrema()[0] == 0:
            raise openslide.OpenSlideError("the file lacks tiles there")  # which would look like glass
        return image


class SlideTiles:
    """Tiles of any number of slides, opened when they are asked for; safe for threads.

    The slides used last stay open. A handle is dropped, never closed, for another thread may be reading: it closes with
    its last reader.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[Path, DeepZoomGenerator] = OrderedDict()
        self._lock = threading.Lock()
        self._cache = openslide.OpenSlideCache(_CACHE_BYTES)

    def describe(self, path: Path, slide_mpp: float | None = None) -> DeepSlide:
        """Describe a slide for a page.

        Args:
            path: The file that OpenSlide opens.
            slide_mpp: Resolution in place of what the file says, um per px.

        Raises:
            SlideError: It cannot be opened.
        """
        with SlideFile(path) as file:
            size, properties = file.levels[0].size, file.properties
        try:
            mpp = resolve_mpp(path, properties, slide_mpp).mpp
        except MppError:
            mpp = None
        tiles = self._tiles_of(path)
        wide = [level for level in range(tiles.level_count) if _pixels_read(tiles, level) <= _MOST_READ]
        return DeepSlide(size, mpp, tiles.level_count, min(wide))

    def jpeg(self, path: Path, level: int, column: int, row: int) -> bytes:
        """Encode one tile with its margins, RGB.

        Args:
            path: The file that OpenSlide opens.
            level: Deep Zoom level.
            column: Index in the level's grid of tiles.
            row: Likewise.

        Raises:
            IndexError: There is no such tile.
            UnreadableError: It cannot be decoded, not even by a fresh handle.
            SlideError: The slide cannot be opened.
        """
        tiles = self._tiles_of(path)
        if not _exists(tiles, level, column, row):
            raise IndexError(f"no tile {column}, {row} at level {level} of {path}")
        try:
            image = tiles.get_tile(level, (column, row))
        except openslide.OpenSlideError:
            image = self._read_afresh(path, tiles, level, column, row)
        return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=_QUALITY, colorsubsampling="444"))

    def _read_afresh(self, path: Path, dead: DeepZoomGenerator, level: int, column: int, row: int) -> object:
        """Read the tile by a handle that no other thread can spoil: one is dead after its first error."""
        with self._lock:
            if self._open.get(path) is dead:
                del self._open[path]
        try:
            return self._open_slide(path).get_tile(level, (column, row))
        except openslide.OpenSlideError as error:
            where = f"at Deep Zoom level {level}, column {column}, row {row}"
            raise UnreadableError(f"{path} cannot be read {where}: {error}", DAMAGED) from error

    def _tiles_of(self, path: Path) -> DeepZoomGenerator:
        with self._lock:
            tiles = self._open.get(path)
        tiles = tiles or self._open_slide(path)
        with self._lock:
            tiles = self._open.setdefault(path, tiles)
            self._open.move_to_end(path)
            while len(self._open) > _MOST_OPEN:
                self._open.popitem(last=False)
        return tiles

    def _open_slide(self, path: Path) -> DeepZoomGenerator:
        try:
            handle = _Handle(path)
        except (OSError, openslide.OpenSlideError) as error:
            raise SlideError(f"{path} cannot be opened as a slide: {error}", DAMAGED) from error
        handle.set_cache(self._cache)
        return DeepZoomGenerator(handle, tile_size=TILE_PX, overlap=_MARGIN_PX, limit_bounds=False)


def file_version(path: Path) -> str:
    """Make a name for the file as it is now, for addresses that browsers may keep: another one after any change."""
    try:
        state = path.stat()
    except OSError:
        return hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()[:20]
    state_text = f"{path}\0{state.st_size}\0{state.st_mtime_ns}\0{state.st_ino}"
    return hashlib.sha256(state_text.encode("utf-8", "surrogateescape")).hexdigest()[:20]


def _exists(tiles: DeepZoomGenerator, level: int, column: int, row: int) -> bool:
    if not 0 <= level < tiles.level_count or _pixels_read(tiles, level) > _MOST_READ:
        return False
    columns, rows = tiles.level_tiles[level]
    return bool(0 <= column < columns and 0 <= row < rows)


def _pixels_read(tiles: DeepZoomGenerator, level: int) -> int:
    """Count the pixels of the file that are read for a level's first tile, which is as large as any."""
    width, height = tiles.get_tile_coordinates(level, (0, 0))[2]
    return int(width) * int(height)
