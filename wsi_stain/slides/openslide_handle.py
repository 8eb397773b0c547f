"""OpenSlide's handle on one slide file, and RGB regions from it. Decides nothing about levels or colour.

Memory bound: beside the pixels returned, the same region in RGBA.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image, ImageCms

from wsi_stain.core.arrays import Rgb8
from wsi_stain.core.errors import SlideError, UnreadableError
from wsi_stain.core.geometry import Size
from wsi_stain.core.journal import failpoint
from wsi_stain.slides.remedies import CONVERT, remedy_for
from wsi_stain.slides.tiff.checks import check_images, check_level
from wsi_stain.slides.tiff.directories import read_directories

_UNKNOWN = "Copy it again, should the copy be incomplete; else convert it to a pyramidal TIFF"


class OpenSlideHandle:
    """An open slide. A handle is dead after its first error, so it is reopened once before giving up on a region.

    Args:
        path: The file; for formats of many files the one that OpenSlide opens.

    Attributes:
        properties: As OpenSlide gives them.
        background: RGB where the scanner recorded nothing.
        icc_profile: Of the pixels; None where there is none, or one that cannot be used.
        icc_problem: Why it cannot be used; empty where it can, or where there is none.

    Raises:
        SlideError: Not there, no permission, not a slide, or not supported.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = _open(path)
        self.properties: dict[str, str] = dict(self._handle.properties)
        self.sizes = [Size(*size) for size in self._handle.level_dimensions]
        self.downsamples = [float(downsample) for downsample in self._handle.level_downsamples]
        self.background = _background(self.properties)
        self.icc_profile, self.icc_problem = _icc_profile(self._handle)

    def close(self) -> None:
        """Release the file."""
        self._handle.close()

    def read(self, location_l0: tuple[int, int], level: int, size: Size) -> NDArray[np.uint8]:
        """Read RGB pixels of a region, (height, width, 3), alpha composited on the background.

        Args:
            location_l0: Its upper left corner (x, y) in pixels of level 0.
            level: Its level, 0 the finest.
            size: Pixels of that level.

        Raises:
            UnreadableError: The region cannot be decoded, not even by a fresh handle.
            SlideError: The file can no longer be opened.
        """
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
    """Explain why OpenSlide refuses a file: by what a TIFF's directories claim, if they tell more than it says."""
    directories = read_directories(path)
    try:
        for directory in directories[:1]:
            check_level(path, directory)
            check_images(path, directories, [directory.size])
    except SlideError as reason:
        return reason
    if not isinstance(error, openslide.OpenSlideUnsupportedFormatError):
        return SlideError(f"{path} cannot be opened as a slide: {error}", remedy_for(str(error)))
    if directories and directories[0].tile is None:
        size = directories[0].size
        shape = f"it is a TIFF of {size.width} x {size.height} px in strips, expected tiles"
        return SlideError(f"{path} is not a slide in a format that OpenSlide supports: {shape}", CONVERT)
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
        ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), "RGB", "RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        return None, str(error) or "it cannot be parsed"
    return bytes(profile.tobytes()), ""
