"""Who says what a pixel measures, and when nobody is believed."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsi_stain.errors import MppError
from wsi_stain.resolution import objective_power, resolve

SLIDE = Path("a/slide.svs")
OWN = {"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.26"}
TAGS = {"tiff.XResolution": "40000", "tiff.YResolution": "20000", "tiff.ResolutionUnit": "centimeter"}
POWER_40 = {"openslide.objective-power": "40"}


@pytest.mark.parametrize(
    ("properties", "slide_mpp", "mpp", "origin"),
    [
        (OWN | TAGS, None, (0.25, 0.26), "openslide"),
        (OWN, 0.5, (0.5, 0.5), "--slide-mpp"),
        (POWER_40, 1.0, (1.0, 1.0), "--slide-mpp"),
        (TAGS, None, (0.25, 0.5), "tiff tags"),
        ({"tiff.XResolution": "50800", "tiff.ResolutionUnit": "inch"}, None, (0.5, 0.5), "tiff tags"),
        ({"openslide.mpp-x": "0.4"}, None, (0.4, 0.4), "openslide"),
        (OWN | {"openslide.mpp-x": "nan", "openslide.mpp-y": "rubbish"} | TAGS, None, (0.25, 0.5), "tiff tags"),
        ({"openslide.mpp-x": "0.263"} | POWER_40, None, (0.263, 0.263), "openslide"),
    ],
    ids=["own first", "user beats file", "user beats objective", "tags", "inch", "one axis", "not numbers", "GT450"],
)
def test_the_first_voice_in_the_order_is_heard(
    properties: dict[str, str], slide_mpp: float | None, mpp: tuple[float, float], origin: str
) -> None:
    assert resolve(SLIDE, properties, slide_mpp) == (pytest.approx(mpp), origin)


@pytest.mark.parametrize(
    ("properties", "slide_mpp", "value"),
    [
        ({}, None, "does not say"),
        ({"tiff.XResolution": "40000", "tiff.ResolutionUnit": "none"}, None, "does not say"),
        ({"openslide.mpp-x": "0.00499"}, None, "0.00499"),
        ({"tiff.XResolution": "72", "tiff.ResolutionUnit": "inch"}, None, "352.8"),
        ({"openslide.mpp-x": "0.25", "openslide.mpp-y": "25"}, None, "25"),
        ({"openslide.mpp-x": "2.5"} | POWER_40, None, "40x"),
        ({"openslide.mpp-x": "0.1"} | POWER_40, None, "40x"),
        (OWN, 40.0, "40"),
    ],
    ids=[
        "none",
        "no unit",
        "100 times too fine",
        "72 dpi",
        "one axis",
        "too coarse",
        "too fine",
        "magnification given",
    ],
)
def test_no_or_absurd_resolution_names_value_file_and_flag(
    properties: dict[str, str], slide_mpp: float | None, value: str
) -> None:
    with pytest.raises(MppError) as caught:
        resolve(SLIDE, properties, slide_mpp)
    assert value in caught.value.problem and str(SLIDE) in caught.value.problem
    assert "--slide-mpp" in caught.value.remedy


@pytest.mark.parametrize(("text", "power"), [("40", 40.0), ("0", None), ("-", None), ("inf", None)])
def test_objective_power_is_a_positive_number_or_none(text: str, power: float | None) -> None:
    assert objective_power({"openslide.objective-power": text}) == power
