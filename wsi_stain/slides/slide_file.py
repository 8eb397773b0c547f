"""One slide file: its levels, and RGB pixels of any level. Knows no resolution.

Plain JPEG tiles are read from the file directly (`jpeg_tiles`), exact at any level; all else by OpenSlide. It places
a level by `x_l0 / downsample` and blends neighbouring pixels when that is fractional. Levels whose downsample is not
whole are therefore read in whole cells of a fixed grid: what a pixel shows depends on its place alone, never on the
region asked for. Level 0 and whole downsamples are exact anywhere.

What a level does not have is shown as another level has it: averaged from a finer one, which shows all that was lost,
else enlarged from a coarser one. What cannot be decoded is then an error, or on request listed. A tile that was never
written is no error where it stands for glass, whatever the vendor; where a coarser level shows tissue it is a loss as
well. Where no coarser level has it, there is nothing to tell by: it is shown as background, and counted.

Memory bound: beside the pixels returned, one piece of `_PIECE` pixels in RGBA, 24 MiB of JPEG tiles, 16 B for each tile
of the file, and what stands in for a tile.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cached_property, lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from wsi_stain.core.errors import SlideError, UnreadableError
from wsi_stain.core.geometry import Region, Size, split_on_grid
from wsi_stain.core.icc import srgb_profile
from wsi_stain.slides.claims import SlideClaims, read_claims
from wsi_stain.slides.jpeg_tiles import JpegTiles
from wsi_stain.slides.level_scales import LevelClaim, Scale, level_scales
from wsi_stain.slides.openslide_handle import OpenSlideHandle
from wsi_stain.slides.parts import check_parts, digest_of_parts
from wsi_stain.slides.remedies import DAMAGED
from wsi_stain.slides.resampling import area_average, bicubic, source_span
from wsi_stain.slides.tiff.tiles import TiffTiles

_PIECE = Size(4096, 512)
_CELL = Size(512, 512)
_MAX_SIDE = 2**21
_MAX_LEVELS = 64
_UNKNOWN_TILE = Size(256, 256)
_MAX_REPAIRED = 1000
_MOST_STANDING_IN = 4096**2

_WHITE_PLACES, _WHITE_SIDE = 8, 64
_GLASS_CHROMA, _GLASS_OD, _GLASS_SHARE = 0.08, 0.15, 0.02
"""Glass has less than this between the channels and on their mean (OD), but for a share of dust and JPEG's noise."""


class Level(NamedTuple):
    """A level of the pyramid.

    Attributes:
        number: OpenSlide's number of it: levels of which no scale can be told are left out.
        size: Pixels of this level.
        scale_x: Level-0 pixels per pixel of this level along x.
        scale_y: Likewise along y.
        downsample: OpenSlide's own figure, by which its `read_region` places this level.
        tile: The file's own tiles, as OpenSlide states them; 256 px where it does not.
    """

    number: int
    size: Size
    scale_x: Fraction
    scale_y: Fraction
    downsample: float
    tile: Size


class LostPart(NamedTuple):
    """A part of a level that was lost.

    Attributes:
        region: Where, in pixels of the level.
        reason: Why.
    """

    region: Region
    reason: str


class SlideFile:
    """An open slide.

    Args:
        path: The file; for formats of many files the one that OpenSlide opens.
        to_srgb: Convert pixels from the file's ICC profile to sRGB; a file without one is taken as sRGB.

    Attributes:
        properties: As OpenSlide gives them.
        levels: The levels that can be used, finest first.
        background: RGB where the scanner recorded nothing.
        icc_profile: Of the pixels that `read` returns, or None.
        described: Resolutions that the file's texts state beside OpenSlide's, of level 0.
        objective_power: As those texts state it, or None.
        placement: How level 0 lies on the glass, where the file says so.
        remarks: Doubts about the file, a sentence each.
        tiles_nowhere: How many tiles of level 0 were never written on any level, and how many it has.

    Raises:
        SlideError: Not there, no permission, not a slide, not supported, or its claims do not fit its file.
    """

    def __init__(self, path: Path, to_srgb: bool = False) -> None:
        self.path = path
        check_parts(path)
        self._handle = OpenSlideHandle(path)
        try:
            self._describe(to_srgb)
        except BaseException:
            self._handle.close()
            raise

    def _describe(self, to_srgb: bool) -> None:
        handle, vendor = self._handle, self._handle.properties.get("openslide.vendor", "")
        self.properties, self.background = handle.properties, handle.background
        _check_sizes(handle)
        claims = read_claims(self.path, vendor, handle.sizes)
        self.described, self.objective_power, self.remarks = claims.described, claims.objective_power, claims.remarks
        self.placement = claims.placement
        self.icc_profile, self._to_srgb = handle.icc_profile, None
        if handle.icc_problem:
            self.remarks += (_refused_profile(self.path, handle.icc_problem, to_srgb),)
        if to_srgb:
            self._to_srgb = _to_srgb(self.path, self.icc_profile)
            self.icc_profile = srgb_profile()
        self._absent = [None if own is None or own.counts.all() else own.absent for own in claims.directories]
        self._hidden = _hidden_levels(vendor, claims, self._absent)
        self._tifffile: dict[int, TiffTiles] = {}
        self._tiles = JpegTiles(self.path, vendor, claims.directories)
        try:
            self.levels = _levels(handle)
            self._settle_scales(claims)
        except BaseException:
            self._close_tiles()
            raise
        self.tiles_nowhere = self._count_nowhere()

    def _settle_scales(self, said: SlideClaims) -> None:
        """Give each level its scale, and leave out those that have none."""
        claims = [
            LevelClaim(level.size, level.tile if said.may_pad else None, mpp)
            for level, mpp in zip(self.levels, said.mpp, strict=True)
        ]
        known = _known_scales(self.path, *_file_state(self.path), tuple(claims))
        if not known:
            known.append(level_scales(claims, self._read_alone))
        scales = known[0]
        for level, scale in zip(self.levels, scales, strict=True):
            if scale is None:
                self.remarks += (
                    f"its level of {level.size.width} x {level.size.height} px is not used: neither its size"
                    " nor its resolution nor its pixels tell its scale",
                )
        self.levels = tuple(
            level._replace(scale_x=scale.x, scale_y=scale.y)
            for level, scale in zip(self.levels, scales, strict=True)
            if scale is not None
        )

    def _read_alone(self, level: int, region_level: Region) -> NDArray[np.uint8]:
        """Read what a level has itself, in the file's own colour space; UnreadableError where it lacks a part."""
        out = np.empty((region_level.height, region_level.width, 3), np.uint8)
        self._read(level, region_level, out, None, alone=True)
        return out

    def __enter__(self) -> SlideFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        self._handle.close()
        self._close_tiles()

    def _close_tiles(self) -> None:
        self._tiles.close()
        for tiles in self._tifffile.values():
            tiles.close()

    def read(
        self,
        level: int,
        region_level: Region,
        repaired: list[LostPart] | None = None,
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """Read RGB pixels of a level, (height, width, 3), alpha composited on the background.

        Args:
            level: Its number, 0 the finest.
            region_level: Within the level, in its own pixels.
            repaired: Parts that are lost are added here: they are shown as a coarser level has them, or as background
                where none has. Without it what cannot be decoded is an error.
            out: Where the pixels go; by default an array of their own.

        Raises:
            UnreadableError: A part could not be decoded, not even by a fresh handle; or far too many.
            SlideError: The file can no longer be opened.
        """
        if out is None:
            out = np.empty((region_level.height, region_level.width, 3), np.uint8)
        self._read(level, region_level, out, repaired)
        if self._to_srgb is not None:
            _convert(out, self._to_srgb)
        return out

    def fingerprint(self) -> dict[str, Any]:
        """Return the content's identity: {"size": bytes, "digest": SHA-256 of evenly spaced pieces of all files}."""
        return digest_of_parts(self.path)

    def _read(
        self,
        level: int,
        region_level: Region,
        out: NDArray[np.uint8],
        repaired: list[LostPart] | None = None,
        alone: bool = False,
    ) -> None:
        """Read as `read` does, in the file's own colours; with `alone`, what another level would fill is an error."""
        exact = self.levels[level].downsample.is_integer()
        for part in self._tiles.paste(self.levels[level].number, region_level, out):
            for piece in split_on_grid(part, _PIECE if exact else _CELL):
                self._fill(level, piece, _window(out, region_level, piece), repaired, alone)

    def _fill(
        self, level: int, piece: Region, out: NDArray[np.uint8], repaired: list[LostPart] | None, alone: bool
    ) -> None:
        """Fill `out` (height, width, 3) with a piece; tile by tile where some were never written."""
        if not self._lacks(level, piece):
            self._fill_written(level, piece, out, repaired, alone)
            return
        for tile in split_on_grid(piece, self.levels[level].tile):
            window = _window(out, piece, tile)
            if not self._lacks(level, tile):
                self._fill_written(level, tile, window, repaired, alone)
            elif alone:
                raise UnreadableError(f"{self.path} lacks tiles at level {level}", DAMAGED)
            else:
                self._fill_absent(level, tile, window, repaired)

    def _fill_written(
        self, level: int, piece: Region, out: NDArray[np.uint8], repaired: list[LostPart] | None, alone: bool
    ) -> None:
        """Fill `out` by OpenSlide; if need be tile by tile, so as to lose no more."""
        try:
            out[:] = self._decode(level, piece)
        except UnreadableError as error:
            helpless = level == 0 if repaired is None else len(repaired) >= _MAX_REPAIRED
            if alone or helpless:
                raise
            tiles = list(split_on_grid(piece, self.levels[level].tile))
            if len(tiles) > 1:
                for tile in tiles:
                    self._fill_written(level, tile, _window(out, piece, tile), repaired, alone)
                return
            pixels = self._from_finer(level, piece)
            if pixels is None:
                if repaired is None:
                    raise
                repaired.append(LostPart(piece, error.problem))
                pixels = self._from_coarser(level, piece)[0]
            out[:] = self.background if pixels is None else pixels

    def _fill_absent(self, level: int, part: Region, out: NDArray[np.uint8], repaired: list[LostPart] | None) -> None:
        """Fill `out` with what a tile that was never written stands for."""
        pixels = self._from_finer(level, part)
        if pixels is None:
            pixels, shown = self._from_coarser(level, part)
            if repaired is not None and shown is not None and not self._is_glass(shown):
                repaired.append(LostPart(part, "the file lacks tiles where a coarser level shows tissue"))
        out[:] = self.background if pixels is None else pixels

    def _lacks(self, level: int, part: Region) -> bool:
        """Check whether a part of a level touches a tile that was never written."""
        own = self.levels[level]
        absent = self._absent[own.number]
        if absent is None:
            return False
        top, left = part.y // own.tile.height, part.x // own.tile.width
        bottom, right = -(-(part.y + part.height) // own.tile.height), -(-(part.x + part.width) // own.tile.width)
        return bool(absent[top:bottom, left:right].any())

    def _decode(self, level: int, piece: Region) -> NDArray[np.uint8]:
        """Decode a piece that lies within one cell of the grid, where the level has a fractional downsample."""
        own = self.levels[level]
        if own.number in self._hidden:
            return self._hidden_tiles(own.number).read(piece)
        part = piece if own.downsample.is_integer() else _whole_cell(piece, own.size)
        location_l0 = round(part.x * own.downsample), round(part.y * own.downsample)
        pixels = self._handle.read(location_l0, own.number, Size(part.width, part.height))
        return _window(pixels, part, piece)

    def _hidden_tiles(self, number: int) -> TiffTiles:
        if number not in self._tifffile:
            self._tifffile[number] = TiffTiles(self.path, self._hidden[number])
        return self._tifffile[number]

    def _from_finer(self, level: int, part: Region) -> NDArray[np.uint8] | None:
        """Shrink a part of a level from the next finer level, (height, width, 3); None where that lacks it too."""
        if level == 0:
            return None
        own, finer = self.levels[level], self.levels[level - 1]
        if part.width * part.height * own.scale_x * own.scale_y > _MOST_STANDING_IN * finer.scale_x * finer.scale_y:
            return None
        return self._as_in(level - 1, level, part)[0]

    def _from_coarser(self, level: int, part: Region) -> tuple[NDArray[np.uint8] | None, NDArray[np.uint8] | None]:
        """Read as `_as_in` does, by the next coarser level that has all of it."""
        for coarser in range(level + 1, len(self.levels)):
            pixels, shown = self._as_in(coarser, level, part)
            if pixels is not None:
                return pixels, shown
        return None, None

    def _as_in(self, other: int, level: int, part: Region) -> tuple[NDArray[np.uint8] | None, NDArray[np.uint8] | None]:
        """Read a part of a level as another level has it: (height, width, 3), and the other's own pixels there."""
        own, there = self.levels[level], self.levels[other]
        step_x, step_y = own.scale_x / there.scale_x, own.scale_y / there.scale_y
        margin, sample = (2, bicubic) if other > level else (0, area_average)
        left, right = source_span(part.x * step_x, step_x, part.width, margin, there.size.width)
        top, bottom = source_span(part.y * step_y, step_y, part.height, margin, there.size.height)
        try:
            pixels = self._read_alone(other, Region(left, top, right - left, bottom - top))
        except UnreadableError:
            return None, None
        x, y = part.x * step_x - left, part.y * step_y - top
        return sample(pixels, x, y, step_x, step_y, part.width, part.height), pixels

    # Tiles that were never written

    def _is_glass(self, pixels: NDArray[np.uint8]) -> bool:
        """Check whether pixels (h, w, 3) of a coarser level show nothing but glass."""
        od = np.log((self._white + 1) / (pixels.astype(np.float32) + 1))
        stained = (np.ptp(od, axis=2) > _GLASS_CHROMA) | (od.mean(axis=2) > _GLASS_OD)
        return float(stained.mean()) <= _GLASS_SHARE

    @cached_property
    def _white(self) -> NDArray[np.float32]:
        """RGB of the brightest of the coarsest level, fill left out, from places spread over it."""
        last = len(self.levels) - 1
        size = self.levels[last].size
        seen = [np.empty((0, 3), np.uint8)]
        for place in _spread(size):
            try:
                seen.append(self._read_alone(last, place).reshape(-1, 3))
            except UnreadableError:
                continue
        pixels = np.concatenate(seen)
        pixels = pixels[~(pixels == 255).all(axis=1)]
        white = np.percentile(pixels, 98, axis=0) if len(pixels) else np.full(3, 255.0)
        return np.asarray(white, np.float32)

    def _count_nowhere(self) -> tuple[int, int]:
        """Count the tiles of level 0, and those never written on any level that would show their centres."""
        absent = self._absent[self.levels[0].number]
        if absent is None:
            return 0, 1
        base, nowhere = self.levels[0], absent.copy()
        rows, columns = np.nonzero(absent)
        y, x = (rows + 0.5) * base.tile.height, (columns + 0.5) * base.tile.width
        for level in self.levels[1:]:
            there = self._absent[level.number]
            if there is None:
                return 0, absent.size
            at_y = np.minimum(y / float(level.scale_y) // level.tile.height, there.shape[0] - 1).astype(int)
            at_x = np.minimum(x / float(level.scale_x) // level.tile.width, there.shape[1] - 1).astype(int)
            nowhere[rows, columns] &= there[at_y, at_x]
        return int(nowhere.sum()), absent.size


@lru_cache(maxsize=256)
def _known_scales(path: Path, size: int, mtime_ns: int, claims: tuple[LevelClaim, ...]) -> list[list[Scale | None]]:
    """Remember the scales of a file's levels, once they are found: comparing pixels takes seconds.

    Returns:
        A list with the scales, or an empty one to put them into.
    """
    return []


def _file_state(path: Path) -> tuple[int, int]:
    """Return the size of a file and the time of its last change, ns."""
    state = path.stat()
    return state.st_size, state.st_mtime_ns


def _hidden_levels(vendor: str, claims: SlideClaims, absent: Sequence[NDArray[np.bool_] | None]) -> dict[int, int]:
    """Return the directory of each level that OpenSlide does not show, by its number.

    Of an Aperio file it shows nothing on coarser levels where a finer one lacks tiles, though the file has them there.
    """
    if vendor != "aperio":
        return {}
    first = next((number for number, tiles in enumerate(absent) if tiles is not None), len(absent))
    return {
        number: directory.number
        for number, directory in enumerate(claims.directories)
        if number > first and directory is not None
    }


def _check_sizes(handle: OpenSlideHandle) -> None:
    sizes = handle.sizes
    if len(sizes) > _MAX_LEVELS or any(not 1 <= side <= _MAX_SIDE for size in sizes for side in size):
        raise SlideError(
            f"{handle.path} states {len(sizes)} levels of {[tuple(size) for size in sizes[:4]]} px, expected sides of 1"
            f" to {_MAX_SIDE} and at most {_MAX_LEVELS} levels",
            DAMAGED,
        )


def _levels(handle: OpenSlideHandle) -> tuple[Level, ...]:
    """Return the levels, each with a scale of 1 so far."""
    return tuple(
        Level(number, size, Fraction(1), Fraction(1), downsample, _tile(handle, number))
        for number, (size, downsample) in enumerate(zip(handle.sizes, handle.downsamples, strict=True))
    )


def _tile(handle: OpenSlideHandle, number: int) -> Size:
    """Return the size of a level's tiles as OpenSlide states it."""
    name = f"openslide.level[{number}].tile"
    width, height = (int(handle.properties.get(f"{name}-{side}", 0)) for side in ("width", "height"))
    return Size(width, height) if width > 0 and height > 0 else _UNKNOWN_TILE


def _spread(size: Size) -> Iterator[Region]:
    """Yield spread small regions evenly over a level."""
    width, height = min(_WHITE_SIDE, size.width), min(_WHITE_SIDE, size.height)
    for y in np.unique(np.linspace(0, size.height - height, _WHITE_PLACES).astype(int)).tolist():
        for x in np.unique(np.linspace(0, size.width - width, _WHITE_PLACES).astype(int)).tolist():
            yield Region(x, y, width, height)


def _refused_profile(path: Path, problem: str, to_srgb: bool) -> str:
    """Make a remark on an ICC profile that cannot be used; SlideError where it is needed."""
    if to_srgb:
        raise SlideError(
            f"{path} has an unusable ICC profile: {problem}", "Set tiling.slide.icc to keep for this slide"
        )
    return f"its ICC profile cannot be used and is left out: {problem}"


def _to_srgb(path: Path, icc_profile: bytes | None) -> ImageCms.ImageCmsTransform | None:
    if icc_profile is None:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), "RGB", "RGB")
    except ImageCms.PyCMSError as error:
        raise SlideError(f"{path} has an unusable ICC profile: {error}", "Set icc to keep for this slide") from error


def _convert(pixels: NDArray[np.uint8], transform: ImageCms.ImageCmsTransform) -> None:
    """Convert RGB (height, width, 3) in place, piece by piece."""
    frame = Region(0, 0, pixels.shape[1], pixels.shape[0])
    for piece in split_on_grid(frame, _PIECE):
        part = _window(pixels, frame, piece)
        image = Image.fromarray(np.ascontiguousarray(part))
        ImageCms.applyTransform(image, transform, inPlace=True)
        part[:] = np.asarray(image)


def _window(pixels: NDArray[np.uint8], frame: Region, part: Region) -> NDArray[np.uint8]:
    """Return a part of a region's pixels (height, width, 3), as a view."""
    return pixels[part.y - frame.y :, part.x - frame.x :][: part.height, : part.width]


def _whole_cell(part: Region, size_level: Size) -> Region:
    x, y = part.x - part.x % _CELL.width, part.y - part.y % _CELL.height
    return Region(x, y, min(_CELL.width, size_level.width - x), min(_CELL.height, size_level.height - y))
