"""The box filter and the cubic kernel, against slow arithmetic and against themselves from another block."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.slide_files import noise, shrink
from wsi_stain.slides.resampling import area_average, bicubic, source_span


def slow_mean(pixels: NDArray[np.uint8], left: Fraction, top: Fraction, step_x: Fraction, step_y: Fraction) -> float:
    """Mean of channel 0 over one rectangle, pixel by pixel."""
    total = Fraction(0)
    for y in range(floor(top), ceil(top + step_y)):
        for x in range(floor(left), ceil(left + step_x)):
            width = min(left + step_x, x + 1) - max(left, Fraction(x))
            height = min(top + step_y, y + 1) - max(top, Fraction(y))
            total += width * height * int(pixels[y, x, 0])
    return float(total / (step_x * step_y))


@pytest.mark.parametrize(
    ("step_x", "step_y", "x0", "y0"),
    [
        ("2", "2", "0", "0"),
        ("1.6", "2.3", "0", "0"),
        ("3.7", "1.2", "0.35", "1.8"),
        ("0.995", "1.01", "0.1", "0"),
        ("7", "9.5", "3", "2"),
    ],
)
def test_area_average_is_the_mean_over_each_rectangle(step_x: str, step_y: str, x0: str, y0: str) -> None:
    pixels, sides = noise(61, 47), (Fraction(step_x), Fraction(step_y))
    out = area_average(pixels, Fraction(x0), Fraction(y0), *sides, width=5, height=4)
    truth = [
        [slow_mean(pixels, Fraction(x0) + j * sides[0], Fraction(y0) + i * sides[1], *sides) for j in range(5)]
        for i in range(4)
    ]
    assert np.abs(out[..., 0] - np.array(truth)).max() <= 0.5 + 1e-4


def test_area_average_of_whole_factors_is_the_plain_mean() -> None:
    pixels = noise(90, 63)
    assert np.array_equal(area_average(pixels, 0, 0, 3, 3, 30, 21), shrink(pixels, 3))


def test_a_flat_image_stays_flat_and_beyond_the_input_its_edge_is_repeated() -> None:
    pixels = np.full((40, 50, 3), 255, np.uint8)
    assert (area_average(pixels, 0, 0, Fraction("1.7"), Fraction("2.9"), 31, 15) == 255).all()


@pytest.mark.parametrize("filtered", [area_average, bicubic])
@settings(max_examples=40, deadline=None)
@given(
    step=st.fractions(min_value=Fraction(1, 4), max_value=6, max_denominator=997),
    x=st.integers(0, 40),
    y=st.integers(0, 30),
    width=st.integers(1, 20),
    height=st.integers(1, 70),
)
def test_a_block_equals_the_cut_from_the_whole(
    filtered: object, step: Fraction, x: int, y: int, width: int, height: int
) -> None:
    assert callable(filtered)
    pixels = noise(83, 71)
    whole = filtered(pixels, 0, 0, step, step, x + width, y + height)
    left, right = source_span(x * step, step, width, 2, 83)
    top, bottom = source_span(y * step, step, height, 2, 71)
    block = filtered(pixels[top:bottom, left:right], x * step - left, y * step - top, step, step, width, height)
    assert np.array_equal(block, whole[y:, x:])


def test_bicubic_follows_a_ramp_at_pixel_centres() -> None:
    ramp = np.repeat(np.arange(0, 200, 4, dtype=np.uint8)[None, :, None], 9, axis=0).repeat(3, axis=2)
    out = bicubic(ramp, 10, 2, Fraction(1, 4), Fraction(1, 2), 80, 8)
    centres = 10 + (np.arange(80) + 0.5) / 4 - 0.5
    assert np.abs(out[:, :, 0] - 4 * centres).max() <= 0.5


@pytest.mark.parametrize(
    ("first", "count", "margin", "expected"),
    [
        ("0", 4, 0, (0, 6)),
        ("1.5", 3, 0, (1, 6)),
        ("0", 2, 2, (0, 5)),
        ("99", 5, 0, (99, 100)),
        ("120", 5, 0, (99, 100)),
    ],
    ids=["start", "fractional", "margin", "far edge", "beyond"],
)
def test_source_span_holds_what_the_outputs_need(
    first: str, count: int, margin: int, expected: tuple[int, int]
) -> None:
    assert source_span(Fraction(first), Fraction("1.5"), count, margin, 100) == expected
