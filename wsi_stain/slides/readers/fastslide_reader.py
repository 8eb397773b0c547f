"""FastSlide as a reader of formats that nothing else here reads: VSI, QPTIFF, iSyntax, CZI. The extra `fastslide`.

Memory bound: beside the pixels returned, the tiles that they touch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.errors import SlideError, UnreadableError
from wsi_stain.core.geometry import Mpp, Region, Size
from wsi_stain.slides.claims import SlideClaims, check_sizes
from wsi_stain.slides.readers.base import NO_SLIDE_REMEDY
from wsi_stain.slides.remedies import DAMAGED
from wsi_stain.slides.resolution import Resolution

SUFFIXES = (".vsi", ".qptiff", ".isyntax", ".czi")
"""Formats that are left to it, lower case."""

_TILE = Size(256, 256)


class FastSlideReader:
    """A slide that FastSlide reads, as a `SlideReader`.

    Args:
        path: The file.

    Raises:
        SlideError: FastSlide is missing or cannot read it, or it is no bright-field slide of 8 bits.
    """

    name = "fastslide"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._slide = _open(path)
        self._image = self._slide.images.primary
        self.sizes = [Size(*size) for size in self._image.level_dimensions]
        check_sizes(path, self.sizes)
        self.tiles = [_TILE] * len(self.sizes)
        _check_samples(path, self._image.read_region((0, 0), len(self.sizes) - 1, (1, 1)).numpy())
        x, y = self._image.mpp
        described = [Resolution(Mpp(float(x), float(y)), "fastslide")] if x and y and x > 0 and y > 0 else []
        self.claims = SlideClaims([None] * len(self.sizes), [None] * len(self.sizes), False, described)
        self.properties = {"openslide.vendor": path.suffix.lower().lstrip(".")}
        self.background, self.icc_profile, self.icc_problem = (255, 255, 255), None, ""

    def read(self, level: int, region_level: Region) -> NDArray[np.uint8]:
        """Read RGB pixels of a region within a level, (height, width, 3).

        Raises:
            UnreadableError: It cannot be decoded.
        """
        x, y, width, height = region_level
        try:
            image = self._image.read_region((x, y), level, (width, height)).to_interleaved()
            return np.array(image.numpy(), np.uint8)[..., :3]
        except Exception as error:  # whatever a codec makes of damaged bytes
            raise UnreadableError(f"{self.path} cannot be read at level {level}: {error}", DAMAGED) from error

    def close(self) -> None:
        """Release the file."""
        self._image = self._slide = None


def _open(path: Path) -> Any:
    try:
        from fastslide import FastSlide
    except ImportError as error:
        raise SlideError(
            f"{path} is {path.suffix}, which OpenSlide does not read, and FastSlide is missing: {error}",
            "Install the extra: pip install 'wsi-stain[fastslide]'; or convert it to a pyramidal TIFF",
        ) from error
    try:
        return FastSlide.from_file_path(path)
    except Exception as error:  # whatever it makes of a strange file
        raise SlideError(f"{path} cannot be opened by FastSlide: {error}", DAMAGED) from error


def _check_samples(path: Path, pixels: Any) -> None:
    values = np.asarray(pixels)
    if values.dtype != np.uint8 or values.ndim != 3 or values.shape[-1] not in (3, 4):
        found = f"samples of {values.dtype} in the shape {values.shape}"
        raise SlideError(f"{path} has {found}, expected RGB of 8 bits", NO_SLIDE_REMEDY)
