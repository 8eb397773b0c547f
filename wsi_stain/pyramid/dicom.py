"""The DICOM rendering of a finished pyramid: a directory of VL Whole Slide Microscopy files, one a level.

Tiles are copied from the hybrid OME-TIFF by wsidicomizer (the extra `dicom`), so that no pixel is compressed again.
Nothing is known of the patient, the specimen or the time, and nothing is made up: fields that may be empty are empty,
and where DICOM insists on a moment it is 1970-01-01. It insists on a place on the glass as well: where that is not
known it is a nominal one, and the frame of reference says that it refers to nothing. UIDs derive from the task's key.
Equal tasks give equal bytes.

Memory bound: offsets of tiles and frames: some 250 MB with all libraries at 150,000 x 100,000 px.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_stain.core.errors import ConfigError
from wsi_stain.core.geometry import GlassPlacement, Mpp
from wsi_stain.core.icc import input_profile, srgb_profile
from wsi_stain.core.journal import describe_files, explain_failed_write, make_directory
from wsi_stain.core.receipts import Receipt, commit_directory, directory_product, partial_directory, valid_receipt

_MOST_BASIC_OFFSET = 2**32 - 1
"""The basic table has 32 bits for an offset within a file; larger files need the extended one."""

_UM_PER_MM = 1000
_LONGEST_TEXT = 1024
_NOMINAL_ORIENTATION = (0.0, -1.0, 0.0, -1.0, 0.0, 0.0)
"""Rows run along the glass towards its corner, columns across it: the usual one in PS3.3, C.8.12.2.1."""

_NO_TIME = {"ContentDate": b"19700101", "ContentTime": b"000000.000000"}


@dataclass(frozen=True)
class DicomTask:
    """One pyramid to render.

    Attributes:
        slide_id: The slide's name in receipts; it does not go into the files.
        pyramid: The hybrid OME-TIFF.
        mpp: Resolution of level 0, um per px.
        objective_power: Nominal magnification, or None when it is not known.
        placement: How the slide lies on its glass, or None when it is not known.
        icc_profile: Profile of the pixels' colour space; DICOM wants one of an input device, and None makes it sRGB.
        provenance: How the pixels were made; goes into the derivation description, so no free text of the source.
        output: The directory's final name.
        receipt: Where the receipt goes.
        key: Fingerprint of everything that the pyramid depends on.
    """

    slide_id: str
    pyramid: Path
    mpp: Mpp
    objective_power: float | None
    placement: GlassPlacement | None
    icc_profile: bytes | None
    provenance: Mapping[str, str]
    output: Path
    receipt: Path
    key: str


def require_dicom() -> None:
    """Check that DICOM can be written here.

    Raises:
        ConfigError: wsidicomizer is missing.
    """
    try:
        import wsidicomizer  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"DICOM cannot be written: {error}", "Install the extra: pip install 'wsi-stain[dicom]'"
        ) from error


class DicomReceipt(Receipt):
    """Receipt of a DICOM pyramid: the slide's name, and the number of levels."""

    slide_id: str
    levels: int


def write_dicom(task: DicomTask) -> DicomReceipt:
    """Render a pyramid as DICOM, unless the valid receipt says that this is done.

    Returns:
        The receipt.

    Raises:
        ConfigError: wsidicomizer is missing.
        OutputError: The files cannot be written.
    """
    done = valid_receipt(task.receipt, task.key, task.output, DicomReceipt)
    if done is not None:
        return done
    require_dicom()
    folder = partial_directory(task.output)
    try:
        shutil.rmtree(folder, ignore_errors=True)
        make_directory(folder)
        paths = _save_levels(task, folder)
        for path in paths:
            _reset_times(path)
    except OSError as error:
        raise explain_failed_write(folder, error) from error
    receipt: DicomReceipt = {
        "key": task.key,
        "product": directory_product(task.output.name, describe_files(folder)),
        "slide_id": task.slide_id,
        "levels": len(paths),
    }
    return commit_directory(folder, task.output, task.receipt, receipt)


def _save_levels(task: DicomTask, folder: Path) -> list[Path]:
    """Write one file a level; returns their paths."""
    from pydicom.uid import generate_uid
    from wsidicomizer import WsiDicomizer

    from wsi_stain.pyramid.dicom_source import make_source

    numbers = itertools.count()  # one thread asks for them, always in the same order

    def uid() -> Any:
        return generate_uid(entropy_srcs=[task.key, str(next(numbers))])

    source = make_source(task.mpp, input_profile(task.icc_profile or srgb_profile()), task.objective_power)
    large = task.pyramid.stat().st_size > _MOST_BASIC_OFFSET
    with WsiDicomizer.open(task.pyramid, preferred_source=source, uid_generator=uid) as slide:
        levels = list(slide.pyramids[0])
        for level in levels:
            for instance in level.instances.values():
                _describe(instance.dataset, task)
                _place_on_glass(instance.dataset, task.placement or _nominal_placement(levels[0].size, task.mpp))
                if task.placement is None:
                    instance.dataset.PositionReferenceIndicator = ""
        saved: Iterable[Any] = slide.save(
            folder,
            uid_generator=uid,
            workers=1,
            offset_table="eot" if large else "bot",
            include_labels=False,
            include_overviews=False,
            include_thumbnails=False,
        )
        return [Path(path) for path in saved]


def _describe(dataset: Any, task: DicomTask) -> None:
    """Record in one level's dataset that its pixels are derived, and how."""
    image_type = ["DERIVED", *dataset.ImageType[1:]]
    dataset.ImageType = image_type
    (shared,) = dataset.SharedFunctionalGroupsSequence
    shared.WholeSlideMicroscopyImageFrameTypeSequence[0].FrameType = image_type
    derivation = "; ".join(f"{name}={value}" for name, value in sorted(task.provenance.items()))
    dataset.DerivationDescription = f"Stain normalized. {derivation}"[:_LONGEST_TEXT]


def _nominal_placement(size: Any, mpp: Mpp) -> GlassPlacement:
    """Place level 0 of a size, px, so that the pixel farthest from the first lies in the corner of the glass.

    The standard wants a place, known or not (type 1). That it means nothing is said by the position reference
    indicator, which may be empty (type 2); with `SLIDE_CORNER` it would be a measured one.
    """
    return GlassPlacement(_NOMINAL_ORIENTATION, size.height * mpp.y / _UM_PER_MM, size.width * mpp.x / _UM_PER_MM)


def _place_on_glass(dataset: Any, placement: GlassPlacement) -> None:
    """Record in one level's dataset how the slide lies on the glass."""
    from pydicom import Dataset
    from pydicom.valuerep import DSfloat

    origin = Dataset()
    origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = (
        DSfloat(offset_mm, auto_format=True) for offset_mm in (placement.x_mm, placement.y_mm)
    )
    dataset.TotalPixelMatrixOriginSequence = [origin]
    dataset.ImageOrientationSlide = [DSfloat(cosine, auto_format=True) for cosine in placement.orientation]


def _reset_times(path: Path) -> None:
    """Put the same time into every file in place of the moment of writing, and make the file durable."""
    from pydicom import dcmread

    dataset = dcmread(path, stop_before_pixels=True)
    with open(path, "r+b") as file:
        for name, value in _NO_TIME.items():
            element = dataset.get_item(name)
            file.seek(element.value_tell)
            file.write(value.ljust(element.length))
        file.flush()
        os.fsync(file.fileno())
