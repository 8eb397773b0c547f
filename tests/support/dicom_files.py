"""DICOM files for the tests of finding slides: headers alone, nothing that shows a picture."""

from __future__ import annotations

from pathlib import Path

from pydicom import Dataset, FileDataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

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
