"""Directories of a TIFF slide: their claims, as tifffile reads them, and what their free texts say of their images.

A second witness beside OpenSlide, which passes on neither a directory's Orientation nor which of its tiles are missing.
The texts are OME-XML, and the lines that vendors write. Decodes no pixels. Knows no slides.

Memory bound: for each tile of the file 16 B, its place.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_stain.core.geometry import Mpp, Size, ceil_div

tifffile.logger().addHandler(logging.NullHandler())  # what is odd about a file is said by `checks`, not on the terminal

_MAX_DIRECTORIES = 256
_UM_PER_UNIT = {2: 25_400.0, 3: 10_000.0}
"""By the tag ResolutionUnit: inch, centimetre."""

_REDUCED_IMAGE, _SEPARATE_PLANES = 1, 2
_TILES = 324
"""The tag TileOffsets: whoever has it has tiles, also of width 0, which tifffile takes for strips."""


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


def in_order(directories: Sequence[TiffDirectory], count: int) -> list[TiffDirectory | None]:
    """Return each level's directory where these are all the tiled images; None where there are more or fewer.

    So it is in a Philips TIFF, whose images are padded to whole tiles, of which OpenSlide's levels show less.
    """
    tiled = [directory for directory in directories if directory.tile]
    return [*tiled] if len(tiled) == count else [None] * count


def describe_directory(number: int, page: Any) -> TiffDirectory:
    """Describe one directory of an open TIFF, given its place and tifffile's page of it."""
    tags, samples = page.tags, int(page.samplesperpixel)
    separate = int(page.planarconfig or 1) == _SEPARATE_PLANES
    listed = min(len(page.dataoffsets), len(page.databytecounts))
    return TiffDirectory(
        number=number,
        size=Size(int(page.imagewidth), int(page.imagelength)),
        tile=Size(int(page.tilewidth), int(page.tilelength)) if page.is_tiled or _TILES in tags else None,
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


_UM = {"m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "nm": 1e-3}
_NUMBER = r"[\"']?\s*[=:]\s*[\"']?(\d*\.?\d+(?:[eE][-+]?\d+)?)\s*(nm|mm|[uµμ]m|microns?)?"
_SIDES = re.compile(
    rf"(?i)(?<![a-z])(?:mpp|pixel ?size|micro(?:ns|metres|meters)[ _]?per[ _]?pixel|um[/_]px)[ _-]?([xy])?{_NUMBER}"
)
_POWER = re.compile(
    r"(?i)(?<![a-z])(?:app ?mag|(?:objective|nominal)?[ _-]?(?:magnification|power))[\"']?\s*[=:]\s*(\d+)"
)
_IMAGEJ_UNIT = re.compile(r"(?m)^unit=(\S+)")
_LONGEST = 2**20

_NO_SLIDE = re.compile(r"(?i)label|macro|overview|thumb|barcode|preview")


@dataclass(frozen=True)
class DescribedImage:
    """One image as its file describes it.

    Attributes:
        name: Its name, empty where it has none.
        size: Width and height, px; None where the text does not say.
        directory: Number of the directory that holds it, or None.
        mpp: Its resolution, um per px, or None.
        power: The objective's magnification, or None.
    """

    name: str
    size: Size | None
    directory: int | None
    mpp: Mpp | None
    power: float | None

    @property
    def is_no_slide(self) -> bool:
        """True if its name says that it shows a label or the whole glass, and not the tissue in detail."""
        return _NO_SLIDE.search(self.name) is not None


def ome_images(text: str) -> list[DescribedImage]:
    """Return the images of an OME-XML text, in its order; none where it is no such text."""
    if len(text) > _LONGEST or "OME" not in text or "<!" in text.replace("<!--", ""):  # no OME-XML declares entities
        return []
    try:
        root = ET.fromstring(text)  # noqa: S314
    except (ET.ParseError, ValueError):
        return []
    powers = {
        lens.get("ID", ""): _positive(lens.get("NominalMagnification") or lens.get("CalibratedMagnification"))
        for lens in _all(root, "Objective")
    }
    return [_ome_image(image, powers) for image in _all(root, "Image")]


def vendor_text(directory: TiffDirectory) -> DescribedImage | None:
    """Return what the lines of a directory's own description say of its resolution and objective, if they do."""
    text = directory.description[:_LONGEST]
    if text.lstrip().startswith("<"):
        return None
    mpp, power = _text_mpp(text) or _imagej_mpp(directory, text), _POWER.search(text)
    if mpp is None and power is None:
        return None
    return DescribedImage("", directory.size, directory.number, mpp, float(power[1]) if power else None)


def _all(root: ET.Element, name: str) -> Sequence[ET.Element]:
    """Find all elements of a name, in whatever version of the schema."""
    return [element for element in root.iter() if element.tag.rpartition("}")[2] == name]


def _ome_image(image: ET.Element, powers: dict[str, float | None]) -> DescribedImage:
    pixels = next(iter(_all(image, "Pixels")), ET.Element("Pixels"))
    planes = [int(place) for data in _all(pixels, "TiffData") if (place := data.get("IFD", "0")).isdigit()]
    lens = next((found.get("ID", "") for found in _all(image, "ObjectiveSettings")), "")
    sides = [pixels.get(f"Size{axis}", "") for axis in "XY"]
    x, y = (_um(pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "XY")
    return DescribedImage(
        name=image.get("Name", ""),
        size=Size(*map(int, sides)) if all(side.isdigit() for side in sides) else None,
        directory=min(planes, default=None),
        mpp=Mpp(x or y or 0.0, y or x or 0.0) if x or y else None,
        power=powers.get(lens),
    )


def _um(text: str | None, unit: str) -> float | None:
    value, factor = _positive(text), _UM.get(unit)
    return value * factor if value and factor else None


def _text_mpp(text: str) -> Mpp | None:
    found = {axis.lower(): _um(value, unit.lower() or "um") for axis, value, unit in _SIDES.findall(text)}
    x, y = (found.get(axis) or found.get("") or None for axis in "xy")
    return Mpp(x or y or 0.0, y or x or 0.0) if x or y else None


def _imagej_mpp(directory: TiffDirectory, text: str) -> Mpp | None:
    """Read ImageJ's resolution: it writes pixels per unit into the tags, and the unit's name into the text."""
    if not text.startswith("ImageJ=") or (unit := _IMAGEJ_UNIT.search(text)) is None:
        return None
    factor = _UM.get(unit[1].replace("\\u00B5", "µ").lower())
    if factor is None or directory.pixels_per_unit is None:
        return None
    return Mpp(*(factor / count for count in directory.pixels_per_unit))


def _positive(text: str | None) -> float | None:
    try:
        value = float(text or 0)
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None
