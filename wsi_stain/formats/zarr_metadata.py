"""Zarr v3 and OME-NGFF 0.5 metadata, and small arrays of one chunk, as plain files. Knows no store.

Written by hand rather than by zarr-python, so that every file is atomic, durable and the same bytes each time.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core import journal
from wsi_stain.core.errors import StoreError
from wsi_stain.core.geometry import TILE, TILES_PER_BLOCK, BlockIndex, Mpp, Size
from wsi_stain.core.storage import StoragePath
from wsi_stain.formats import zarr_shard
from wsi_stain.formats.zarr_shard import BLOSC, CODECS, CRC, TileCodec, decode, encode

_LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}


def write_group(folder: Path, attributes: dict[str, Any]) -> None:
    """Write a group's metadata."""
    journal.write_json(folder / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": attributes})


def read_attributes(folder: StoragePath) -> dict[str, Any]:
    """Read the attributes of a zarr group; empty where there is none."""
    metadata = journal.read_json(folder / "zarr.json")
    attributes = metadata.get("attributes") if isinstance(metadata, dict) else None
    return attributes if isinstance(attributes, dict) else {}


def check_group(folder: StoragePath) -> None:
    """Check that a folder has a group's metadata; StoreError where they are missing or damaged."""
    metadata = journal.read_json(folder / "zarr.json")
    if not isinstance(metadata, dict) or metadata.get("node_type") != "group":
        raise StoreError(f"{folder} is missing or damaged: zarr.json describes no group", zarr_shard.REMEDY)


def image_attributes(name: str, mpp: Mpp, levels: int = 1) -> dict[str, Any]:
    """Make OME-NGFF 0.5 metadata of an RGB image, axes c, y, x, whose levels are halvings at the paths `0`, `1`, ...

    Args:
        name: The image's name.
        mpp: Resolution of level 0, um per px.
        levels: How many there are.
    """
    window = {"start": 0, "end": 255, "min": 0, "max": 255}
    space = {"type": "space", "unit": "micrometer"}
    axes = [{"name": "c", "type": "channel"}, {"name": "y", **space}, {"name": "x", **space}]
    datasets = [
        {"path": str(level), "coordinateTransformations": _coordinate_transformations(mpp, level)}
        for level in range(levels)
    ]
    return {
        "version": "0.5",
        "multiscales": [{"name": name, "axes": axes, "datasets": datasets}],
        "omero": {
            "channels": [
                {"label": label, "color": colour, "active": True, "window": window}
                for label, colour in (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"))
            ]
        },
    }


def _coordinate_transformations(mpp: Mpp, level: int) -> list[dict[str, Any]]:
    """Place the pixels of a level, um. NGFF places a pixel's centre: a halving moves the first by half a pixel."""
    factor = 2**level
    scale = {"type": "scale", "scale": [1.0, mpp.y * factor, mpp.x * factor]}
    shift = (factor - 1) / 2
    translation = {"type": "translation", "translation": [0.0, mpp.y * shift, mpp.x * shift]}
    return [scale, translation] if level else [scale]


def write_image_metadata(
    folder: Path, size: Size, side: int = TILES_PER_BLOCK, codec: TileCodec = CODECS["lossless"]
) -> None:
    """Write the metadata of a sparse (3, height, width) uint8 image in shards of tiles; absent tiles read 255.

    Args:
        folder: The array's folder.
        size: Width and height, px.
        side: Rows and columns of tiles in a shard.
        codec: How the tiles are compressed.
    """
    sharding = {
        "chunk_shape": zarr_shard.CHUNK_SHAPE,
        "codecs": codec.zarr,
        "index_codecs": [_LITTLE, CRC],
        "index_location": "end",
    }
    codecs = [{"name": "sharding_indexed", "configuration": sharding}]
    shape = (3, size.height, size.width)
    _write_array_metadata(folder, shape, (3, side * TILE, side * TILE), "uint8", 255, codecs, ["c", "y", "x"])


def read_image_codec(folder: StoragePath) -> TileCodec:
    """Read how the tiles of an image are compressed that `write_image_metadata` described.

    Raises:
        StoreError: The metadata is missing or damaged, or speaks of another compression.
    """
    metadata = journal.read_json(folder / "zarr.json")
    try:
        codecs = metadata["codecs"][0]["configuration"]["codecs"]
        return next(codec for codec in CODECS.values() if codec.zarr == codecs)
    except (TypeError, KeyError, IndexError, StopIteration) as error:
        raise StoreError(f"{folder} describes no compression of tiles known here", zarr_shard.REMEDY) from error


def shard_key(block: BlockIndex, level: int = 0) -> str:
    """Return the path of one shard of a level below an image's folder, by its index in the grid of shards."""
    return f"{level}/c/0/{block.row}/{block.col}"


def write_array(folder: Path, values: NDArray[Any], names: list[str]) -> None:
    """Write a small array of bool, uint8, int16 or float32 as one chunk, whose axes are called `names`."""
    fill: Any = False if values.dtype == bool else 0
    journal.atomic_write(folder.joinpath("c", *["0"] * values.ndim), encode(values))
    _write_array_metadata(folder, values.shape, values.shape, values.dtype.name, fill, [_LITTLE, BLOSC, CRC], names)


def read_array(folder: StoragePath, dtype: str | None = None) -> NDArray[Any]:
    """Read a small array that `write_array` wrote, of a certain dtype or of any; the result is read-only.

    Raises:
        StoreError: It is missing, damaged, or of another dtype.
    """
    metadata = journal.read_json(folder / "zarr.json")
    try:
        if not isinstance(metadata, dict):
            raise ValueError("zarr.json describes no array")
        data_type = np.dtype(metadata["data_type"])
        if dtype and data_type != dtype:
            raise ValueError(f"expected {dtype}, found {data_type}")
        shape = tuple(int(side) for side in metadata["shape"])
        chunk = (folder / "/".join(["c", *["0"] * len(shape)])).read_bytes()
        flat = decode(chunk, math.prod(shape) * data_type.itemsize)
    except (TypeError, KeyError, ValueError, OSError) as error:
        raise StoreError(f"{folder} is missing or damaged: {error}", zarr_shard.REMEDY) from error
    values: NDArray[Any] = flat.view(data_type).reshape(shape)
    values.flags.writeable = False
    return values


def _write_array_metadata(
    folder: Path,
    shape: tuple[int, ...],
    chunk: tuple[int, ...],
    dtype: str,
    fill: Any,
    codecs: list[dict[str, Any]],
    names: list[str],
) -> None:
    metadata = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": codecs,
        "dimension_names": names,
        "attributes": {},
    }
    journal.write_json(folder / "zarr.json", metadata)
