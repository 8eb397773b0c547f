"""Choice of the reader of a slide: OpenSlide, and another where it refuses the file or does not see all of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wsi_stain.core.errors import SlideError, UnreadableError, WsiStainError
from wsi_stain.core.storage import S3Path, StoragePath
from wsi_stain.slides.dicom_series import read_header
from wsi_stain.slides.parts import is_zarr
from wsi_stain.slides.readers import fastslide_reader
from wsi_stain.slides.readers.base import SlideReader
from wsi_stain.slides.readers.dicom_reader import DicomReader
from wsi_stain.slides.readers.fastslide_reader import FastSlideReader
from wsi_stain.slides.readers.openslide_reader import OpenSlideReader
from wsi_stain.slides.readers.tiff_reader import TiffReader, has_hidden_levels, is_tiff
from wsi_stain.slides.readers.zarr_reader import ZarrReader
from wsi_stain.slides.remedies import DAMAGED


def open_reader(path: StoragePath) -> SlideReader:
    """Open a slide with the first reader that takes it.

    Args:
        path: A file; for formats of many files the one that OpenSlide opens; the directory or prefix of a Zarr.

    Raises:
        SlideError: Not there, no permission, not a slide, not supported, or its claims do not fit its file.
    """
    if isinstance(path, S3Path) or is_zarr(path):
        return _parse(ZarrReader, path)
    try:
        reader = OpenSlideReader(path)
    except SlideError as refusal:
        return _open_refused(path, refusal)
    is_plain = reader.properties.get("openslide.vendor") == "generic-tiff"
    if not is_plain or not has_hidden_levels(path, len(reader.sizes)):
        return reader
    reader.close()
    return _parse(TiffReader, path)


def _open_refused(path: Path, refusal: SlideError) -> SlideReader:
    """Open a file that OpenSlide refuses; its reason stands where no other reader knows the format."""
    if not os.path.isfile(path):  # unlike Path.is_file this takes a name that is too long
        raise refusal
    if path.suffix.lower() in fastslide_reader.SUFFIXES:
        return _parse(FastSlideReader, path)
    if is_tiff(path):
        return _parse(TiffReader, path)
    if read_header(path) is not None:
        return _parse(DicomReader, path)
    raise refusal


def _parse(reader: Callable[[Any], SlideReader], path: StoragePath) -> SlideReader:
    """Open a file with a reader whose library was written for whole files, and raises anything at others.

    Raises:
        UnreadableError: The library fails at what the file claims.
    """
    try:
        return reader(path)
    except (WsiStainError, OSError):
        raise
    except Exception as error:
        raise UnreadableError(f"{path} cannot be read, its claims make no sense: {error!r}", DAMAGED) from error
