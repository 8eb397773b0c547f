"""Exact resampling of pixel arrays: box filter (area averaging) and bicubic. Pure arithmetic. Knows no slides.

Both filters are separable and linear, so each axis is a sparse matrix of weights. Positions are rational numbers and
weights are rounded once, from the exact position: an output pixel is the same whichever block it is computed in.

Memory bound: beside input and output, one strip of `_STRIP_ROWS` output rows lives in float32.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

_STRIP_ROWS = 32

_BICUBIC_A = -0.5
"""Keys 1981 (doi:10.1109/TASSP.1981.1163711), the value that is exact on quadratics."""


class _Taps(NamedTuple):
    """For each of n output pixels along an axis: the input pixels it takes (n, k) and their weights (n, k)."""

    source: NDArray[np.int64]
    weight: NDArray[np.float32]


def area_average(
    pixels: NDArray[np.uint8],
    x0: Fraction | float,
    y0: Fraction | float,
    step_x: Fraction | float,
    step_y: Fraction | float,
    width: int,
    height: int,
) -> NDArray[np.uint8]:
    """Average over boxes: output pixel (row i, col j) is the mean of the input over its rectangle, parts weighted.

    The rectangle is [x0 + j step_x, x0 + (j + 1) step_x) x [y0 + i step_y, y0 + (i + 1) step_y). What it covers
    beyond the input repeats the input's edge.

    Args:
        pixels: (h, w, channels), values 0 to 255.
        x0: Left edge of the first output pixel in input pixels, from the input's left edge. Fractions stay exact.
        y0: Top edge of the first output pixel, likewise.
        step_x: Width of an output pixel in input pixels, > 0.
        step_y: Height of an output pixel in input pixels, > 0.
        width: Columns of the output.
        height: Rows of the output.

    Returns:
        (height, width, channels), rounded to nearest.
    """
    rows = _box_taps(Fraction(y0), Fraction(step_y), height, pixels.shape[0])
    cols = _box_taps(Fraction(x0), Fraction(step_x), width, pixels.shape[1])
    return _apply(pixels, rows, cols)


def bicubic(
    pixels: NDArray[np.uint8],
    x0: Fraction | float,
    y0: Fraction | float,
    step_x: Fraction | float,
    step_y: Fraction | float,
    width: int,
    height: int,
) -> NDArray[np.uint8]:
    """Interpolate at the centres of output pixels with Keys' cubic kernel, for steps below one; see `area_average`."""
    rows = _cubic_taps(Fraction(y0), Fraction(step_y), height, pixels.shape[0])
    cols = _cubic_taps(Fraction(x0), Fraction(step_x), width, pixels.shape[1])
    return _apply(pixels, rows, cols)


def _positions(first: Fraction, step: Fraction, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return whole part and fraction of first + i step for i in 0..count-1, exact before the last rounding."""
    denominator = first.denominator * step.denominator
    start, stride = first.numerator * step.denominator, step.numerator * first.denominator
    parts = [divmod(start + i * stride, denominator) for i in range(count)]
    return (
        np.array([whole for whole, _ in parts], dtype=np.int64),
        np.array([rest / denominator for _, rest in parts], dtype=np.float64),
    )


def _box_taps(first: Fraction, step: Fraction, count: int, length: int) -> _Taps:
    whole, fraction = _positions(first, step, count)
    width, k = float(step), np.arange(ceil(step) + 1)
    low, high = fraction[:, None], fraction[:, None] + width
    weight = np.clip(np.minimum(high, k + 1) - np.maximum(low, k), 0.0, None) / width
    return _clamp_taps(whole, k, weight, length)


def _cubic_taps(first: Fraction, step: Fraction, count: int, length: int) -> _Taps:
    whole, fraction = _positions(first + step / 2 - Fraction(1, 2), step, count)
    k = np.arange(-1, 3)
    distance = np.abs(fraction[:, None] - k)
    a = _BICUBIC_A
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return _clamp_taps(whole, k, np.where(distance <= 1, near, far), length)


def _clamp_taps(whole: NDArray[np.int64], k: NDArray[np.int64], weight: NDArray[np.float64], length: int) -> _Taps:
    return _Taps(np.clip(whole[:, None] + k, 0, length - 1), weight.astype(np.float32))


def _matrix(taps: _Taps, first: int, length: int) -> sparse.csr_matrix:
    count, k = taps.source.shape
    ends = np.arange(count + 1) * k
    return sparse.csr_matrix((taps.weight.ravel(), (taps.source - first).ravel(), ends), shape=(count, length))


def _apply(pixels: NDArray[np.uint8], rows: _Taps, cols: _Taps) -> NDArray[np.uint8]:
    height, width = len(rows.source), len(cols.source)
    out = np.empty((height, width, pixels.shape[2]), np.uint8)
    across = _matrix(cols, 0, pixels.shape[1])
    for top in range(0, height, _STRIP_ROWS):
        strip = _Taps(rows.source[top : top + _STRIP_ROWS], rows.weight[top : top + _STRIP_ROWS])
        out[top : top + _STRIP_ROWS] = _apply_strip(pixels, strip, across)
    return out


def _apply_strip(pixels: NDArray[np.uint8], rows: _Taps, across: sparse.csr_matrix) -> NDArray[np.uint8]:
    first, last = int(rows.source.min()), int(rows.source.max()) + 1
    _, in_width, channels = pixels.shape
    flat_HX = pixels[first:last].reshape(last - first, in_width * channels).astype(np.float32)
    shrunk_HWC = (_matrix(rows, first, last - first) @ flat_HX).reshape(-1, in_width, channels)
    flat_WX = np.ascontiguousarray(shrunk_HWC.transpose(1, 0, 2)).reshape(in_width, -1)
    result_WHC = (across @ flat_WX).reshape(across.shape[0], -1, channels)
    rounded: NDArray[np.uint8] = np.clip(np.rint(result_WHC), 0, 255).astype(np.uint8).transpose(1, 0, 2)
    return rounded


def source_span(first: Fraction, step: Fraction, count: int, margin: int, length: int) -> tuple[int, int]:
    """Return first and past-the-last input pixel that `count` outputs from position `first` need, within 0..length.

    Args:
        first: Left edge of the first output pixel, in input pixels.
        step: Side of an output pixel, in input pixels.
        count: Number of output pixels.
        margin: Input pixels needed on each side: 0 for boxes, 2 for the cubic kernel.
        length: Number of input pixels; at least one is always returned.
    """
    low = min(max(floor(first) - margin, 0), length - 1)
    high = max(min(ceil(first + count * step) + margin, length), low + 1)
    return low, high
