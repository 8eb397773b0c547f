"""Patches that are picture files: 8-bit colour, PNG, JPEG or TIFF. Knows no slides."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from wsi_stain.core.geometry import BLOCK, Size
from wsi_stain.core.storage import odd_kind

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
"""What the name of a patch's file ends in, lower case."""

_TAIL_BYTES = 4096
_BITS, _TIFF_BITS = 8, 258
"""Bits of a sample that a patch has at most; the TIFF tag that says how many there are."""

_COLOUR = ("RGB", "RGBA", "P")


class PictureError(ValueError):
    """A file that is no patch; the message says why, in a few words."""


def is_picture(name: str) -> bool:
    """Check by its name that a file is a patch."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def picture_size(path: Path) -> Size:
    """Read a picture's size from its header; PictureError where it is none, or not one that can be a patch."""
    with _open_picture(path) as image:
        return Size(*image.size)


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Read RGB pixels, (h, w, 3); what is transparent is laid on white.

    Raises:
        PictureError: It cannot be read, or is not one that can be a patch.
    """
    with _open_picture(path) as image:
        try:
            if not image.has_transparency_data:
                return np.asarray(image.convert("RGB"))
            opaque = Image.new("RGBA", image.size, (255, 255, 255, 255))
            return np.asarray(Image.alpha_composite(opaque, image.convert("RGBA")).convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise PictureError(f"cannot be read: {error}") from error


def read_or_explain(path: Path) -> NDArray[np.uint8] | str:
    """Read a picture as `read_picture` does, or return why it cannot be."""
    try:
        return read_picture(path)
    except PictureError as error:
        return str(error)


def digest(paths: Iterable[tuple[str, Path]]) -> dict[str, str | int]:
    """Identify files: {"size": bytes, "digest": SHA-256 of names, sizes and tails}; a PNG ends with checksums."""
    total, sha = 0, hashlib.sha256()
    for name, path in paths:
        sha.update(os.fsencode(f"{name}\n"))
        if odd_kind(path):
            continue  # refused when it is asked for its pixels
        with suppress(OSError), open(path, "rb") as file:  # what cannot be read is told when it is asked for its pixels
            size = os.fstat(file.fileno()).st_size
            file.seek(max(size - _TAIL_BYTES, 0))
            sha.update(b"%d\n" % size + file.read())
            total += size
    return {"size": total, "digest": sha.hexdigest()}


def _open_picture(path: Path) -> Image.Image:
    if kind := odd_kind(path):
        raise PictureError(f"is {kind}, expected a regular file")
    try:
        image = Image.open(path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PictureError(_reason(error)) from error
    try:
        _check_image(image)
    except PictureError:
        image.close()
        raise
    return image


def _check_image(image: Image.Image) -> None:
    if image.mode not in _COLOUR:
        raise PictureError(f"is not in 8-bit colour (Pillow calls it {image.mode}), expected RGB")
    if (bits := _bits(image)) > _BITS:
        raise PictureError(f"has {bits} bits a sample, expected {_BITS}: convert it, scaled, to 8-bit RGB")
    if (pages := getattr(image, "n_frames", 1)) > 1:
        raise PictureError(f"holds {pages} pictures, expected one")
    if max(image.size) > BLOCK:
        raise PictureError(
            f"is {image.width} x {image.height} px, expected at most {BLOCK} a side: use wsi-stain tile for slides"
        )


def _bits(image: Image.Image) -> int:
    """Count the bits of a sample: Pillow calls RGB what it cuts down to 8 of them, and 12 in 16 would be black."""
    if isinstance(image, TiffImageFile):
        return int(max(image.tag_v2.get(_TIFF_BITS, (_BITS,))))
    return 16 if isinstance(image, PngImageFile) and any("16" in str(tile[3]) for tile in image.tile) else _BITS


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "is no picture that can be read"
    detail = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"cannot be read: {detail}"
