"""tifffile and imagecodecs as a reader of TIFF: what OpenSlide refuses, and levels in SubIFDs, which it does not see.

The slide is the largest image of the file whose name does not say that it shows a label or the whole glass. Its levels
are its SubIFDs and the smaller versions of it in the chain of directories.

Memory bound: that of `tiff.tiles` for each level that is read; and for each tile of the file 16 B, its place.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_stain.core.errors import SlideError, UnreadableError
from wsi_stain.core.geometry import Region, Size
from wsi_stain.slides.claims import SlideClaims, check_sizes
from wsi_stain.slides.readers.base import NO_SLIDE_REMEDY
from wsi_stain.slides.remedies import CONVERT, DAMAGED
from wsi_stain.slides.resolution import POWER, Resolution
from wsi_stain.slides.srgb import check_profile
from wsi_stain.slides.tiff.checks import check_content, check_level, describe_image, described_image, is_level
from wsi_stain.slides.tiff.directories import DescribedImage, TiffDirectory, describe_directory, ome_images, vendor_text
from wsi_stain.slides.tiff.tiles import PagePixels, open_tiff

_MAX_DIRECTORIES, _MAX_SUBIFDS = 256, 64
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_RGB, _YCBCR = 2, 6
_JPEG_LIKE = {6, 7, 33007, 34712, 33004}
"""Codings that bring YCbCr to RGB by themselves: JPEG and JPEG 2000 in their usual numbers."""

_RIVAL_AREA = 0.5


class _Image(NamedTuple):
    """An image in the chain of directories: tifffile's page, what its tags say, and what OME-XML says of it."""

    page: Any
    directory: TiffDirectory
    text: DescribedImage | None

    @property
    def area(self) -> int:
        return self.directory.size.width * self.directory.size.height


class TiffReader:
    """A TIFF that tifffile reads, as a `SlideReader`.

    Args:
        path: The file.

    Raises:
        UnreadableError: tifffile cannot read it, or most of its tiles are not in it.
        SlideError: It is no bright-field slide of 8 bits, or several of its images may be the slide.
    """

    name = "tifffile"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tiff = open_tiff(path)
        try:
            levels, described = _find_levels(path, self._tiff)
            directories = [describe_directory(number, page) for number, page in enumerate(levels)]
            self.sizes = [directory.size for directory in directories]
            check_sizes(path, self.sizes)
            _check_coding(path, levels[0])
            for directory in directories:
                check_level(path, directory)
                _check_samples(path, directory)
            check_content(path, directories[0], path.stat().st_size)
            self._pixels = [PagePixels(path, self._tiff, page) for page in levels]
            self.tiles = [pixels.tile for pixels in self._pixels]
            self._describe(directories, described)
        except BaseException:
            self._tiff.close()
            raise

    def _describe(self, directories: Sequence[TiffDirectory], described: DescribedImage | None) -> None:
        level_0 = directories[0]
        self.background = (255, 255, 255)
        self.icc_profile, self.icc_problem = check_profile(level_0.icc_profile)
        texts = [("ome-xml", described), ("description", vendor_text(level_0))]
        resolutions = [Resolution(found.mpp, origin) for origin, found in texts if found and found.mpp]
        if level_0.mpp is not None:
            resolutions.append(Resolution(level_0.mpp, "tiff tags"))
        power = next((found.power for _, found in texts if found and found.power), None)
        self.properties = {"openslide.vendor": "ome-tiff" if self._tiff.is_ome else "tiff"}
        if power:
            self.properties[POWER] = f"{power:g}"
        tiled = [directory if directory.tile else None for directory in directories]
        self.claims = SlideClaims(tiled, [directory.mpp for directory in directories], False, resolutions, power)

    def read(self, level: int, region_level: Region) -> NDArray[np.uint8]:
        """Read RGB pixels of a region within a level, (height, width, 3).

        Raises:
            UnreadableError: A tile was never written, or cannot be decoded.
        """
        return self._pixels[level].read(region_level)

    def close(self) -> None:
        """Release the file."""
        self._tiff.close()


def is_tiff(path: Path) -> bool:
    """Check whether a file begins as a TIFF does."""
    try:
        with path.open("rb") as file:
            return file.read(4) in _MAGIC
    except OSError:
        return False


def has_hidden_levels(path: Path, levels: int) -> bool:
    """Check whether a TIFF has more levels than were seen: smaller versions of its first image as SubIFDs."""
    try:
        with open_tiff(path) as tiff:
            return len(tiff.pages[0].subifds or ()) >= levels
    except Exception:  # whatever a parser makes of a strange file: whoever saw the levels has read it
        return False


def _find_levels(path: Path, tiff: Any) -> tuple[list[Any], DescribedImage | None]:
    """Find the pages of the slide's levels, finest first, and what OME-XML says of it."""
    pages = [page.aspage() for page in islice(tiff.pages, _MAX_DIRECTORIES)]
    if not pages:
        raise UnreadableError(f"{path} is not a slide: it begins as a TIFF does, and holds no image", DAMAGED)
    if len(pages) < _MAX_DIRECTORIES:
        _check_chain(path, tiff)
    texts = ome_images(str(pages[0].description or ""))
    images = [
        _Image(page, own := describe_directory(number, page), described_image(texts, own))
        for number, page in enumerate(pages)
    ]
    named = [image for image in images if not (image.text and image.text.is_no_slide)]
    slides = [image for image in named if not image.directory.is_reduced]
    if not slides:
        raise SlideError(f"{path} holds no image of a slide, by the names of its {len(pages)} images", NO_SLIDE_REMEDY)
    slide = max(slides, key=lambda image: image.area)
    check_level(path, slide.directory)
    _check_samples(path, slide.directory)
    _refuse_rivals(path, slide, slides)
    smaller = [
        *_subifds(slide.page),
        *(each.page for each in named if is_level(each.directory.size, slide.directory.size)),
    ]
    by_size = {_size(page): page for page in reversed([slide.page, *smaller]) if _is_alike(page, slide.page)}
    return [by_size[size] for size in sorted(by_size, key=lambda size: -size.width)], slide.text


def _check_chain(path: Path, tiff: Any) -> None:
    """Refuse a file whose chain of directories leads beyond its end: it was cut short."""
    file = tiff.filehandle
    file.seek(tiff.pages.next_page_offset)
    (following,) = struct.unpack(tiff.tiff.offsetformat, file.read(tiff.tiff.offsetsize))
    if following:
        raise UnreadableError(
            f"{path} was cut short: its next image would begin at byte {following}, it has {file.size}", DAMAGED
        )


def _refuse_rivals(path: Path, slide: _Image, slides: Sequence[_Image]) -> None:
    rivals = [
        other
        for other in slides
        if other is not slide
        and not is_level(other.directory.size, slide.directory.size)
        and other.area >= _RIVAL_AREA * slide.area
    ]
    if rivals:
        listed = "; ".join(describe_image(image.directory, image.text) for image in slides)
        raise SlideError(
            f"{path} holds {len(slides)} images, of which several may be the slide: {listed}",
            "Save the image of the slide to a file of its own (for example: tiffcp FILE,NUMBER slide.tif, counting"
            " from 0), and use that",
        )


def _check_samples(path: Path, directory: TiffDirectory) -> None:
    """Refuse what is no RGB of 8 bits."""
    if directory.samples not in (3, 4):
        kind = f"{directory.samples} sample{'s' if directory.samples > 1 else ''} a pixel, expected RGB"
        raise SlideError(f"{path} is gray or has separate channels, as in fluorescence: {kind}", NO_SLIDE_REMEDY)
    if directory.bits != 8:
        raise SlideError(f"{path} has samples of {directory.bits} bits, expected 8", CONVERT)
    is_coded = directory.photometric == _YCBCR and directory.compression in _JPEG_LIKE
    if directory.photometric != _RGB and not is_coded:
        raise SlideError(
            f"{path} has pixels of TIFF's PhotometricInterpretation {directory.photometric}, expected RGB (2)", CONVERT
        )


def _check_coding(path: Path, page: Any) -> None:
    """Refuse a coding that imagecodecs does not know."""
    try:
        tifffile.TIFF.DECOMPRESSORS[page.compression]
    except Exception as error:  # an unknown number, or a codec that is not there on this platform
        coding = f"TIFF's Compression {int(page.compression)}"
        raise SlideError(f"{path} has tiles of {coding}, which no reader here decodes", CONVERT) from error


def _subifds(page: Any) -> list[Any]:
    return [page.pages[number].aspage() for number in range(min(len(page.pages), _MAX_SUBIFDS))] if page.subifds else []


def _is_alike(page: Any, slide: Any) -> bool:
    return (page.samplesperpixel, page.bitspersample) == (slide.samplesperpixel, slide.bitspersample)


def _size(page: Any) -> Size:
    return Size(int(page.imagewidth), int(page.imagelength))
