"""ICC profiles: sRGB's, and any as the text that records, checkpoints and metadata hold."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

import numpy as np
from PIL import ImageCms
from pydantic import AfterValidator

MOST_BYTES = 8 * 2**20
"""Of a profile: scanners' have some kilobytes, those with large tables a few megabytes. Every output embeds it."""

_CLASS, _ID = slice(12, 16), slice(84, 100)
"""Where a profile's header has its class and its digest (ICC.1:2010, 7.2)."""


def _check_text(text: str) -> str:
    if len(text) > MOST_BYTES * 4 / 3:
        raise ValueError(f"the ICC profile has {len(text) * 3 / 4e6:.0f} MB, at most {MOST_BYTES / 1e6:.0f} are used")
    try:
        base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"the ICC profile is not base64: {error}") from error
    return text


ProfileText = Annotated[str, AfterValidator(_check_text)]
"""A profile as base64, of a size that every output can embed."""


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
