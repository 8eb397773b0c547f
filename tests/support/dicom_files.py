"""DICOM files: headers alone, for the tests of finding slides; slides of known pixels, also with frames left out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from tests.support.made_pyramid import stitch_task
from wsi_stain.pyramid import dicom
from wsi_stain.pyramid.stitch import stitch_slide

_WHOLE_SLIDE, _CT = UID("1.2.840.10008.5.1.4.1.1.77.1.6"), UID("1.2.840.10008.5.1.4.1.1.2")


def write_dicom(path: Path, series: str, whole_slide: bool = True, padding: int = 0) -> Path:
    """Write a file of a series, with `padding` bytes where pixels would be.

    Args:
        path: Where to; parent directories are made.
        series: SeriesInstanceUID. A sequence before it holds another one, which is not the file's.
        whole_slide: A whole-slide image; else CT.
        padding: An even number.
    """
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = _WHOLE_SLIDE if whole_slide else _CT
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    header, referenced = Dataset(), Dataset()
    header.SOPClassUID, header.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    referenced.SeriesInstanceUID = "9.9.9"
    header.ReferencedSeriesSequence = [referenced]
    header.PatientID = "P1"
    header.SeriesInstanceUID = series
    header.PixelData = bytes(padding)
    header["PixelData"].VR = "OB"
    path.parent.mkdir(parents=True, exist_ok=True)
    dcmwrite(path, FileDataset(path, header, file_meta=meta, preamble=bytes(128)), enforce_file_format=True)
    return path


def write_dicom_slide(folder: Path, pixels: NDArray[np.uint8]) -> Path:
    """Write a slide of 0.25 um per px in frames of 256 px, each level half the one before; return its directory."""
    task = stitch_task(folder, pixels.copy())
    stitch_slide(task)
    output = folder / "slide.dicom"
    dicom.write_dicom(
        dicom.DicomTask(
            slide_id="slide",
            pyramid=task.output,
            mpp=task.mpp,
            objective_power=40.0,
            placement=None,
            icc_profile=None,
            provenance={},
            output=output,
            receipt=folder / "dicom.json",
            key="key",
        )
    )
    return output


def leave_out_frames(folder: Path, left_out: Mapping[int, Collection[int]], shift: int = 0, **other: str) -> None:
    """Make a DICOM slide one of frames at places of their own (TILED_SPARSE), some of which are not there.

    Args:
        folder: Of its files.
        left_out: By the width of a level, px, the row-major numbers of frames.
        shift: How far right of their grid all frames lie, px.
        other: Elements that are to differ.
    """
    for path in folder.glob("*.dcm"):
        file = pydicom.dcmread(path)
        columns = -(-file.TotalPixelMatrixColumns // file.Columns)
        frames = enumerate(generate_frames(file.PixelData, number_of_frames=int(file.NumberOfFrames)))
        kept = [(n, frame) for n, frame in frames if n not in left_out.get(file.TotalPixelMatrixColumns, ())]
        places = []
        for number, _ in kept:
            place, item = Dataset(), Dataset()
            place.ColumnPositionInTotalImagePixelMatrix = number % columns * file.Columns + 1 + shift
            place.RowPositionInTotalImagePixelMatrix = number // columns * file.Rows + 1
            place.XOffsetInSlideCoordinateSystem = place.YOffsetInSlideCoordinateSystem = 0
            place.ZOffsetInSlideCoordinateSystem = 0
            item.PlanePositionSlideSequence = [place]
            places.append(item)
        file.update(other)
        file.DimensionOrganizationType, file.PerFrameFunctionalGroupsSequence = "TILED_SPARSE", places
        file.NumberOfFrames, file.PixelData = len(kept), encapsulate([frame for _, frame in kept])
        for name in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
            if name in file:
                del file[name]
        file.save_as(path)
