"""A 3-D colour table, applied to pixels: five times as fast as its engine, since each colour is worked out once.

A table is (N, N, N, 3) float32, RGB 0..255; its first three axes are red, green and blue of the source, entry i
standing for the value 255 i / (N - 1), and what lies between entries is trilinear. `table_fit` makes one for a slide.

The engine is Pillow's `Color3DLUT`: trilinear, in fixed-point integers, so that it gives the same bytes on any
processor (it misses exact arithmetic by 0.53 grey levels at most, where rounding alone takes 0.5). What it says of a
colour is kept under the colour's 24 bits, and pixels are looked up there: one gather, in integers too.

    four pixels  R G B R  G B R G  B R G B   are three little-endian words
    an index     0x00BBGGRR                  an entry     0x01BBGGRR, or 0: not worked out yet

Memory bound: 64 MiB of entries, of which the system gives only the pages that hold colours seen; and strips of 65,536
pixels. Knows no slides.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy import sparse

from wsi_stain.core.arrays import RgbImage
from wsi_stain.stain.colour_bins import Colours

Table = NDArray[np.float32]

Words = NDArray[np.uint32]

_STRIP = 65_536
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


def apply_table(table: Table, pixels: RgbImage, out: RgbImage | None = None) -> RgbImage:
    """Send every pixel through a table; the last two tables remember what they said.

    Args:
        table: (N, N, N, 3), 2 <= N <= 65.
        pixels: (h, w, 3) RGB.
        out: Where the result goes, which is returned; it may be `pixels`. None makes a new array.

    Returns:
        (h, w, 3) RGB, rounded; the same bytes on any processor.
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

    def apply(self, pixels: RgbImage, out: RgbImage | None = None) -> RgbImage:
        """Send every pixel through the table, strip by strip.

        Args:
            pixels: (h, w, 3) RGB.
            out: Where the result goes, which is returned; it may be `pixels`. None makes a new array.

        Returns:
            (h, w, 3) RGB, rounded.
        """
        result = np.empty(pixels.shape, np.uint8) if out is None else out
        height, width, _ = pixels.shape
        across = max(min(width, _STRIP), 1)
        down = min(_STRIP // across, max(height, 1))
        room = _StripRoom(down * across)
        for top, left in product(range(0, height, down), range(0, width, across)):
            place = slice(top, top + down), slice(left, left + across)
            flat = room.rgb[: pixels[place].size].reshape(pixels[place].shape)
            flat[:] = pixels[place]
            room.unpack()
            self._look_up_entries(room.colours, room.entries)
            room.pack()
            result[place] = flat
        return result

    def _look_up_entries(self, colours: Words, entries: Words) -> None:
        """Look up the entries of colours, (4, n)."""
        self._entries.take(colours, out=entries, mode="clip")  # none is beyond the end, and this copies nothing
        if entries.min() < _KNOWN:
            fresh = colours[entries < _KNOWN]
            self._entries[fresh] = self._compute_colours(fresh) | _KNOWN
            self._entries.take(colours, out=entries, mode="clip")

    def _compute_colours(self, colours: Words) -> Words:
        """Compute what the engine says of colours, (n,)."""
        pixels = colours.view(np.uint8).reshape(1, -1, 4)[..., :3]
        mapped = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).filter(self._engine))
        return np.pad(mapped[0], ((0, 0), (0, 1))).view(_WORD).ravel()


class _StripRoom:
    """Room for the pixels that are worked on at a time: nothing is allocated for each strip.

    Args:
        pixels: How many they are at most. What a shorter strip leaves of the one before is worked on with it.

    Attributes:
        rgb: Their bytes, and up to three pixels of 0.
        colours: (4, n): 0x00BBGGRR of each fourth pixel, of each after that, and so on.
        entries: (4, n) likewise.
    """

    def __init__(self, pixels: int) -> None:
        count = (pixels + 3) // 4
        self.rgb = np.zeros(12 * count, np.uint8)
        self._words = self.rgb.view(_WORD).reshape(count, 3)
        self._columns, self._shifted = np.empty((3, count), _WORD), np.empty(count, _WORD)
        self.colours, self.entries = np.empty((4, count), _WORD), np.empty((4, count), _WORD)

    def unpack(self) -> None:
        """Unpack the colours from the words."""
        self._columns[:] = self._words.T
        first, second, third = self._columns
        np.bitwise_and(first, _COLOUR, out=self.colours[0])
        self._join(first, 24, second, 8, self.colours[1])
        self._join(second, 16, third, 16, self.colours[2])
        np.right_shift(third, 8, out=self.colours[3])

    def _join(self, low: Words, down: int, high: Words, up: int, out: Words) -> None:
        """Make a colour of one word's high bytes and the next one's low bytes."""
        np.right_shift(low, down, out=out)
        np.left_shift(high, up, out=self._shifted)
        np.bitwise_or(out, self._shifted, out=out)
        np.bitwise_and(out, _COLOUR, out=out)

    def pack(self) -> None:
        """Pack the entries, without their highest bytes, into the words; it changes them."""
        self.entries &= _COLOUR
        first, second, third, fourth = self.entries
        for column, (low, down, high, up) in enumerate(
            ((first, 0, second, 24), (second, 8, third, 16), (third, 16, fourth, 8))
        ):
            np.right_shift(low, down, out=low)
            np.left_shift(high, up, out=self._shifted)
            np.bitwise_or(low, self._shifted, out=self._words[:, column])


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
