"""Pixel grids over level 0: sizes round up, steps stay exact, and the level read is never coarser than the grid."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from wsi_stain.core.errors import SlideError
from wsi_stain.core.geometry import Mpp, Size
from wsi_stain.slides.frame import Grid, working_frame

SIZE = Size(1001, 700)


def lay_out(mpp: float | None, own: float = 0.2, allow_upsample: bool = False) -> Grid:
    return working_frame(Path("a.svs"), SIZE, Mpp(own, own), mpp, allow_upsample)


def test_level_0_serves_within_a_hundredth() -> None:
    for mpp in (None, 0.2, 0.2019, 0.1981):
        assert lay_out(mpp) == Grid(SIZE, Fraction(1), Fraction(1))
        assert lay_out(mpp).is_level_0
    assert not lay_out(0.203).is_level_0


def test_steps_are_exact_and_sizes_round_up() -> None:
    assert lay_out(0.6) == Grid(Size(334, 234), Fraction(3), Fraction(3))
    assert lay_out(0.6).shrink(4) == Grid(Size(84, 59), Fraction(12), Fraction(12))
    assert lay_out(None).resize(Size(100, 70)) == Grid(Size(100, 70), Fraction(1001, 100), Fraction(10))


def test_a_finer_frame_has_to_be_allowed() -> None:
    with pytest.raises(SlideError, match=r"a\.svs has 0\.2 um/px, coarser than the 0\.1 asked for"):
        lay_out(0.1)
    assert lay_out(0.1, allow_upsample=True).size == Size(2002, 1400)
