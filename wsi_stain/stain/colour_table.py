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

_STRIP = 16_384
"""Triples of words, four pixels each, at a time: what is worked on stays in the processor's cache."""

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


def apply_table(table: Table, pixels: RgbImage) -> RgbImage:
    """Send every pixel through a table; the last two tables remember what they said.

    Args:
        table: (N, N, N, 3), 2 <= N <= 65.
        pixels: (h, w, 3) RGB.

    Returns:
        (h, w, 3) RGB, rounded; the same bytes on any processor.
    """
    return _cached_memo(np.ascontiguousarray(table, np.float32).tobytes(), len(table)).apply(pixels)


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

    def apply(self, pixels: RgbImage) -> RgbImage:
        """Send every pixel through the table.

        Args:
            pixels: (h, w, 3) RGB.

        Returns:
            (h, w, 3) RGB, rounded.
        """
        size, spare = pixels.size, -pixels.size % 12
        result = np.empty(size + spare, np.uint8)
        result[:size].reshape(pixels.shape)[:] = pixels
        result[size:] = 0
        words = result.view(_WORD).reshape(-1, 3)
        for start in range(0, len(words), _STRIP):
            strip = words[start : start + _STRIP]
            _pack_words(self._look_up_entries(_unpack_words(strip)), strip)
        return result[:size].reshape(pixels.shape)

    def _look_up_entries(self, colours: Words) -> Words:
        """Look up the entries of colours, (4, n)."""
        entries = self._entries.take(colours)
        if entries.min() < _KNOWN:
            fresh = colours[entries < _KNOWN]
            self._entries[fresh] = self._compute_colours(fresh) | _KNOWN
            entries = self._entries.take(colours)
        return entries

    def _compute_colours(self, colours: Words) -> Words:
        """Compute what the engine says of colours, (n,)."""
        pixels = colours.view(np.uint8).reshape(1, -1, 4)[..., :3]
        mapped = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).filter(self._engine))
        return np.pad(mapped[0], ((0, 0), (0, 1))).view(_WORD).ravel()


def _unpack_words(words: Words) -> Words:
    """Unpack the colours, 0x00BBGGRR, of four pixels from each three words: (n, 3) to (4, n)."""
    first, second, third = words.T.copy()
    colours = np.empty((4, len(words)), _WORD)
    np.bitwise_and(first, _COLOUR, out=colours[0])
    np.bitwise_or(first >> 24, second << 8 & _COLOUR, out=colours[1])
    np.bitwise_or(second >> 16, third << 16 & _COLOUR, out=colours[2])
    np.right_shift(third, 8, out=colours[3])
    return colours


def _pack_words(colours: Words, words: Words) -> None:
    """Write four colours, their highest byte ignored, into each three words: (4, n) to (n, 3)."""
    first, second, third, fourth = colours
    np.bitwise_or(first & _COLOUR, second << 24, out=words[:, 0])
    np.bitwise_or(second >> 8 & 0xFFFF, third << 16, out=words[:, 1])
    np.bitwise_or(third >> 16 & 0xFF, fourth << 8, out=words[:, 2])


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
