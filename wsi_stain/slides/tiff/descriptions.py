"""Facts in the free texts of a TIFF on its images: OME-XML, and the lines that vendors write. Opens no file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from wsi_stain.core.geometry import Mpp, Size
from wsi_stain.slides.tiff.directories import TiffDirectory

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
