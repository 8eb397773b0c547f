"""OpenSlide as a reader of slides. Decides nothing about scales of levels or colour.

OpenSlide places a level by `x_l0 / downsample` and blends neighbouring pixels when that is fractional. Levels whose
downsample is not whole are therefore read in whole cells of a fixed grid: what a pixel shows depends on its place
alone, never on the region asked for. Level 0 and whole downsamples are exact anywhere.

Memory bound: beside the pixels returned, the same region in RGBA.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image, ImageCms

from wsi_stain.core.arrays import Rgb8, window
from wsi_stain.core.errors import SlideError, UnreadableError
from wsi_stain.core.geometry import Region, Size, split_on_grid
from wsi_stain.core.icc import MOST_BYTES
from wsi_stain.core.journal import failpoint
from wsi_stain.slides.claims import check_sizes, read_claims
from wsi_stain.slides.remedies import remedy_for

_CELL = Size(512, 512)
_UNKNOWN_TILE = Size(256, 256)
_UNKNOWN = "Copy it again, should the copy be incomplete; else convert it to a pyramidal TIFF"


class OpenSlideReader:
    """A slide that OpenSlide reads, as a `SlideReader`.

    A handle is dead after its first error, so it is reopened once before giving up on a region.

    Args:
        path: The file; for formats of many files the one that OpenSlide opens.

    Raises:
        SlideError: Not there, no permission, not a slide, not supported, or its claims do not fit its file.
    """

    name = "openslide"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = _open(path)
        self.properties: dict[str, str] = dict(self._handle.properties)
        self.sizes = [Size(*size) for size in self._handle.level_dimensions]
        self._downsamples = [float(downsample) for downsample in self._handle.level_downsamples]
        self.tiles = [_tile(self.properties, number) for number in range(len(self.sizes))]
        self.background = _background(self.properties)
        self.icc_profile, self.icc_problem = _icc_profile(self._handle)
        try:
            check_sizes(path, self.sizes)
            self.claims = read_claims(path, self.properties.get("openslide.vendor", ""), self.sizes)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the file."""
        self._handle.close()

    def read(self, level: int, region_level: Region) -> NDArray[np.uint8]:
        """Read RGB pixels of a region within a level, (height, width, 3), alpha composited on the background.

        Raises:
            UnreadableError: The region cannot be decoded, not even by a fresh handle.
            SlideError: The file can no longer be opened.
        """
        downsample = self._downsamples[level]
        if downsample.is_integer():
            location_l0 = region_level.x * int(downsample), region_level.y * int(downsample)
            return self._read(location_l0, level, Size(region_level.width, region_level.height))
        out = np.empty((region_level.height, region_level.width, 3), np.uint8)
        for part in split_on_grid(region_level, _CELL):
            cell = _whole_cell(part, self.sizes[level])
            location_l0 = round(cell.x * downsample), round(cell.y * downsample)
            pixels = self._read(location_l0, level, Size(cell.width, cell.height))
            window(out, region_level, part)[:] = window(pixels, cell, part)
        return out

    def _read(self, location_l0: tuple[int, int], level: int, size: Size) -> NDArray[np.uint8]:
        try:
            image = self._handle.read_region(location_l0, level, size)
        except openslide.OpenSlideError:
            image = self._read_afresh(location_l0, level, size)
        if image.getchannel("A").getextrema() != (255, 255):
            image = Image.alpha_composite(Image.new("RGBA", image.size, (*self.background, 255)), image)
        return np.asarray(image.convert("RGB"))

    def _read_afresh(self, location_l0: tuple[int, int], level: int, size: Size) -> Image.Image:
        fresh = _open(self.path)
        self._handle.close()
        self._handle = fresh
        try:
            image: Image.Image = self._handle.read_region(location_l0, level, size)
        except openslide.OpenSlideError as error:
            raise self._unreadable_error(location_l0, level, error) from error
        return image

    def _unreadable_error(self, location_l0: tuple[int, int], level: int, reason: object) -> UnreadableError:
        where = f"at level {level}, level-0 position {location_l0}"
        return UnreadableError(f"{self.path} cannot be read {where}: {reason}", remedy_for(str(reason)))


def _whole_cell(part: Region, size_level: Size) -> Region:
    x, y = part.x - part.x % _CELL.width, part.y - part.y % _CELL.height
    return Region(x, y, min(_CELL.width, size_level.width - x), min(_CELL.height, size_level.height - y))


def _tile(properties: dict[str, str], number: int) -> Size:
    """Return the size of a level's tiles as OpenSlide states it."""
    name = f"openslide.level[{number}].tile"
    width, height = (int(properties.get(f"{name}-{side}", 0)) for side in ("width", "height"))
    return Size(width, height) if width > 0 and height > 0 else _UNKNOWN_TILE


def _open(path: Path) -> openslide.OpenSlide:
    failpoint(f"open {path.name}")
    try:
        path.open("rb").close()
    except OSError as error:
        raise SlideError(
            f"{path} cannot be opened: {error.strerror or error}", "Check the path and its permissions"
        ) from error
    try:
        return openslide.OpenSlide(path)
    except openslide.OpenSlideError as error:
        raise _refusal(path, error) from error


def _refusal(path: Path, error: openslide.OpenSlideError) -> SlideError:
    """Explain why OpenSlide refuses a file."""
    if not isinstance(error, openslide.OpenSlideUnsupportedFormatError):
        return SlideError(f"{path} cannot be opened as a slide: {error}", remedy_for(str(error)))
    return SlideError(f"{path} is not a slide in a format that OpenSlide supports", _UNKNOWN)


def _background(properties: dict[str, str]) -> Rgb8:
    text = properties.get("openslide.background-color", "FFFFFF")
    try:
        red, green, blue = bytes.fromhex(text)
    except ValueError:
        return 255, 255, 255
    return red, green, blue


def _icc_profile(handle: openslide.OpenSlide) -> tuple[bytes | None, str]:
    """Return the profile, if RGB pixels can be converted by it, and what speaks against it."""
    try:
        profile = handle.color_profile
        if profile is None:
            return None, ""
        if (size := len(profile.tobytes())) > MOST_BYTES:
            return None, f"it has {size / 1e6:.0f} MB, at most {MOST_BYTES / 1e6:.0f} are used"
        ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), "RGB", "RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        return None, str(error) or "it cannot be parsed"
    return bytes(profile.tobytes()), ""
