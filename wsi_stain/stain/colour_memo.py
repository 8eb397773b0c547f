"""A colour table applied to pixels, five times as fast as its engine: each colour is worked out once.

The engine is Pillow's `Color3DLUT`: trilinear, in fixed-point integers, so that it gives the same bytes on any
processor (it misses exact arithmetic by 0.53 grey levels at most, where rounding alone takes 0.5). What it says of a
colour is kept under the colour's 24 bits, and pixels are looked up there: one gather, in integers too.

    four pixels  R G B R  G B R G  B R G B   are three little-endian words
    an index     0x00BBGGRR                  an entry     0x01BBGGRR, or 0: not worked out yet

Memory bound: 64 MiB of entries, of which the system gives only the pages that hold colours seen; and strips of 65,536
pixels. Knows no slides.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from wsi_stain.core.arrays import RgbImage

Words = NDArray[np.uint32]

_STRIP = 16_384
"""Triples of words, four pixels each, at a time: what is worked on stays in the processor's cache."""

_COLOURS = 1 << 24
_KNOWN = np.uint32(_COLOURS)
_COLOUR = np.uint32(_COLOURS - 1)
_WORD = "<u4"


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
