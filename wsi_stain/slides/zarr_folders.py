"""Directories that are Zarr, and the OME-Zarr images among them, by their metadata alone. Reads no pixels."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsi_stain.core.journal import read_json
from wsi_stain.core.storage import S3Path, StoragePath

METADATA = ("zarr.json", ".zgroup")
"""Files by which a directory is a Zarr, of version 3 or 2."""


def is_zarr(path: StoragePath) -> bool:
    """Check whether a path is a Zarr's directory, or lies on S3, where nothing else is read."""
    return isinstance(path, S3Path) or any(os.path.isfile(path / name) for name in METADATA)


def is_zarr_image(folder: Path) -> bool:
    """Check whether a directory is an OME-Zarr image, or several of one slide, as bioformats2raw writes them."""
    attributes = _attributes(folder)
    ngff = attributes.get("ome", attributes)
    return isinstance(ngff, Mapping) and any(name in ngff for name in ("multiscales", "bioformats2raw.layout"))


def images_of(folder: Path) -> list[Path]:
    """List the images of a Zarr that is named: itself, else its groups that are images, as a tile store has them."""
    if is_zarr_image(folder):
        return [folder]
    return sorted(path for path in folder.iterdir() if path.is_dir() and is_zarr_image(path))


def _attributes(folder: Path) -> Mapping[str, Any]:
    try:
        metadata = read_json(folder / "zarr.json")
        attributes = metadata.get("attributes") if isinstance(metadata, dict) else read_json(folder / ".zattrs")
    except PermissionError:  # a folder that may not be entered
        return {}
    return attributes if isinstance(attributes, dict) else {}
