"""One slide file: its levels, and RGB pixels of any level. Knows no working frame and no mpp.

Plain JPEG tiles are read from the file directly (`jpeg_tiles`), exact at any level; all else by OpenSlide. It places
a level by `x_l0 / downsample` and blends neighbouring pixels when that is fractional. Levels whose downsample is not
whole are therefore read in whole cells of a fixed grid: what a pixel shows depends on its place alone, never on the
region asked for. Level 0 and whole downsamples are exact anywhere.

What cannot be decoded is an error, or on request repaired: shown as the next coarser level has it, enlarged.

Memory bound: beside the pixels returned, one piece of `_PIECE` pixels in RGBA, and 24 MiB of JPEG tiles.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from fractions import Fraction
from glob import escape
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from wsi_stain.core.arrays import Rgb8
from wsi_stain.core.errors import SlideError, UnreadableError
from wsi_stain.core.geometry import Region, Size, split_on_grid
from wsi_stain.core.icc import srgb_profile
from wsi_stain.slides.dicom_series import files_of_slide
from wsi_stain.slides.jpeg_tiles import JpegTiles
from wsi_stain.slides.openslide_handle import DAMAGED, OpenSlideHandle
from wsi_stain.slides.resampling import bicubic, source_span

_PIECE = Size(4096, 512)
_CELL = Size(512, 512)
_MAX_SIDE = 2**21
_MAX_LEVELS = 64
_UNKNOWN_TILE = Size(256, 256)
_MAX_REPAIRED = 1000
_DIGEST_PIECES = 64
_DIGEST_PIECE_BYTES = 65_536


class Level(NamedTuple):
    """A level of the pyramid.

    Attributes:
        size: Pixels of this level.
        scale_x: Level-0 pixels per pixel of this level along x.
        scale_y: Likewise along y.
        downsample: OpenSlide's own figure, by which its `read_region` places this level.
        tile: The file's own tiles, as OpenSlide states them; 256 px where it does not.
    """

    size: Size
    scale_x: Fraction
    scale_y: Fraction
    downsample: float
    tile: Size


class SlideFile:
    """An open slide.

    Args:
        path: The file; for formats of many files the one that OpenSlide opens.
        to_srgb: Convert pixels from the file's ICC profile to sRGB; a file without one is taken as sRGB.

    Raises:
        SlideError: Not there, no permission, not a slide, not supported, or dimensions beyond reason.
    """

    def __init__(self, path: Path, to_srgb: bool = False) -> None:
        self.path = path
        self._handle = OpenSlideHandle(path)
        try:
            self.properties = self._handle.properties
            self.levels = _levels(self._handle)
            self.background = self._handle.background
            self.icc_profile = self._handle.icc_profile
            self._to_srgb = _to_srgb(path, self.icc_profile) if to_srgb else None
            vendor = self.properties.get("openslide.vendor", "")
            self._tiles = JpegTiles(path, vendor, [(level.size, level.tile) for level in self.levels])
        except BaseException:
            self._handle.close()
            raise
        if to_srgb:
            self.icc_profile = srgb_profile()

    def __enter__(self) -> SlideFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        self._handle.close()
        self._tiles.close()

    def read(
        self,
        level: int,
        region_level: Region,
        repaired: list[Region] | None = None,
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """Read RGB pixels of a level, (height, width, 3), alpha composited on the background.

        Args:
            level: Its number, 0 the finest.
            region_level: Within the level, in its own pixels.
            repaired: Parts that cannot be decoded are added here, in pixels of the level, and shown as the next coarser
                level has them; where that cannot be decoded either, as background. Without it they are an error.
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
        return _sampled_digest(_companions(self.path))

    def _read(
        self, level: int, region_level: Region, out: NDArray[np.uint8], repaired: list[Region] | None = None
    ) -> None:
        """Read as `read` does, in the file's own colour space."""
        exact = self.levels[level].downsample.is_integer()
        for part in self._tiles.paste(level, region_level, out):
            for piece in split_on_grid(part, _PIECE if exact else _CELL):
                self._fill(level, piece, _window(out, region_level, piece), repaired)

    def _fill(self, level: int, piece: Region, out: NDArray[np.uint8], repaired: list[Region] | None) -> None:
        """Fill `out` (height, width, 3) with a piece by OpenSlide; if need be tile by tile, so as to lose no more."""
        try:
            out[:] = self._decode(level, piece, complete=repaired is not None)
        except UnreadableError:
            if repaired is None or len(repaired) >= _MAX_REPAIRED:
                raise
            tiles = list(split_on_grid(piece, self.levels[level].tile))
            if len(tiles) == 1:
                repaired.append(piece)
                out[:] = self._stand_in(level, piece)
                return
            for tile in tiles:
                self._fill(level, tile, _window(out, piece, tile), repaired)

    def _decode(self, level: int, piece: Region, complete: bool) -> NDArray[np.uint8]:
        """Decode a piece that lies within one cell of the grid, where the level has a fractional downsample."""
        own = self.levels[level]
        part = piece if own.downsample.is_integer() else _whole_cell(piece, own.size)
        location_l0 = round(part.x * own.downsample), round(part.y * own.downsample)
        pixels = self._handle.read(location_l0, level, Size(part.width, part.height), complete)
        return _window(pixels, part, piece)

    def _stand_in(self, level: int, part: Region) -> NDArray[np.uint8] | Rgb8:
        """Enlarge the next coarser level at the place of a part, (height, width, 3); the background without one."""
        if level + 1 == len(self.levels):
            return self.background
        own, coarser = self.levels[level], self.levels[level + 1]
        step_x, step_y = own.scale_x / coarser.scale_x, own.scale_y / coarser.scale_y
        left, right = source_span(part.x * step_x, step_x, part.width, 2, coarser.size.width)
        top, bottom = source_span(part.y * step_y, step_y, part.height, 2, coarser.size.height)
        pixels = np.empty((bottom - top, right - left, 3), np.uint8)
        try:
            self._read(level + 1, Region(left, top, right - left, bottom - top), pixels)
        except UnreadableError:
            return self.background
        return bicubic(pixels, part.x * step_x - left, part.y * step_y - top, step_x, step_y, part.width, part.height)


def _levels(handle: OpenSlideHandle) -> tuple[Level, ...]:
    sizes = handle.sizes
    if len(sizes) > _MAX_LEVELS or any(not 1 <= side <= _MAX_SIDE for size in sizes for side in size):
        raise SlideError(
            f"{handle.path} states {len(sizes)} levels of {[tuple(size) for size in sizes[:4]]} px, expected sides of 1"
            f" to {_MAX_SIDE} and at most {_MAX_LEVELS} levels",
            DAMAGED,
        )
    width_l0, height_l0 = sizes[0]
    return tuple(
        Level(size, _scale(width_l0, size.width), _scale(height_l0, size.height), downsample, _tile(handle, number))
        for number, (size, downsample) in enumerate(zip(sizes, handle.downsamples, strict=True))
    )


def _tile(handle: OpenSlideHandle, number: int) -> Size:
    """Return the size of a level's tiles as OpenSlide states it."""
    name = f"openslide.level[{number}].tile"
    width, height = (int(handle.properties.get(f"{name}-{side}", 0)) for side in ("width", "height"))
    return Size(width, height) if width > 0 and height > 0 else _UNKNOWN_TILE


def _scale(length_l0: int, length: int) -> Fraction:
    """Count level-0 pixels per pixel of a level along an axis.

    Scanners shrink by a whole factor and then drop or pad the last pixel, so the ratio of lengths is slightly off (on a
    TCGA slide half a pixel at the far edge, where the whole factor fits to 0.02 px). It holds where no factor fits.
    """
    factor = round(length_l0 / length)
    return Fraction(factor) if abs(length * factor - length_l0) < factor else Fraction(length_l0, length)


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


def _companions(path: Path) -> list[Path]:
    """List all files that a slide consists of, the given one first."""
    suffix = path.suffix.lower()
    if suffix == ".mrxs":
        others = list(path.with_suffix("").glob("*"))
    elif suffix in {".vms", ".vmu"}:
        others = list(path.parent.glob(f"{escape(path.stem)}*"))
    else:
        others = files_of_slide(path)
    return [path, *sorted(other for other in others if other != path and other.is_file())]


def _sampled_digest(paths: Sequence[Path]) -> dict[str, Any]:
    """Hash sizes and evenly spaced pieces, head and tail among them: seconds for gigabytes, no names, no times."""
    digest, total = hashlib.sha256(), 0
    for path in paths:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            total += size
            digest.update(size.to_bytes(8, "big"))
            last = max(size - _DIGEST_PIECE_BYTES, 0)
            for offset in sorted({last * i // (_DIGEST_PIECES - 1) for i in range(_DIGEST_PIECES)}):
                file.seek(offset)
                digest.update(file.read(_DIGEST_PIECE_BYTES))
    return {"size": total, "digest": digest.hexdigest()}
