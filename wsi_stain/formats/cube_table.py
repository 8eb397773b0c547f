"""A colour table as a `.cube` file, for programs that apply look-up tables to pictures. Knows no slides or files.

The format is Adobe's (Cube LUT Specification 1.0): a title, comments, the number of entries along a side, then an entry
a line, red running fastest, 0 to 1. It says nothing of colour spaces: source pixels go in as they are stored.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

_SIZE = "LUT_3D_SIZE"
_SIDES = range(2, 257)


def encode_cube(table: NDArray[np.float32], title: str, notes: Mapping[str, str]) -> bytes:
    """Encode a table as a `.cube` file.

    Args:
        table: (N, N, N, 3) in 0..255, axes red, green, blue of the source; 2 <= N <= 256.
        title: Its title, without quotation marks.
        notes: Comments by name.
    """
    head = [f'TITLE "{title}"', *(f"# {name}: {note}" for name, note in notes.items()), f"{_SIZE} {len(table)}"]
    entries = table.transpose(2, 1, 0, 3).reshape(-1, 3).astype(np.float64) / 255
    lines = [f"{red:.6f} {green:.6f} {blue:.6f}" for red, green, blue in entries.tolist()]
    return ("\n".join([*head, *lines]) + "\n").encode()


def decode_cube(content: bytes) -> NDArray[np.float32]:
    """Return the table of a `.cube` file as `encode_cube` takes it, to 0.0002 grey levels.

    Raises:
        ValueError: It is no such file.
    """
    lines = [line for line in content.decode().splitlines() if line and not line.startswith("#")]
    side = next((int(line.split()[1]) for line in lines if line.startswith(_SIZE)), 0)
    values = np.array([line.split() for line in lines if line[0].isdigit()], np.float32)
    if side not in _SIDES or values.shape != (side**3, 3):
        raise ValueError(f"{values.shape} values for {side} entries along a side")
    return np.asarray(values.reshape(side, side, side, 3).transpose(2, 1, 0, 3) * np.float32(255))
