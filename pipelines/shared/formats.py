"""The formats that a slide is written in, pyramids and colour tables: their names, suffixes and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Literal

from wsi_stain.pyramid.dicom import require_dicom

Format = Literal["ome-tiff", "ome-zarr", "dicom", "icc", "cube"]

SUFFIXES: dict[Format, str] = {
    "ome-tiff": ".ome.tif",
    "ome-zarr": ".ome.zarr",
    "dicom": ".dicom",
    "icc": ".icc",
    "cube": ".cube",
}
"""How the names of the files and directories end."""

TABLES: tuple[Format, ...] = ("icc", "cube")
"""Formats without pixels: a slide's colour table, for other programs to apply to the source."""

_BYTES_PER_TILE: dict[Format, int] = {"ome-tiff": 40_000, "ome-zarr": 200_000, "dicom": 40_000}
"""About what a kept tile with its share of the coarser levels takes, at JPEG quality 90."""

_BYTES_PER_SLIDE: dict[Format, int] = {"icc": 216_000, "cube": 133_000}
"""About what a table takes, of 33^3 and of 17^3 entries."""


def check_formats(formats: Sequence[Format]) -> None:
    """Check that all formats can be written here; raises ConfigError where one cannot."""
    if "dicom" in formats:
        require_dicom()


def only_tables(formats: Sequence[Format]) -> bool:
    """Check whether no pyramid is among the formats."""
    return set(formats) <= set(TABLES)


def estimate_bytes(kind: Format, tiles: int, slides: int) -> int:
    """Estimate what so many slides with so many kept tiles in all take in a format."""
    return tiles * _BYTES_PER_TILE.get(kind, 0) + slides * _BYTES_PER_SLIDE.get(kind, 0)


def output_name(stem: PurePosixPath, kind: Format) -> PurePosixPath:
    """Return the name of a slide's output in a format."""
    return stem.with_name(f"{stem.name}{SUFFIXES[kind]}")
