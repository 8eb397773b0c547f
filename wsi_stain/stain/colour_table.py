"""A 3-D colour table, applied to pixels: five times as fast as its engine, since each colour is worked out once.

A table is (N, N, N, 3) float32, RGB 0..255; its first three axes are red, green and blue of the source, entry i
standing for the value 255 i / (N - 1), and what lies between entries is trilinear. `table_fit` makes one for a slide.

The engine is Pillow's `Color3DLUT`: trilinear, in fixed-point integers, so that it gives the same bytes on any
processor (it misses exact arithmetic by 0.53 grey levels at most, where rounding alone takes 0.5). What it says of a
colour is kept under the colour's 24 bits, and pixels are looked up there: one gather, in integers too.

    a pixel and one byte more   R G B ?      is a little-endian word
    an index     0x00BBGGRR                  an entry     0x01BBGGRR, or 0: not worked out yet

Memory bound: 64 MiB of entries, of which the system gives only the pages that hold colours seen; and strips of 32,768
pixels. Knows no slides.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy import sparse

from wsi_stain.core.arrays import RgbImage, RgbxImage
from wsi_stain.stain.colour_bins import Colours

Table = NDArray[np.float32]

Words = NDArray[np.uint32]

_STRIP = 32_768
"""Pixels at a time: what is worked on stays in the processor's cache."""

_COLOURS = 1 << 24
_KNOWN = np.uint32(_COLOURS)
_COLOUR = np.uint32(_COLOURS - 1)
_WORD = "<u4"


def refine_table(table: Table) -> Table:
    """Put an entry between each two of a table along each axis, on the line between them: (2N - 1, 2N - 1, 2N - 1, 3).

    `apply_table` makes of both the same colours; other ways to interpolate come nearer to it with the finer one.
    """
    for axis in range(3):
        table = np.moveaxis(table, axis, 0)
        finer = np.empty((2 * len(table) - 1, *table.shape[1:]), np.float32)
        finer[::2], finer[1::2] = table, (table[1:] + table[:-1]) / 2
        table = np.moveaxis(finer, 0, axis)
    return np.ascontiguousarray(table)


def look_up(table: Table, colours: NDArray[np.floating] | RgbImage) -> Colours:
    """Look single colours up, (M, 3) in 0..255, unrounded: for measuring. Pixels go through `apply_table`."""
    return np.asarray(trilinear_weights(np.asarray(colours, np.float64), len(table)) @ table.reshape(-1, 3), np.float64)


def apply_table(table: Table, pixels: RgbImage, out: RgbImage | RgbxImage | None = None) -> RgbImage | RgbxImage:
    """Send every pixel through a table; the last two tables remember what they said.

    Args:
        table: (N, N, N, 3), 2 <= N <= 65.
        pixels: (h, w, 3) RGB.
        out: Where the result goes, which is returned: RGB, which may be `pixels`, or RGBX, which takes less time. None
            makes a new array of RGB.

    Returns:
        (h, w, 3) or (h, w, 4), rounded; the same bytes on any processor, but for the fourth.
    """
    return _cached_memo(np.ascontiguousarray(table, np.float32).tobytes(), len(table)).apply(pixels, out)


@lru_cache(maxsize=2)
def _cached_memo(table: bytes, size: int) -> ColourMemo:
    return ColourMemo(np.frombuffer(table, np.float32).reshape(size, size, size, 3))


class ColourMemo:
    """A colour table with what it said of the colours seen so far. Threads may share it.

    Args:
        table: (N, N, N, 3) float32, axes red, green, blue of the source; values RGB 0..255; 2 <= N <= 65.
    """

    def __init__(self, table: NDArray[np.float32]) -> None:
        # Pillow wants red to run fastest: axes blue, green, red; and values as a share of full scale.
        flat = np.ascontiguousarray(table.transpose(2, 1, 0, 3), np.float32).ravel() / np.float32(255)
        self._engine = ImageFilter.Color3DLUT(len(table), flat)
        self._entries = np.zeros(_COLOURS, _WORD)

    def apply(self, pixels: RgbImage, out: RgbImage | RgbxImage | None = None) -> RgbImage | RgbxImage:
        """Send every pixel through the table, strip by strip; as `apply_table` does."""
        result = np.empty(pixels.shape, np.uint8) if out is None else out
        height, width, _ = pixels.shape
        across = max(min(width, _STRIP), 1)
        down = min(_STRIP // across, max(height, 1))
        room = _StripRoom(down * across)
        for top, left in product(range(0, height, down), range(0, width, across)):
            place = slice(top, top + down), slice(left, left + across)
            entries = self._look_up_entries(room.unpack(pixels[place]), room.entries)
            _pack(entries, result[place])
        return result

    def _look_up_entries(self, colours: Words, room: Words) -> Words:
        """Look up the entries of colours, (n,), in the first of some room."""
        entries = room[: len(colours)]
        self._entries.take(colours, out=entries, mode="clip")  # none is beyond the end, and this copies nothing
        if entries.min(initial=_KNOWN) < _KNOWN:
            fresh = colours[entries < _KNOWN]
            self._entries[fresh] = self._compute_colours(fresh) | _KNOWN
            self._entries.take(colours, out=entries, mode="clip")
        return entries

    def _compute_colours(self, colours: Words) -> Words:
        """Compute what the engine says of colours, (n,)."""
        pixels = colours.view(np.uint8).reshape(1, -1, 4)[..., :3]
        mapped = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).filter(self._engine))
        return np.pad(mapped[0], ((0, 0), (0, 1))).view(_WORD).ravel()


class _StripRoom:
    """Room for the pixels that are worked on at a time: nothing is allocated for each strip.

    Args:
        pixels: How many they are at most.

    Attributes:
        entries: (n,) for their entries.
    """

    def __init__(self, pixels: int) -> None:
        self._rgb = np.zeros(3 * pixels + 1, np.uint8)
        self._words: Words = np.ndarray((pixels,), _WORD, self._rgb, strides=(3,))  # each with a byte of the next pixel
        self._colours, self.entries = np.empty(pixels, _WORD), np.empty(pixels, _WORD)

    def unpack(self, pixels: RgbImage) -> Words:
        """Unpack the colours of pixels, (h, w, 3): (h w,)."""
        count = pixels.size // 3
        self._rgb[: pixels.size].reshape(pixels.shape)[:] = pixels
        return np.bitwise_and(self._words[:count], _COLOUR, out=self._colours[:count])


def _pack(entries: Words, out: RgbImage | RgbxImage) -> None:
    """Pack entries, (h w,), into pixels."""
    height, width, channels = out.shape
    if channels == 4:
        out.view(_WORD)[..., 0] = entries.reshape(height, width)
        return
    values = entries.view(np.uint8).reshape(height, width, 4)
    for channel in range(3):  # one at a time is six times as fast as pixels of three bytes
        out[..., channel] = values[..., channel]


def trilinear_weights(colours: Colours, size: int) -> sparse.csr_array:
    """Compute trilinear weights, (M, size^3): row m holds the shares of the 8 nodes around colour m."""
    position = np.clip(colours, 0, 255) * ((size - 1) / 255)
    low = np.minimum(position.astype(np.int64), size - 2)
    share = position - low
    rows, columns, values = [], [], []
    for corner in product((0, 1), repeat=3):
        columns.append((low + corner) @ np.array([size * size, size, 1]))
        values.append(np.where(corner, share, 1 - share).prod(axis=1))
        rows.append(np.arange(len(colours)))
    entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
    return sparse.csr_array(entries, shape=(len(colours), size**3))
