"""DICOM slides: one series, many files side by side. Reads headers, never pixels, and regular files alone.

OpenSlide opens any one file of a series and finds the others in the same directory by their SeriesInstanceUID; so a
slide is what shares a directory and a series, whatever the files are called and whatever else lies among them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from wsi_stain.core.arrays import Mask
from wsi_stain.core.errors import SlideError
from wsi_stain.core.geometry import GlassPlacement, Mpp, Size, ceil_div
from wsi_stain.core.storage import odd_kind
from wsi_stain.slides.remedies import DAMAGED

_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""SOP class of a VL Whole Slide Microscopy Image (DICOM PS3.4, B.5)."""

_SOP_CLASS, _SERIES = 0x0008_0016, 0x0020_000E
_UID = re.compile(r"[0-9.]{1,64}")
_LEVEL_TAGS = [
    *("ImageType", "TotalPixelMatrixColumns", "TotalPixelMatrixRows", "ImageOrientationSlide"),
    *("TotalPixelMatrixOriginSequence", "PositionReferenceIndicator", "SharedFunctionalGroupsSequence"),
    *("Columns", "Rows", "NumberOfFrames", "DimensionOrganizationType"),
]
_UM_PER_MM = 1000
_PREAMBLE, _MAGIC = 128, b"DICM"


class Header(NamedTuple):
    """Header of a DICOM file: its SeriesInstanceUID, and whether it is of a whole slide."""

    series: str
    is_whole_slide: bool


def is_dicom_name(name: str) -> bool:
    """Check whether a file's name claims that it is DICOM."""
    return name.lower().endswith(".dcm")


def may_be_dicom(name: str) -> bool:
    """Check whether a file of this name is worth a look.

    Archives leave `.dcm` out: they write `IM000001`, or a UID, which ends in a dot and digits.
    """
    return is_dicom_name(name) or re.fullmatch(r"|\.\d+", Path(name).suffix) is not None


def read_header(path: Path) -> Header | None:
    """Return the header of a file; None for a file that is not DICOM, or cannot be read as such."""
    if not may_be_dicom(path.name) or odd_kind(path):
        return None
    try:
        with path.open("rb") as file:
            return _parse_header(file) if file.read(_PREAMBLE + len(_MAGIC))[_PREAMBLE:] == _MAGIC else None
    except OSError:
        return None


def find_series(files: Iterable[Path]) -> dict[str, list[Path]]:
    """Sort out the whole-slide files among some, by SeriesInstanceUID, both sorted; all else is left out."""
    files_by_series: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(files):
        header = read_header(path)
        if header is not None and header.is_whole_slide:
            files_by_series[header.series].append(path)
    return dict(sorted(files_by_series.items()))


def files_of_slide(path: Path) -> list[Path]:
    """Find all files of the slide that a file belongs to, sorted; the file alone where it is no whole-slide DICOM."""
    header = read_header(path)
    return find_series(path.parent.iterdir()).get(header.series, [path]) if header else [path]


class DicomLevel(NamedTuple):
    """Level of a DICOM slide as its file describes it.

    Attributes:
        size: Width and height of the whole image, px.
        tile: Width and height of a frame, px.
        frames: How many frames the file has.
        is_full: Whether its frames cover the whole image, in one or several files (TILED_FULL).
        places: (row, column) of each frame in the grid of frames; None where they cover the whole image, or lie off it.
        mpp: Resolution, um per px, or None.
        placement: How it lies on the glass, or None.
    """

    size: Size
    tile: Size
    frames: int
    is_full: bool
    places: frozenset[tuple[int, int]] | None
    mpp: Mpp | None
    placement: GlassPlacement | None


def dicom_levels(path: Path) -> list[DicomLevel]:
    """Return the levels of the slide that a file belongs to; labels and overviews are left out."""
    levels = [level for file in files_of_slide(path) if (level := _level(file)) is not None]
    return sorted(levels, key=lambda level: -level.size.width)


def check_frames(path: Path, levels: Sequence[DicomLevel]) -> None:
    """Refuse a slide one of whose levels claims more than its frames cover.

    Raises:
        SlideError: It has fewer frames than its size takes.
    """
    for size in {level.size for level in levels}:
        own = [level for level in levels if level.size == size]
        columns, rows = (ceil_div(length, tile) for length, tile in zip(size, own[0].tile, strict=True))
        listed = sum(level.frames for level in own)
        if all(level.is_full for level in own) and listed < rows * columns:
            tile = f"{own[0].tile.width} x {own[0].tile.height} px"
            raise SlideError(
                f"{path} claims {size.width} x {size.height} px, which take {rows * columns} frames of {tile}, but has"
                f" {listed} frames",
                DAMAGED,
            )


def absent_frames(levels: Sequence[DicomLevel], size: Size) -> Mask | None:
    """Return (rows, columns): the frames that all files of a level leave out (TILED_SPARSE).

    Args:
        levels: Of the slide.
        size: The level's, px.

    Returns:
        None where there are none, or where frames lie off the grid.
    """
    own = [level for level in levels if level.size == size]
    if not own or any(level.is_full or level.places is None for level in own):
        return None
    absent = np.ones([ceil_div(*sides) for sides in zip(size[::-1], own[0].tile[::-1], strict=True)], bool)
    for row, column in frozenset[tuple[int, int]]().union(*(level.places or () for level in own)):
        if 0 <= row < absent.shape[0] and 0 <= column < absent.shape[1]:
            absent[row, column] = False
    return absent if absent.any() else None


def _level(path: Path) -> DicomLevel | None:
    from pydicom import dcmread

    try:
        header = dcmread(path, stop_before_pixels=True, specific_tags=_LEVEL_TAGS)
        if "VOLUME" not in header.ImageType:
            return None
        size = Size(int(header.TotalPixelMatrixColumns), int(header.TotalPixelMatrixRows))
        tile, frames = Size(int(header.Columns), int(header.Rows)), int(header.NumberOfFrames)
        is_full = header.get("DimensionOrganizationType") == "TILED_FULL"
        places = None if is_full else _frame_places(path, path.stat().st_mtime_ns, tile)
        return DicomLevel(size, tile, frames, is_full, places, _spacing(header), _placement(header))
    except Exception:  # a damaged header may fail anywhere within the library; OpenSlide judges the file
        return None


@lru_cache(maxsize=64)
def _frame_places(path: Path, changed_ns: int, tile: Size) -> frozenset[tuple[int, int]] | None:
    """Return where the frames of a file lie, (row, column); None where one lies off their grid. Slow, so remembered."""
    from pydicom import dcmread

    header = dcmread(path, stop_before_pixels=True, specific_tags=["PerFrameFunctionalGroupsSequence"])
    places = set()
    for frame in header.get("PerFrameFunctionalGroupsSequence") or ():
        position = frame.PlanePositionSlideSequence[0]
        x, y = position.ColumnPositionInTotalImagePixelMatrix - 1, position.RowPositionInTotalImagePixelMatrix - 1
        if x % tile.width or y % tile.height:
            return None
        places.add((y // tile.height, x // tile.width))
    return frozenset(places) or None


def _spacing(header: Any) -> Mpp | None:
    try:
        (shared,) = header.SharedFunctionalGroupsSequence
        rows, columns = shared.PixelMeasuresSequence[0].PixelSpacing
        return Mpp(float(columns) * _UM_PER_MM, float(rows) * _UM_PER_MM)
    except (AttributeError, IndexError, TypeError, ValueError):
        return None


def _placement(header: Any) -> GlassPlacement | None:
    """Return how a level lies on the glass; None too where its frame of reference refers to nothing."""
    if not header.get("PositionReferenceIndicator"):
        return None
    try:
        (origin,) = header.TotalPixelMatrixOriginSequence
        x, y = origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem
        a, b, c, d, e, f = map(float, header.ImageOrientationSlide)
        return GlassPlacement((a, b, c, d, e, f), float(x), float(y))
    except (AttributeError, TypeError, ValueError):
        return None


def _parse_header(file: BinaryIO) -> Header | None:
    from pydicom.filereader import read_partial

    file.seek(0)
    try:
        values = read_partial(file, lambda tag, _, __: tag > _SERIES, specific_tags=[_SOP_CLASS, _SERIES])
        series = str(values.get("SeriesInstanceUID"))
        return Header(series, values.get("SOPClassUID") == _WHOLE_SLIDE) if _UID.fullmatch(series) else None
    except Exception:  # a damaged header may fail anywhere within the library
        return None
