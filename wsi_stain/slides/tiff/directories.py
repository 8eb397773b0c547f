"""Directories of a TIFF slide: their claims, as tifffile reads them. Decodes no pixels and knows no slide.

A second witness beside OpenSlide, which passes on neither a directory's Orientation nor which of its tiles are missing.

Memory bound: for each tile of the file 16 B, its place.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_stain.core.geometry import Mpp, Size, ceil_div

tifffile.logger().addHandler(logging.NullHandler())  # what is odd about a file is said by `checks`, not on the terminal

_MAX_DIRECTORIES = 256
_UM_PER_UNIT = {2: 25_400.0, 3: 10_000.0}
"""By the tag ResolutionUnit: inch, centimetre."""

_REDUCED_IMAGE, _SEPARATE_PLANES = 1, 2


@dataclass(frozen=True)
class TiffDirectory:
    """One image of a TIFF.

    Attributes:
        number: Its place in the chain of directories, from 0.
        size: Width and height, px.
        tile: Width and height of its tiles, px; None where it is stored in strips.
        offsets: Where each tile starts in the file, row by row, (n,); those that the table lists.
        counts: Bytes of each tile, (n,); 0 where the tile was never written.
        orientation: The tag Orientation: 1 where the first row is the top and the first column the left.
        pixels_per_unit: The tags XResolution and YResolution, or None.
        unit_um: The tag ResolutionUnit, um; None where it names no unit.
        description: The tag ImageDescription.
        is_reduced: Whether the tag NewSubfileType calls it a smaller version of another image.
        compression: The tag Compression.
        photometric: The tag PhotometricInterpretation.
        samples: Samples in a pixel.
        bits: Bits of a sample.
        sample_format: The tag SampleFormat: 1 unsigned, 2 signed, 3 floating point.
        planes: Separate planes that its tiles come in: 1 where samples are interleaved.
        depth: Images in the stack that its tiles hold.
        jpeg_tables: What its JPEG tiles share, or none.
        icc_profile: The tag InterColorProfile, or None.
    """

    number: int
    size: Size
    tile: Size | None
    offsets: NDArray[np.uint64]
    counts: NDArray[np.uint64]
    orientation: int
    pixels_per_unit: tuple[float, float] | None
    unit_um: float | None
    description: str
    is_reduced: bool
    compression: int
    photometric: int
    samples: int
    bits: int
    sample_format: int
    planes: int
    depth: int
    jpeg_tables: bytes
    icc_profile: bytes | None

    @property
    def mpp(self) -> Mpp | None:
        """Resolution by the tags, um per px, or None."""
        if self.unit_um is None or self.pixels_per_unit is None:
            return None
        x, y = self.pixels_per_unit
        return Mpp(self.unit_um / x, self.unit_um / y)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of tiles that cover the image; (0, 0) where it has none."""
        if self.tile is None:
            return 0, 0
        return ceil_div(self.size.height, self.tile.height), ceil_div(self.size.width, self.tile.width)

    @property
    def absent(self) -> NDArray[np.bool_]:
        """(rows, columns): tiles of which some plane was never written."""
        rows, columns = self.grid
        return np.asarray((self.counts[: self.planes * rows * columns] == 0).reshape(-1, rows, columns).any(axis=0))


def read_directories(path: Path) -> list[TiffDirectory]:
    """Return the directories of a file's main chain; none where tifffile cannot read it as TIFF."""
    try:
        with tifffile.TiffFile(path) as tiff:
            return [
                describe_directory(number, page) for number, page in enumerate(islice(tiff.pages, _MAX_DIRECTORIES))
            ]
    except Exception:  # whatever a parser makes of a strange file: OpenSlide decides whether it is a slide
        return []


def of_levels(directories: Sequence[TiffDirectory], sizes: Sequence[Size]) -> list[TiffDirectory | None]:
    """Return each level's directory: the one tiled image of its size; None where there is none, or several.

    Args:
        directories: All of the file.
        sizes: Of the levels, px.
    """
    alike = [[found for found in directories if found.tile and found.size == size] for size in sizes]
    return [found[0] if len(found) == 1 else None for found in alike]


def describe_directory(number: int, page: Any) -> TiffDirectory:
    """Describe one directory of an open TIFF, given its place and tifffile's page of it."""
    tags, samples = page.tags, int(page.samplesperpixel)
    separate = int(page.planarconfig or 1) == _SEPARATE_PLANES
    listed = min(len(page.dataoffsets), len(page.databytecounts))
    return TiffDirectory(
        number=number,
        size=Size(int(page.imagewidth), int(page.imagelength)),
        tile=Size(int(page.tilewidth), int(page.tilelength)) if page.is_tiled else None,
        offsets=np.array(page.dataoffsets[:listed], np.uint64),
        counts=np.array(page.databytecounts[:listed], np.uint64),
        orientation=_first(tags, 274, 1),
        pixels_per_unit=_pixels_per_unit(tags),
        unit_um=_UM_PER_UNIT.get(_first(tags, 296, 2)),
        description=str(page.description or ""),
        is_reduced=bool(_first(tags, 254, 0) & _REDUCED_IMAGE),
        compression=int(page.compression),
        photometric=int(page.photometric),
        samples=samples,
        bits=_first(tags, 258, 1),
        sample_format=_first(tags, 339, 1),
        planes=samples if separate else 1,
        depth=int(page.imagedepth),
        jpeg_tables=bytes(page.jpegtables or b""),
        icc_profile=bytes(tags[34675].value) if 34675 in tags else None,
    )


def _first(tags: Any, code: int, default: int) -> int:
    """Return the value of a tag, or the first of its values."""
    tag = tags.get(code)
    if tag is None:
        return default
    return int(tag.value[0] if isinstance(tag.value, tuple) else tag.value)


def _pixels_per_unit(tags: Any) -> tuple[float, float] | None:
    x, y = _ratio(tags, 282), _ratio(tags, 283)
    return (x or y, y or x) if x or y else None


def _ratio(tags: Any, code: int) -> float:
    """Read a rational tag's value; 0 where it is absent or no number above 0."""
    tag = tags.get(code)
    if tag is None or not isinstance(tag.value, tuple) or len(tag.value) != 2:
        return 0.0
    numerator, denominator = tag.value
    return float(numerator / denominator) if numerator > 0 and denominator > 0 else 0.0
