"""Conversion of a slide's pixels from its ICC profile to sRGB. Knows no slides."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from wsi_stain.core.arrays import window
from wsi_stain.core.errors import SlideError
from wsi_stain.core.geometry import Region, Size, split_on_grid
from wsi_stain.core.storage import StoragePath

_PIECE = Size(4096, 512)


def check_profile(profile: bytes | None) -> tuple[bytes | None, str]:
    """Return a profile, if RGB pixels can be converted by it, and what speaks against it."""
    if profile is None:
        return None, ""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), "RGB", "RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        return None, str(error) or "it cannot be parsed"
    return profile, ""


def refuse_profile(path: StoragePath, problem: str, to_srgb: bool) -> str:
    """Make a remark on an ICC profile that cannot be used; SlideError where it is needed."""
    if to_srgb:
        raise SlideError(
            f"{path} has an unusable ICC profile: {problem}", "Set tiling.slide.icc to keep for this slide"
        )
    return f"its ICC profile cannot be used and is left out: {problem}"


def build_transform(path: StoragePath, icc_profile: bytes | None) -> ImageCms.ImageCmsTransform | None:
    """Build the transform from a file's profile to sRGB; None where it has none, and is taken as sRGB."""
    if icc_profile is None:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), "RGB", "RGB")
    except ImageCms.PyCMSError as error:
        raise SlideError(f"{path} has an unusable ICC profile: {error}", "Set icc to keep for this slide") from error


def convert(pixels: NDArray[np.uint8], transform: ImageCms.ImageCmsTransform) -> None:
    """Convert RGB (height, width, 3) in place, piece by piece."""
    whole = Region(0, 0, pixels.shape[1], pixels.shape[0])
    for piece in split_on_grid(whole, _PIECE):
        part = window(pixels, whole, piece)
        image = Image.fromarray(np.ascontiguousarray(part))
        ImageCms.applyTransform(image, transform, inPlace=True)
        part[:] = np.asarray(image)
