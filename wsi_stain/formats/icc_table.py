"""A colour table as an ICC profile, for whatever applies profiles (ICC.1:2010). Knows no slides or files.

The profile is an input device's. Its way to the connection space is a `lutAToBType` (10.10): the table with 16 bit an
entry, then sRGB's curve and matrix. What that adds behind the table a conversion to sRGB takes off again, so that the
table's own values come out, and interpolation happens between these.

Two things make that hold for every rendering intent. The darkest entry is black, since colour managements move the
darkest colour of a profile there in the perceptual intent, and all others with it. And sRGB's own colorants and curves
are in it too, without which that darkest colour would be a constant of the standard; a reader that knows no tables
would take the pixels for sRGB by them.

A third thing is for Little CMS. For pixels of 8 bits it makes a table of its own with 33 entries a side, and moves
these along the channels' curves over gray, unless one of them falls somewhere (`OptimizeByComputingLinearization` in
its cmsopt.c). Moved, they miss the table's own entries: of a real slide's tissue 93 % came within one grey level. So
with 33 entries gray falls a little from 8 to 16, where hardly any tissue is.
"""

from __future__ import annotations

import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

_HEADER, _TAG_ENTRY = 128, 12
_VERSION = 0x0420_0000
_CREATED = (2000, 1, 1, 0, 0, 0)
_D50 = (0.9642, 1.0, 0.8249)
"""White of the connection space (7.2.16)."""

_SRGB_TO_D50 = (
    (0.436065674, 0.385147095, 0.143066406),
    (0.222488403, 0.716873169, 0.060607910),
    (0.013916016, 0.097076416, 0.714096069),
)
"""Linear sRGB to XYZ, adapted from D65 to D50 by Bradford's method, as in ICC's own sRGB profile."""

_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
"""Gamma, a, b, c, d of sRGB's curve (IEC 61966-2-1) as a parametric curve of type 3 (10.16)."""

_XYZ_SCALE = 1 + 32767 / 32768
"""Largest XYZ that 16 bit encode (6.3.4.2): what a matrix hands on is relative to it."""

_GRID_DIMENSIONS, _TWO_BYTES = 16, 2

_LCMS_GRID = 33
"""Entries a side of the table that Little CMS makes of a profile for pixels of 8 bits."""

_STEP_BACK = 2 * 257
"""Two grey levels, by which gray 8 is lighter than gray 16; see above."""


def encode_icc(table: NDArray[np.float32], description: str) -> bytes:
    """Encode a table as an ICC profile; the same table and description give the same bytes.

    Args:
        table: (N, N, N, 3) in 0..255, axes red, green, blue of the source; 2 <= N <= 255.
        description: The name that programs show.
    """
    curve = b"para" + bytes(4) + struct.pack(">HH", 3, 0) + _encode_fixed(*_SRGB_CURVE)
    tags = {
        b"desc": _text(description),
        b"cprt": _text("No copyright, use freely"),
        b"wtpt": _xyz(_D50),
        b"A2B0": _table_then_srgb(table, curve),
    }
    for name, colorant in zip((b"r", b"g", b"b"), zip(*_SRGB_TO_D50, strict=True), strict=True):
        tags |= {name + b"XYZ": _xyz(colorant), name + b"TRC": curve}
    offset, entries, body = _HEADER + 4 + _TAG_ENTRY * len(tags), b"", b""
    for name, data in tags.items():
        entries += name + struct.pack(">II", offset + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    return _header(offset + len(body)) + struct.pack(">I", len(tags)) + entries + body


def apply_icc(profile: bytes, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Take pixels (h, w, 3) from a profile to sRGB, as Little CMS does.

    Raises:
        ValueError: The profile cannot be used.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), "RGB", "RGB")
        converted = ImageCms.applyTransform(Image.fromarray(np.ascontiguousarray(pixels)), transform)
    except (ImageCms.PyCMSError, OSError) as error:
        raise ValueError(str(error)) from error
    return np.asarray(converted)


def _header(size: int) -> bytes:
    fields = struct.pack(">III", size, 0, _VERSION) + b"scnrRGB XYZ "
    fields += struct.pack(">6H", *_CREATED) + b"acsp" + bytes(28) + _encode_fixed(*_D50)
    return fields + bytes(_HEADER - len(fields))


def _table_then_srgb(table: NDArray[np.float32], curve: bytes) -> bytes:
    """Encode a lutAToBType: A curves (straight), the table, M curves (sRGB's), a matrix, B curves (straight)."""
    entries = np.rint(np.asarray(table, np.float64) * (65535 / 255)).astype(">u2")
    entries[0, 0, 0] = 0
    if len(entries) >= _LCMS_GRID:
        entries[1, 1, 1] = np.minimum(entries[2, 2, 2].astype(int) + _STEP_BACK, 65535)
    values = entries.tobytes()
    straight = 3 * (b"curv" + bytes(8))
    matrix = _encode_fixed(*(value / _XYZ_SCALE for row in _SRGB_TO_D50 for value in row), 0, 0, 0)
    grid = bytes([len(table)] * 3) + bytes(_GRID_DIMENSIONS - 3) + bytes([_TWO_BYTES, 0, 0, 0])
    parts = [straight, matrix, 3 * curve, grid + values + bytes(-len(values) % 4), straight]
    offsets = np.cumsum([32, *(len(part) for part in parts[:-1])]).tolist()
    return b"mAB " + bytes(4) + bytes([3, 3, 0, 0]) + struct.pack(">5I", *offsets) + b"".join(parts)


def _text(text: str) -> bytes:
    """Encode a multiLocalizedUnicodeType of one language (10.13)."""
    encoded = text.encode("utf-16-be")
    return b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(encoded), 28) + encoded


def _xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ " + bytes(4) + _encode_fixed(*values)


def _encode_fixed(*values: float) -> bytes:
    """Encode numbers as s15Fixed16."""
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)
