"""Who says what a pixel measures, and when nobody is believed."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsi_stain.core.errors import MppError
from wsi_stain.core.geometry import Mpp
from wsi_stain.slides.resolution import Resolution, objective_power, resolve_mpp

SLIDE = Path("a/slide.svs")
OWN = {"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.26"}
TAGS = {"tiff.XResolution": "40000", "tiff.YResolution": "36000", "tiff.ResolutionUnit": "centimeter"}
TAGS_MPP = (0.25, 0.2778)
TAGS_20 = {"tiff.XResolution": "20000", "tiff.YResolution": "20000", "tiff.ResolutionUnit": "centimeter"}
PRINT = {"tiff.XResolution": "72", "tiff.YResolution": "72", "tiff.ResolutionUnit": "inch"}
POWER_40 = {"openslide.objective-power": "40"}


@pytest.mark.parametrize(
    ("properties", "slide_mpp", "mpp", "origin"),
    [
        (OWN | TAGS, None, (0.25, 0.26), "openslide"),
        (OWN, 0.5, (0.5, 0.5), "--slide-mpp"),
        (POWER_40, 1.0, (1.0, 1.0), "--slide-mpp"),
        (TAGS, None, TAGS_MPP, "tiff tags"),
        (OWN | PRINT, None, (0.25, 0.26), "openslide"),
        (OWN | TAGS_20 | POWER_40, None, (0.25, 0.26), "openslide"),
        ({"openslide.mpp-x": "0.2325", "openslide.objective-power": "20"}, None, (0.2325, 0.2325), "openslide"),
        ({"tiff.XResolution": "50800", "tiff.ResolutionUnit": "inch"}, None, (0.5, 0.5), "tiff tags"),
        ({"openslide.mpp-x": "0.4"}, None, (0.4, 0.4), "openslide"),
        (OWN | {"openslide.mpp-x": "nan", "openslide.mpp-y": "rubbish"} | TAGS, None, TAGS_MPP, "tiff tags"),
        ({"openslide.mpp-x": "0.263"} | POWER_40, None, (0.263, 0.263), "openslide"),
    ],
    ids=[
        *("own first", "user beats file", "user beats objective", "tags", "print", "objective decides", "MRXS", "inch"),
        *("one axis", "not numbers", "GT450"),
    ],
)
def test_the_first_voice_in_the_order_is_heard(
    properties: dict[str, str], slide_mpp: float | None, mpp: tuple[float, float], origin: str
) -> None:
    assert resolve_mpp(SLIDE, properties, slide_mpp)[:2] == (pytest.approx(mpp, rel=1e-3), origin)


@pytest.mark.parametrize(
    ("properties", "slide_mpp", "value"),
    [
        ({}, None, "does not say"),
        (POWER_40, None, "40x suggests about 0.25 um/px"),
        ({"tiff.XResolution": "40000", "tiff.ResolutionUnit": "none"}, None, "does not say"),
        ({"openslide.mpp-x": "0.00499"}, None, "0.00499"),
        ({"tiff.XResolution": "72", "tiff.ResolutionUnit": "inch"}, None, "352.8"),
        ({"openslide.mpp-x": "0.25", "openslide.mpp-y": "25"}, None, "25"),
        ({"openslide.mpp-x": "2.5"} | POWER_40, None, "40x"),
        ({"openslide.mpp-x": "0.09"} | POWER_40, None, "40x"),
        (OWN, 40.0, "40"),
        (OWN | TAGS_20, None, "0.25 x 0.26 um/px (openslide), and 0.5 um/px (tiff tags)"),
        ({"openslide.mpp-x": "0.4", "openslide.objective-power": "30"} | TAGS_20, None, "contradicts itself"),
        ({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.55"}, None, "2.2 times as long as wide"),
        (PRINT, None, "72 dpi"),
        ({"openslide.mpp-x": "0.00499"}, None, "0.499 written in a wrong unit"),
    ],
    ids=[
        "none",
        "objective alone",
        "no unit",
        "100 times too fine",
        "72 dpi",
        "one axis",
        "too coarse",
        "too fine",
        "magnification given",
        "tags contradict",
        "objective speaks for both",
        "oblong",
        "a printer's figure",
        "a wrong unit",
    ],
)
def test_no_or_absurd_resolution_names_value_file_and_flag(
    properties: dict[str, str], slide_mpp: float | None, value: str
) -> None:
    with pytest.raises(MppError) as caught:
        resolve_mpp(SLIDE, properties, slide_mpp)
    assert value in caught.value.problem and str(SLIDE) in caught.value.problem
    assert "--slide-mpp" in caught.value.remedy


@pytest.mark.parametrize(
    ("properties", "slide_mpp", "remarks"),
    [
        (OWN | TAGS | POWER_40, None, []),
        (OWN | PRINT, 0.26, []),
        (OWN, 0.5, ["0.5 um/px was given for it, the file itself says 0.25 x 0.26 um/px (openslide)"]),
        (PRINT, 0.5, []),
        (TAGS, None, ["its pixels are not square: 0.25 x 0.2778 um/px (tiff tags)"]),
        (
            OWN | TAGS_20 | POWER_40,
            None,
            [
                "the file also says 0.5 um/px (tiff tags),"
                " but the objective of 40x speaks for 0.25 x 0.26 um/px (openslide)"
            ],
        ),
    ],
    ids=["all agree", "user agrees", "user differs", "file is absurd", "not square", "tags differ"],
)
def test_doubts_are_remarked_on(properties: dict[str, str], slide_mpp: float | None, remarks: list[str]) -> None:
    assert list(resolve_mpp(SLIDE, properties, slide_mpp).remarks) == remarks


@pytest.mark.parametrize(
    ("mpp", "power", "usual"),
    [(0.5025, 40, ("0.5025", "40x", "0.25", "20x")), (0.25, 20, ("0.25", "20x", "0.5", "40x"))],
)
def test_an_objective_that_usually_gives_other_pixels_is_remarked_on_with_both(
    mpp: float, power: int, usual: tuple[str, ...]
) -> None:
    properties = {"openslide.mpp-x": str(mpp), "openslide.objective-power": str(power)}
    (remark,) = resolve_mpp(SLIDE, properties, None).remarks
    assert all(word in remark for word in (*usual, "--slide-mpp"))
    assert resolve_mpp(SLIDE, properties, mpp).remarks == (), "whoever says it has looked"


@pytest.mark.parametrize(("mpp", "power"), [(0.44, 20), (0.2228, 40), (0.2528, 40), (0.33, 40), (0.37, 20)])
def test_what_scanners_give_is_not_remarked_on(mpp: float, power: int) -> None:
    properties = {"openslide.mpp-x": str(mpp), "openslide.objective-power": str(power)}
    assert resolve_mpp(SLIDE, properties, None).remarks == ()


@pytest.mark.parametrize(
    ("mpp", "meant"),
    [(0.635, 0.25), (1.27, 0.5), (0.0984, 0.25), (0.197, 0.5), (0.25, None), (0.5, None), (0.8, None), (0.33, None)],
)
def test_inches_taken_for_centimetres_are_suspected(mpp: float, meant: float | None) -> None:
    remarks = resolve_mpp(SLIDE, {"openslide.mpp-x": str(mpp)}, None).remarks
    assert [f"--slide-mpp {meant:g}" in remark for remark in remarks] == ([] if meant is None else [True])


@pytest.mark.parametrize("origin", ["ome-xml", "description"])
def test_a_text_is_heard_where_openslide_says_nothing_and_contradicts_it_where_it_does(origin: str) -> None:
    text = Resolution(Mpp(0.25, 0.25), origin)
    assert resolve_mpp(SLIDE, PRINT, None, [text])[:2] == ((0.25, 0.25), origin)
    with pytest.raises(MppError, match="contradicts itself"):
        resolve_mpp(SLIDE, TAGS_20, None, [text])
    assert resolve_mpp(SLIDE, TAGS_20, 0.5, [text]).mpp == (0.5, 0.5)


@pytest.mark.parametrize(("text", "power"), [("40", 40.0), ("0", None), ("-", None), ("inf", None)])
def test_objective_power_is_a_positive_number_or_none(text: str, power: float | None) -> None:
    assert objective_power({"openslide.objective-power": text}) == power
