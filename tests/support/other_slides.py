"""Slides that OpenSlide does not read, or not whole, of known pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import tifffile
import zarr
from numpy.typing import NDArray
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEG2000Lossless

Pixels = NDArray[np.uint8]


def write_ome_tiff(
    path: Path, levels: Sequence[Pixels], mpp: float = 0.5, label: Pixels | None = None, **options: Any
) -> Path:
    """Write an OME-TIFF whose levels are SubIFDs alone, as Bio-Formats does; a label stands before the slide."""
    with tifffile.TiffWriter(path, ome=True) as writer:
        if label is not None:
            writer.write(label, photometric="rgb", tile=(64, 64), metadata={"axes": "YXS", "Name": "label image"})
        side = {"PhysicalSizeX": mpp, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": mpp, "PhysicalSizeYUnit": "µm"}
        settings = {"photometric": "rgb", "tile": (128, 128), "compression": "zlib", **options}
        axes = "SYX" if settings.get("planarconfig") == "separate" else "YXS"
        for number, pixels in enumerate(levels):
            stored = pixels.transpose(2, 0, 1) if axes == "SYX" else pixels
            metadata = {"axes": axes, "Name": "slide", **side} if number == 0 else None
            place = {"subifds": len(levels) - 1} if number == 0 else {"subfiletype": 1}
            writer.write(np.ascontiguousarray(stored), metadata=metadata, **place, **settings)
    return path


def write_ome_zarr(
    path: Any, levels: Sequence[Pixels], mpp: float | None = 0.5, version: str = "0.5", **omero: Any
) -> Any:
    """Write an OME-Zarr of axes t, c, z, y, x: version 0.4 on Zarr 2, 0.5 on Zarr 3 in shards.

    Args:
        path: A directory, or a store of zarr's.
        levels: (h, w, channels) each, finest first, of any dtype.
        mpp: um per px; None leaves the unit out.
        version: Of NGFF.
        omero: What the attribute `omero` holds.
    """
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    unit = {"unit": "micrometer"} if mpp else {}
    axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}, {"name": "z", "type": "space"}]
    axes += [{"name": name, "type": "space", **unit} for name in "yx"]
    datasets = []
    for number, pixels in enumerate(levels):
        values, step = pixels.transpose(2, 0, 1)[None, :, None], (mpp or 1.0) * 2**number
        shards = {} if version == "0.4" else {"shards": (1, values.shape[1], 1, 512, 512)}
        array = group.create_array(
            str(number), shape=values.shape, dtype=values.dtype, chunks=(1, 1, 1, 128, 128), **shards
        )
        array[:] = values
        scale = [{"type": "scale", "scale": [1.0, 1.0, 1.0, step, step]}]
        datasets.append({"path": str(number), "coordinateTransformations": scale})
    multiscales = [{"axes": axes, "datasets": datasets, "version": version}]
    ngff: dict[str, Any] = {"multiscales": multiscales, **({"omero": omero} if omero else {})}
    group.attrs.update(ngff if version == "0.4" else {"ome": {"version": version, **ngff}})
    return path


def write_qptiff(path: Path, levels: Sequence[Pixels], mpp: float = 0.5) -> Path:
    """Write a bright-field QPTIFF as PerkinElmer's scanners do: a thumbnail stands between level 0 and the others."""
    unit = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER", "software": "PerkinElmer-QPI"}
    options: dict[str, Any] = {"photometric": "rgb", "compression": "zlib", "metadata": None, **unit}
    kinds = ["FullResolution", *["ReducedResolution"] * (len(levels) - 1)]
    text = "<PerkinElmer-QPI-ImageDescription><ImageType>{}</ImageType></PerkinElmer-QPI-ImageDescription>"
    with tifffile.TiffWriter(path) as writer:
        for number, (kind, pixels) in enumerate(zip(kinds, levels, strict=True)):
            reduced = {"subfiletype": 1} if number else {}
            writer.write(pixels, tile=(256, 256), description=text.format(kind), **reduced, **options)
            if number == 0:
                small = np.ascontiguousarray(pixels[::8, ::8])
                writer.write(small, description=text.format("Thumbnail"), rowsperstrip=64, **options)
    return path


def to_jpeg2000(folder: Path) -> None:
    """Code the frames of a DICOM slide in JPEG 2000 instead, reversibly, as YBR_RCT."""
    for path in folder.glob("*.dcm"):
        file = pydicom.dcmread(path)
        frames = [
            imagecodecs.jpeg8_decode(frame)
            for frame in generate_frames(file.PixelData, number_of_frames=int(file.NumberOfFrames))
        ]
        coded = [
            imagecodecs.jpeg2k_encode(frame, codecformat="j2k", reversible=True, level=0, mct=True) for frame in frames
        ]
        file.file_meta.TransferSyntaxUID = JPEG2000Lossless
        file.PhotometricInterpretation, file.PixelData = "YBR_RCT", encapsulate(coded)
        for name in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
            if name in file:
                del file[name]
        file.save_as(path)
