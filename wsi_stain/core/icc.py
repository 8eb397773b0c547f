"""ICC profiles: sRGB's, and any as the text that records, checkpoints and metadata hold."""

from __future__ import annotations

import base64

import numpy as np
from PIL import ImageCms


def encode_profile(profile: bytes | None) -> str | None:
    """Return a profile as base64; None where there is none."""
    return base64.b64encode(profile).decode() if profile else None


def decode_profile(text: str | None) -> bytes | None:
    """Return the profile that `encode_profile` made a text of."""
    return base64.b64decode(text) if text else None


def srgb_profile() -> bytes:
    """Return the sRGB profile, the same bytes every time."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = np.array([2000, 1, 1, 0, 0, 0], ">u2").tobytes()  # creation time, ICC.1:2010 section 7.2.1
    return bytes(profile)
