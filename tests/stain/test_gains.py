"""Gains are shrunk by what is known of a level, and held where nuclei would close."""

from __future__ import annotations

import pytest

from tests.stain.test_statistics import WHITE, he_pixels
from wsi_stain.stain.gains import stain_gains
from wsi_stain.stain.statistics import StainStatistics, slide_statistics


@pytest.fixture(scope="module")
def pale() -> StainStatistics:
    return slide_statistics(he_pixels(0.25, gains=(0.7, 0.7)), WHITE, "glass")


@pytest.fixture(scope="module")
def reference() -> StainStatistics:
    return slide_statistics(he_pixels(0.25), WHITE, "glass")


def test_gains_are_believed_as_far_as_the_slides_show_them(pale: StainStatistics, reference: StainStatistics) -> None:
    ratio = reference.h_nuclei / pale.h_nuclei
    h, e = stain_gains(pale, reference)
    assert 1.1 < h < ratio
    assert h < e
    update = {"slides": 20}
    pooled_h, _ = stain_gains(pale.model_copy(update=update), reference.model_copy(update=update))
    assert h < pooled_h < ratio
    weak_h, weak_e = stain_gains(pale.model_copy(update={"evidence": (0.2, 1.0)}), reference)
    assert 1 < weak_h < h and weak_e == e
    assert stain_gains(pale, pale) == (1.0, 1.0)


def test_nuclei_are_not_made_darker_than_the_reference_has_any(
    pale: StainStatistics, reference: StainStatistics
) -> None:
    as_dark = reference.lum_nuclei * reference.dark_ratio / pale.lum_nuclei
    dark = pale.model_copy(update={"dark_ratio": as_dark})
    assert stain_gains(dark, reference)[0] == pytest.approx(1.1)
    darker = pale.model_copy(update={"dark_ratio": 2 * as_dark})
    assert stain_gains(darker, reference)[0] == 1.0
