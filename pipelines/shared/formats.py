"""The formats that a slide's pyramid is written in: their names, suffixes and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Literal

from wsi_stain.pyramid.dicom import require_dicom

Format = Literal["ome-tiff", "ome-zarr", "dicom"]

SUFFIXES: dict[Format, str] = {"ome-tiff": ".ome.tif", "ome-zarr": ".ome.zarr", "dicom": ".dicom"}
"""How the names of the files and directories end."""

BYTES_PER_TILE: dict[Format, int] = {"ome-tiff": 40_000, "ome-zarr": 200_000, "dicom": 40_000}
"""About what a kept tile with its share of the coarser levels takes, at JPEG quality 90."""


def check_formats(formats: Sequence[Format]) -> None:
    """Check that all formats can be written here; raises ConfigError where one cannot."""
    if "dicom" in formats:
        require_dicom()


def output_name(stem: PurePosixPath, kind: Format) -> PurePosixPath:
    """Return the name of a pyramid in a format."""
    return stem.with_name(f"{stem.name}{SUFFIXES[kind]}")
