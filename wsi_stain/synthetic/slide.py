"""Writes pixels as the slide files of scanners: plain tiled pyramids and Aperio's. Knows no tissue.

The same pixels give the same bytes: no dates, no random identifiers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
import tifffile
from PIL import Image

from wsi_stain.core.arrays import RgbImage
from wsi_stain.core.geometry import TILE, Size, ceil_div, level_sizes
from wsi_stain.core.journal import atomic_write

__all__ = ["SlideFormat", "write_slide"]

SlideFormat: TypeAlias = Literal["tiff", "svs"]

_QUALITY = 90
_SVS_TILE = 240
_SVS_FACTOR = 4
_SVS_SMALLEST = 512
_THUMBNAIL = 512


def write_slide(
    path: Path, pixels: RgbImage, mpp: float | None, objective_power: float | None = 40, style: SlideFormat = "tiff"
) -> None:
    """Write a pyramid of JPEG tiles that OpenSlide opens.

    Args:
        path: Written as a whole or not at all.
        pixels: RGB of level 0, (h, w, 3).
        mpp: Resolution, um per px; None leaves it out.
        objective_power: For Aperio's description, None leaves it out; plain TIFF has no place for it.
        style: "tiff" has 256 px tiles, levels by 2 and resolution tags in centimetres; "svs" is as Aperio writes it:
            240 px tiles, levels by 4, a thumbnail as second page, everything said in the image description.

    Raises:
        OutputError: The file cannot be written.
    """

    def write(file: BinaryIO) -> None:
        with tifffile.TiffWriter(file) as tiff:
            if style == "svs":
                _write_svs(tiff, pixels, mpp, objective_power)
            else:
                _write_tiff(tiff, pixels, mpp)

    atomic_write(path, write)


def _write_tiff(tiff: tifffile.TiffWriter, pixels: RgbImage, mpp: float | None) -> None:
    sizes = level_sizes(Size(pixels.shape[1], pixels.shape[0]))
    for number in range(len(sizes)):
        pixels = _shrink(pixels, 2) if number else pixels
        options: dict[str, Any] = {"subfiletype": int(number > 0)}
        if mpp is not None:
            per_cm = 1e4 / (mpp * 2**number)
            options |= {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"}
        _page(tiff, pixels, tile=(TILE, TILE), **options)


def _write_svs(tiff: tifffile.TiffWriter, pixels: RgbImage, mpp: float | None, objective_power: float | None) -> None:
    height, width = pixels.shape[:2]
    size, coding = f"{width}x{height}", f"JPEG/RGB Q={_QUALITY}"
    facts = f"|AppMag = {objective_power:g}" if objective_power is not None else ""
    facts += f"|MPP = {mpp:.4f}" if mpp is not None else ""
    head = f"Aperio Image Library v12.0.15\r\n{size}"
    tile = (_SVS_TILE, _SVS_TILE)
    area = f"{head} [0,0 {size}] ({_SVS_TILE}x{_SVS_TILE})"
    _page(tiff, pixels, tile=tile, description=f"{area} {coding}{facts}")
    small = _thumbnail(pixels)
    _page(tiff, small, rowsperstrip=16, description=f"{head} -> {small.shape[1]}x{small.shape[0]} - {facts}")
    while max(pixels.shape[:2]) > _SVS_SMALLEST:
        pixels = _shrink(pixels, _SVS_FACTOR)
        extent = f"{pixels.shape[1]}x{pixels.shape[0]}"
        _page(tiff, pixels, tile=tile, description=f"{area} -> {extent} {coding}{facts}")


def _page(tiff: tifffile.TiffWriter, pixels: RgbImage, **options: Any) -> None:
    tiff.write(
        np.ascontiguousarray(pixels),
        photometric="rgb",
        compression="jpeg",
        compressionargs={"level": _QUALITY},
        metadata=None,
        software=False,
        **options,
    )


def _shrink(pixels: RgbImage, factor: int) -> RgbImage:
    """Average over squares of `factor` px; the last ones reach over the edge, where the edge is repeated."""
    height, width = (ceil_div(side, factor) for side in pixels.shape[:2])
    rows, cols = height * factor - pixels.shape[0], width * factor - pixels.shape[1]
    whole = np.pad(pixels, ((0, rows), (0, cols), (0, 0)), mode="edge")
    return np.asarray(Image.fromarray(whole).resize((width, height), Image.Resampling.BOX))


def _thumbnail(pixels: RgbImage) -> RgbImage:
    image = Image.fromarray(pixels)
    image.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(image)
