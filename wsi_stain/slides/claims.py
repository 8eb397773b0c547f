"""Claims of a slide's file, checked before any pixel; those that OpenSlide does not pass on are read beside it.

Among them is the scanner that made it, as its properties name it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_stain.core.arrays import Mask
from wsi_stain.core.errors import SlideError
from wsi_stain.core.geometry import GlassPlacement, Mpp, Size
from wsi_stain.core.storage import StoragePath
from wsi_stain.slides.dicom_series import DicomLevel, absent_frames, check_frames, dicom_levels
from wsi_stain.slides.remedies import DAMAGED
from wsi_stain.slides.resolution import Resolution
from wsi_stain.slides.tiff.checks import check_colour, check_content, check_images, check_level, described_image
from wsi_stain.slides.tiff.directories import (
    TiffDirectory,
    in_order,
    of_levels,
    ome_images,
    read_directories,
    vendor_text,
)

_MAX_SIDE = 2**21
_MAX_LEVELS = 64
PLAIN_VENDORS = {"aperio", "generic-tiff"}
"""Formats whose levels are directories of tiles side by side, without gaps or overlaps."""

_PHILIPS = "philips"
_TIFF_VENDORS = {*PLAIN_VENDORS, "trestle", "leica", "ventana", _PHILIPS}


@dataclass(frozen=True)
class SlideClaims:
    """Claims of a file on its slide, beside what OpenSlide passes on.

    Attributes:
        directories: Of each level the TIFF directory that holds its tiles side by side; None where there is none.
        mpp: Each level's own resolution, um per px, or None.
        may_pad: Whether sizes of levels are as the file states them, and so may be padded to whole tiles.
        described: Resolutions of level 0 that its texts state.
        objective_power: As those texts state it, or None.
        placement: How level 0 lies on the glass, or None.
        remarks: Doubts, a sentence each.
        lacks_tiles: Whether tiles of some image in the file were never written, wherever they lie.
        is_sparse: Whether the format leaves glass out on all levels, so that what no level has is no fault.
        absent_frames: Of each level (rows, columns): the frames that DICOM leaves out; None where there are none.
    """

    directories: Sequence[TiffDirectory | None]
    mpp: Sequence[Mpp | None]
    may_pad: bool
    described: Sequence[Resolution] = ()
    objective_power: float | None = None
    placement: GlassPlacement | None = None
    remarks: tuple[str, ...] = ()
    lacks_tiles: bool = False
    is_sparse: bool = False
    absent_frames: Sequence[Mask | None] = ()

    @property
    def absent(self) -> list[Mask | None]:
        """Of each level (rows, columns): tiles that were never written; None where all were, or nothing tells which."""
        if self.absent_frames:
            return [*self.absent_frames]
        return [None if own is None or own.counts.all() else own.absent for own in self.directories]


def check_sizes(path: StoragePath, sizes: Sequence[Size]) -> None:
    """Refuse, by a SlideError, sizes that no slide has."""
    if len(sizes) > _MAX_LEVELS or any(not 1 <= side <= _MAX_SIDE for size in sizes for side in size):
        raise SlideError(
            f"{path} states {len(sizes)} levels of {[tuple(size) for size in sizes[:4]]} px, expected sides of 1"
            f" to {_MAX_SIDE} and at most {_MAX_LEVELS} levels",
            DAMAGED,
        )


def read_claims(path: Path, vendor: str, sizes: Sequence[Size]) -> SlideClaims:
    """Read a slide's claims.

    Args:
        path: Its file.
        vendor: OpenSlide's name for its format.
        sizes: Sizes of the levels as OpenSlide gives them, finest first.

    Raises:
        SlideError: They do not hold, or OpenSlide would show the file wrongly.
    """
    nothing: list[TiffDirectory | None] = [None] * len(sizes)
    if vendor == "dicom":
        levels = dicom_levels(path)
        check_frames(path, levels)
        stated = {level.size: level for level in levels}
        mpp = [stated[size].mpp if size in stated else None for size in sizes]
        placement = stated[sizes[0]].placement if sizes[0] in stated else None
        absent = [absent_frames(levels, size) for size in sizes]
        return SlideClaims(
            nothing,
            mpp,
            may_pad=True,
            placement=placement,
            is_sparse=True,
            absent_frames=absent,
            remarks=_off_grid(levels),
        )
    directories = read_directories(path) if vendor in _TIFF_VENDORS else []
    own = of_levels(directories, sizes)
    for directory in own:
        if directory is not None:
            check_level(path, directory)
    mpp = [directory.mpp if directory else None for directory in own]
    if vendor not in PLAIN_VENDORS or not directories:
        tables = in_order(directories, len(sizes)) if vendor == _PHILIPS else nothing
        lacks_tiles = any(directory.tile and not directory.counts.all() for directory in directories)
        return SlideClaims(tables, mpp, may_pad=False, lacks_tiles=lacks_tiles, is_sparse=vendor == _PHILIPS)
    if vendor == "generic-tiff":
        check_colour(path, own[0] or directories[0])
    if own[0] is not None:
        check_content(path, own[0], path.stat().st_size)
    remarks = check_images(path, directories, sizes) if vendor == "generic-tiff" else ()
    described, power = _read_texts(directories, own[0] or directories[0])
    return SlideClaims(own, mpp, may_pad=True, described=described, objective_power=power, remarks=remarks)


def _off_grid(levels: Sequence[DicomLevel]) -> tuple[str, ...]:
    """Return a doubt where nothing tells which frames of a DICOM slide were left out."""
    if all(level.is_full or level.places is not None for level in levels):
        return ()
    return ("where its frames lie is not known by a grid: what was left out is shown as glass, tissue as well",)


def _read_texts(directories: Sequence[TiffDirectory], level_0: TiffDirectory) -> tuple[list[Resolution], float | None]:
    """Return what the texts of a TIFF say of its level 0: resolutions, and the objective's magnification."""
    image, text = described_image(ome_images(directories[0].description), level_0), vendor_text(level_0)
    said = [("ome-xml", image), ("description", text)]
    powers = [found.power for _, found in said if found and found.power]
    resolutions = [Resolution(found.mpp, origin) for origin, found in said if found and found.mpp]
    return resolutions, powers[0] if powers else None


_MODELS = (
    *("aperio.ScannerType", "hamamatsu.Product", "leica.device-model", "ventana.ScannerModel"),
    *("philips.DICOM_MANUFACTURERS_MODEL_NAME", "dicom.ManufacturerModelName", "tiff.Model"),
)
_SERIALS = (
    *("aperio.ScanScope ID", "hamamatsu.NDP.S/N", "hamamatsu.Macro.S/N", "ventana.UnitNumber"),
    *("philips.DICOM_DEVICE_SERIAL_NUMBER", "dicom.DeviceSerialNumber", "leica.device-serial"),
)
_MAKER = "openslide.vendor"
_GENERIC = ("generic-tiff", "unknown", "")
_LONGEST = 64


def name_scanner(properties: Mapping[str, str], icc_profile: bytes | None) -> str:
    """Name the scanner by its maker, model, serial number and ICC profile: equal for slides of one scanner.

    Args:
        properties: As OpenSlide gives them.
        icc_profile: The profile of the slide's pixels.

    Returns:
        One line; empty where the file names neither a model nor a serial number: then nothing tells scanners apart.
    """
    model, serial = _first(properties, _MODELS), _first(properties, _SERIALS)
    if not model and not serial:
        return ""
    maker = properties.get(_MAKER, "")
    parts = [
        "" if maker.lower() in _GENERIC or model.lower().startswith(maker.lower()) else maker,
        model,
        f"no. {serial}" if serial else "",
    ]
    name = " ".join(part for part in parts if part)
    return f"{name}, ICC {hashlib.sha256(icc_profile).hexdigest()[:8]}" if icc_profile else name


def _first(properties: Mapping[str, str], names: tuple[str, ...]) -> str:
    """Return the first of some properties that is there, on one line of at most 64 characters."""
    found = (" ".join(properties.get(name, "").split()) for name in names)
    return next((text[:_LONGEST] for text in found if text), "")
