"""One slide file: its levels, and RGB pixels of any level. Knows no working frame and no mpp.

Plain JPEG tiles are read from the file directly (`jpeg_tiles`), exact at any level; all else by OpenSlide. It places
a level by `x_l0 / downsample` and blends neighbouring pixels when that is fractional. Levels whose downsample is not
whole are therefore read in whole cells of a fixed grid: what a pixel shows depends on its place alone, never on the
region asked for. Level 0 and whole downsamples are exact anywhere.

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
import openslide
from numpy.typing import NDArray
from PIL import Image, ImageCms

from wsi_stain.dicom import files_of_slide
from wsi_stain.errors import SlideError
from wsi_stain.geometry import Region, Size, cut_on_grid
from wsi_stain.jpeg_tiles import JpegTiles

_PIECE = Size(4096, 512)
_CELL = Size(512, 512)
_MAX_SIDE = 2**21
_MAX_LEVELS = 64
_DIGEST_PIECES = 64
_DIGEST_PIECE_BYTES = 65_536

_UNSUPPORTED = "Check that the copy is complete, or convert it to a pyramidal TIFF that OpenSlide reads"
_DAMAGED = "The file is probably damaged or incomplete: copy it again from its source"


class Level(NamedTuple):
    """A level of the pyramid.

    Attributes:
        size: Pixels of this level.
        scale_x: Level-0 pixels per pixel of this level along x.
        scale_y: Likewise along y.
        downsample: OpenSlide's own figure, by which its `read_region` places this level.
    """

    size: Size
    scale_x: Fraction
    scale_y: Fraction
    downsample: float


class SlideFile:
    """An open slide. A handle is dead after its first error, so it is reopened once before giving up.

    Args:
        path: The file; for formats of many files the one that OpenSlide opens.
        to_srgb: Convert pixels from the file's ICC profile to sRGB; a file without one is taken as sRGB.

    Raises:
        SlideError: Not there, no permission, not a slide, not supported, or dimensions beyond reason.
    """

    def __init__(self, path: Path, to_srgb: bool = False) -> None:
        self.path = path
        self._handle = _open(path)
        try:
            self.properties: dict[str, str] = dict(self._handle.properties)
            self.levels = _levels(path, self._handle.level_dimensions, self._handle.level_downsamples)
            self.background = _background(self.properties)
            self.icc_profile = _icc_profile(self._handle)
            self._to_srgb = _to_srgb(path, self.icc_profile) if to_srgb else None
            self._tiles = JpegTiles(path, self.properties, [level.size for level in self.levels])
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

    def read(self, level: int, region_level: Region) -> NDArray[np.uint8]:
        """RGB pixels of a level, (height, width, 3), alpha composited on the background.

        Args:
            level: Its number, 0 the finest.
            region_level: Within the level, in its own pixels.

        Raises:
            SlideError: The region could not be decoded, not even by a fresh handle.
        """
        x, y, width, height = region_level
        out = np.empty((height, width, 3), np.uint8)
        for part in self._tiles.paste(level, region_level, out):
            self._compose(level, part, out[part.y - y :, part.x - x :][: part.height, : part.width])
        if self._to_srgb is not None:
            _convert(out, self._to_srgb)
        return out

    def fingerprint(self) -> dict[str, Any]:
        """Identity of the content: {"size": bytes, "sha256": of evenly spaced pieces of all files}; see `_digest`."""
        return _digest(_companions(self.path))

    def _compose(self, level: int, region_level: Region, out: NDArray[np.uint8]) -> None:
        """Fill `out` (height, width, 3) by OpenSlide."""
        x, y = region_level.x, region_level.y
        exact = self.levels[level].downsample.is_integer()
        for piece in cut_on_grid(region_level, _PIECE if exact else _CELL):
            part = piece if exact else _whole_cell(piece, self.levels[level].size)
            pixels = self._decode(level, part)
            cut = pixels[piece.y - part.y :, piece.x - part.x :][: piece.height, : piece.width]
            out[piece.y - y :, piece.x - x :][: piece.height, : piece.width] = cut

    def _decode(self, level: int, region_level: Region) -> NDArray[np.uint8]:
        downsample = self.levels[level].downsample
        location_l0 = round(region_level.x * downsample), round(region_level.y * downsample)
        size = region_level.width, region_level.height
        try:
            image = self._handle.read_region(location_l0, level, size)
        except openslide.OpenSlideError:
            image = self._decode_afresh(location_l0, level, size)
        return self._rgb(image)

    def _decode_afresh(self, location_l0: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        self._handle.close()
        try:
            self._handle = openslide.OpenSlide(self.path)
            image: Image.Image = self._handle.read_region(location_l0, level, size)
        except openslide.OpenSlideError as error:
            raise SlideError(
                f"{self.path} cannot be read at level {level}, level-0 position {location_l0}: {error}", _DAMAGED
            ) from error
        return image

    def _rgb(self, image: Image.Image) -> NDArray[np.uint8]:
        if image.getchannel("A").getextrema() != (255, 255):
            image = Image.alpha_composite(Image.new("RGBA", image.size, (*self.background, 255)), image)
        return np.asarray(image.convert("RGB"))


def srgb_profile() -> bytes:
    """The sRGB ICC profile, the same bytes every time."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = np.array([2000, 1, 1, 0, 0, 0], ">u2").tobytes()  # creation time, ICC.1:2010 section 7.2.1
    return bytes(profile)


def _open(path: Path) -> openslide.OpenSlide:
    try:
        path.open("rb").close()
    except OSError as error:
        raise SlideError(
            f"{path} cannot be opened: {error.strerror or error}", "Check the path and its permissions"
        ) from error
    try:
        return openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise SlideError(f"{path} is not a slide in a format that OpenSlide supports", _UNSUPPORTED) from error
    except openslide.OpenSlideError as error:
        raise SlideError(f"{path} cannot be opened as a slide: {error}", _UNSUPPORTED) from error


def _levels(path: Path, sizes: Sequence[tuple[int, int]], downsamples: Sequence[float]) -> tuple[Level, ...]:
    if len(sizes) > _MAX_LEVELS or any(not 1 <= side <= _MAX_SIDE for size in sizes for side in size):
        raise SlideError(
            f"{path} states levels of {list(sizes)[:4]} px, expected sides of 1 to {_MAX_SIDE}"
            f" and at most {_MAX_LEVELS} levels",
            _DAMAGED,
        )
    width_l0, height_l0 = sizes[0]
    return tuple(
        Level(Size(width, height), _scale(width_l0, width), _scale(height_l0, height), float(downsample))
        for (width, height), downsample in zip(sizes, downsamples, strict=True)
    )


def _scale(length_l0: int, length: int) -> Fraction:
    """Level-0 pixels per pixel of a level along an axis.

    Scanners shrink by a whole factor and then drop or pad the last pixel, so the ratio of lengths is slightly off (on a
    TCGA slide half a pixel at the far edge, where the whole factor fits to 0.02 px). It holds where no factor fits.
    """
    factor = round(length_l0 / length)
    return Fraction(factor) if abs(length * factor - length_l0) < factor else Fraction(length_l0, length)


def _background(properties: dict[str, str]) -> tuple[int, int, int]:
    text = properties.get("openslide.background-color", "FFFFFF")
    try:
        red, green, blue = bytes.fromhex(text)
    except ValueError:
        return 255, 255, 255
    return red, green, blue


def _icc_profile(handle: openslide.OpenSlide) -> bytes | None:
    try:
        profile = handle.color_profile
    except ImageCms.PyCMSError:
        return None
    return None if profile is None else bytes(profile.tobytes())


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
    for piece in cut_on_grid(Region(0, 0, pixels.shape[1], pixels.shape[0]), _PIECE):
        part = pixels[piece.y :, piece.x :][: piece.height, : piece.width]
        image = Image.fromarray(np.ascontiguousarray(part))
        ImageCms.applyTransform(image, transform, inPlace=True)
        part[:] = np.asarray(image)


def _whole_cell(part: Region, size_level: Size) -> Region:
    x, y = part.x - part.x % _CELL.width, part.y - part.y % _CELL.height
    return Region(x, y, min(_CELL.width, size_level.width - x), min(_CELL.height, size_level.height - y))


def _companions(path: Path) -> list[Path]:
    """All files that a slide consists of, the given one first."""
    suffix = path.suffix.lower()
    if suffix == ".mrxs":
        others = list(path.with_suffix("").glob("*"))
    elif suffix in {".vms", ".vmu"}:
        others = list(path.parent.glob(f"{escape(path.stem)}*"))
    else:
        others = files_of_slide(path)
    return [path, *sorted(other for other in others if other != path and other.is_file())]


def _digest(paths: Sequence[Path]) -> dict[str, Any]:
    """Sizes and evenly spaced pieces, the head and the tail among them: seconds for gigabytes, no names, no times."""
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
    return {"size": total, "sha256": digest.hexdigest()}
