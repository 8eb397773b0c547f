"""A slide as large as they come in a file of a few megabytes: all its tiles are two, of tissue and of glass.

Every tile of every level points at one of the two; an ellipse in the middle is tissue. Between them and the directories
lies a hole of many gigabytes, which takes no room on disk.
"""

from __future__ import annotations

import struct
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.geometry import Size
from wsi_stain.synthetic import LABORATORIES, stain_tissue
from wsi_stain.synthetic.tissue import render_tissue

_TILE = 256
_HOLE = 5 * 2**30
_MPP = 0.25
_LEVELS = (1, 4, 16, 64)
_SHORT, _LONG, _RATIONAL, _LONG8 = (3, "H"), (4, "I"), (5, "II"), (16, "Q")


def write_giant(path: Path, size: Size) -> Path:
    """Write the slide, a BigTIFF of JPEG tiles with levels 1, 4, 16 and 64 times smaller, at 0.25 um/px.

    Args:
        path: Where to.
        size: Of level 0, px.
    """
    amount = render_tissue(Size(_TILE, _TILE), _MPP, 3)
    pictures = [stain_tissue(amount * share, LABORATORIES["other"], 3) for share in (1, 0)]
    coded = [imagecodecs.jpeg8_encode(picture, level=90, subsampling="444") for picture in pictures]
    places = 16 + np.cumsum([0, *map(len, coded)])
    with open(path, "wb") as file:
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, _HOLE) + b"".join(coded))
        file.seek(_HOLE)
        for level in _LEVELS:
            level_size = Size(-(-size.width // level), -(-size.height // level))
            which = (~_is_tissue(level_size)).astype(int).ravel()
            arrays = [places[which].astype("<u8").tobytes(), np.array([*map(len, coded)], "<u4")[which].tobytes()]
            file.write(_directory(file.tell(), level_size, arrays, level == _LEVELS[0], level == _LEVELS[-1]))
    return path


def _is_tissue(size: Size) -> NDArray[np.bool_]:
    """(rows, cols) of a level's tiles: whether their middles lie in the ellipse."""
    y, x = ((np.arange(-(-side // _TILE)) + 0.5) * _TILE / side - 0.5 for side in (size.height, size.width))
    return np.add.outer((y / 0.3) ** 2, (x / 0.2) ** 2) < 1


def _directory(start: int, size: Size, arrays: list[bytes], is_first: bool, is_last: bool) -> bytes:
    """A TIFF directory that begins at `start`, with the tiles' offsets and sizes behind it."""
    per_cm = round(1e4 / _MPP)
    count = len(arrays[1]) // 4
    entries = [
        (254, _LONG, 1, [0 if is_first else 1]),
        (256, _LONG, 1, [size.width]),
        (257, _LONG, 1, [size.height]),
        (258, _SHORT, 3, [8, 8, 8]),
        (259, _SHORT, 1, [7]),
        (262, _SHORT, 1, [6]),
        (277, _SHORT, 1, [3]),
        (282, _RATIONAL, 1, [per_cm, 1]),
        (283, _RATIONAL, 1, [per_cm, 1]),
        (284, _SHORT, 1, [1]),
        (296, _SHORT, 1, [3]),
        (322, _SHORT, 1, [_TILE]),
        (323, _SHORT, 1, [_TILE]),
    ]
    behind = start + 8 + 20 * (len(entries) + 3) + 8
    offsets, sizes = ([behind], [behind + len(arrays[0])])
    entries += [(324, _LONG8, count, offsets), (325, _LONG, count, sizes), (530, _SHORT, 2, [1, 1])]
    packed = [
        struct.pack("<HHQ", tag, kind, number) + _inline(code if number <= 3 else "Q", values)
        for tag, (kind, code), number, values in entries
    ]
    following = 0 if is_last else behind + len(arrays[0]) + len(arrays[1])
    return struct.pack("<Q", len(entries)) + b"".join(packed) + struct.pack("<Q", following) + b"".join(arrays)


def _inline(code: str, values: list[int]) -> bytes:
    codes = code if len(code) == len(values) else code * len(values)
    return struct.pack(f"<{codes}", *values).ljust(8, b"\0")
