"""ICC profiles: sRGB's, and any as the text that records, checkpoints and metadata hold."""

from __future__ import annotations

import base64

import numpy as np
from PIL import ImageCms

_CLASS, _ID = slice(12, 16), slice(84, 100)
"""Where a profile's header has its class and its digest (ICC.1:2010, 7.2)."""


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


def input_profile(profile: bytes) -> bytes:
    """Return a profile as one of an input device, class `scnr`, which DICOM asks for (PS3.3, C.11.15.1.1).

    RGB profiles of displays hold all that those of input devices must (ICC.1:2010, 8.3 and 8.4): only the class in the
    header differs, and the optional digest of the whole, which is left out.
    """
    changed = bytearray(profile)
    changed[_CLASS] = b"scnr"
    changed[_ID] = bytes(_ID.stop - _ID.start)
    return bytes(changed)
