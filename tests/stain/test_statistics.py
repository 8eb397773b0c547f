"""Stain statistics and templates: on synthetic pixels whose stain is known, and on real slides."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from wsi_stain.core.errors import StainError
from wsi_stain.stain.statistics import StainConfig, StainStatistics, od_table, slide_statistics, white_point
from wsi_stain.stain.template import Template, apply_template
from wsi_stain.stain.vectors import RUIFROK, angle_deg

WHITE = (241.0, 236.0, 239.0)
H, E = RUIFROK
DAB = (0.27, 0.57, 0.78)
HE_SLIDES = {
    "AT2": "slides/AT2_gastric_metaplasia.svs",
    "NanoZoomer": "slides/NanoZoomer_EO1_cropA.svs",
    "CMU": "formats/CMU-1-Small-Region.svs",
    "TCGA": "formats/TCGA-CR-7395-01A-01-TS1.svs",
}
BELIEVED = {"slides": 1000, "dark_ratio": 0.5}
"""Of statistics whose gains are taken as they are."""

REFERENCE = StainStatistics(
    white=WHITE,
    white_origin="glass",
    vectors=((0.56, 0.73, 0.39), (0.06, 0.92, 0.39)),
    h_nuclei=1.6,
    h_stroma=0.5,
    e_nuclei=0.4,
    e_stroma=0.5,
    lum_nuclei=1.3,
    lum_stroma=0.65,
    dark_ratio=1.3,
    pixels=50_000,
)


def he_pixels(
    nuclei: float,
    count: int = 50_000,
    vectors: tuple = (H, E),
    gains: tuple[float, float] = (1.0, 1.0),
    white: tuple[float, float, float] = WHITE,
    glass: float = 0.1,
) -> np.ndarray:
    """(count, 3) pixels of tissue, a share `nuclei` of it nuclei, in which hematoxylin is 1.4 times the first gain."""
    rng = np.random.default_rng(7)
    is_nucleus = rng.random(count) < nuclei
    h = np.where(is_nucleus, rng.lognormal(np.log(1.4), 0.2, count), rng.lognormal(np.log(0.25), 0.4, count))
    e = np.where(is_nucleus, rng.lognormal(np.log(0.3), 0.3, count), rng.lognormal(np.log(0.6), 0.3, count))
    amounts = np.stack([h * gains[0], e * gains[1]], axis=1) * (rng.random((count, 1)) >= glass)
    unit = np.asarray(vectors) / np.linalg.norm(vectors, axis=1, keepdims=True)
    light = (np.asarray(white) + 1) * np.exp(-amounts @ unit) - 1 + rng.normal(0, 1.5, (count, 3))
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)


def real_slide(name: str) -> Path:
    root = Path(os.environ.get("WSI_STAIN_DATA", Path(__file__).parents[2] / "../shared/data"))
    if not (path := root / name).exists():
        pytest.skip(f"{path} is not there: set WSI_STAIN_DATA")
    return path


def real_sample(name: str, count: int = 100) -> tuple[np.ndarray, tuple[float, float, float], str]:
    """Tissue tiles (n, 64, 64, 3), every fourth pixel of 256 px, of a real slide, with its white point."""
    with openslide.OpenSlide(real_slide(name)) as slide:
        thumbnail = np.array(slide.get_thumbnail((1000, 1000)).convert("RGB"))
        mask = np.ptp(thumbnail.astype(int), axis=2) > 20
        step = slide.dimensions[0] / thumbnail.shape[1]
        places = [
            (x, y)
            for y in range(0, slide.dimensions[1] - 256, 256)
            for x in range(0, slide.dimensions[0] - 256, 256)
            if mask[int(y / step) : int((y + 256) / step) + 1, int(x / step) : int((x + 256) / step) + 1].mean() > 0.4
        ]
        places = [places[i] for i in np.random.default_rng(0).permutation(len(places))[:count]]
        tiles = [np.array(slide.read_region(place, 0, (256, 256)).convert("RGB"))[::4, ::4] for place in places]
    return np.stack(tiles), *white_point(thumbnail, mask)


@pytest.fixture(scope="module")
def at2() -> tuple[np.ndarray, StainStatistics]:
    tiles, white, origin = real_sample(HE_SLIDES["AT2"])
    return tiles, slide_statistics(tiles.reshape(-1, 3), white, origin)


class TestWhitePoint:
    def test_glass_is_found_beside_fill_pen_and_shadow(self) -> None:
        thumbnail = np.full((61, 40, 3), (240, 236, 238), np.uint8)
        thumbnail[:20] = 255  # fill, more than there is glass
        thumbnail[20:25] = 0
        thumbnail[25:30] = (60, 90, 220)  # pen that the mask missed
        thumbnail[30:35] = 70
        tissue = np.zeros((61, 40), bool)
        tissue[35:45] = True
        thumbnail[tissue] = (200, 120, 190)
        assert white_point(thumbnail, tissue) == ((240.0, 236.0, 238.0), "glass")

    @pytest.mark.parametrize(
        "tint", [(250, 235, 150), (245, 230, 185), (190, 225, 245), (245, 200, 215), (150, 140, 120)], ids=str
    )
    def test_glass_has_any_tint(self, tint: tuple[int, int, int]) -> None:
        thumbnail = np.full((40, 40, 3), tint, np.uint8)
        thumbnail[:3] = (60, 60, 70)
        tissue = np.zeros((40, 40), bool)
        tissue[20:30] = True
        thumbnail[tissue] = np.rint(np.multiply(tint, (0.8, 0.5, 0.75)))
        assert white_point(thumbnail, tissue) == (tint, "glass")

    def test_without_glass_the_brightest_tissue_stands_in(self) -> None:
        thumbnail = np.full((30, 41, 3), (190, 110, 180), np.uint8)
        thumbnail[0] = (231, 220, 229)
        white, origin = white_point(thumbnail, np.ones((30, 41), bool))
        assert origin == "brightest tissue"
        assert white == (231.0, 220.0, 229.0)


class TestStatistics:
    @pytest.mark.parametrize("nuclei", [0.05, 0.25, 0.7])
    def test_known_stain_is_recovered_whatever_the_share_of_nuclei(self, nuclei: float) -> None:
        found = slide_statistics(he_pixels(nuclei), WHITE, "glass")
        assert angle_deg(found.vectors[0], H) < 8
        assert angle_deg(found.vectors[1], E) < 8
        assert found.h_nuclei == pytest.approx(1.4, rel=0.2)
        assert found.e_stroma == pytest.approx(0.6, rel=0.15)

    @pytest.mark.parametrize("gains", [(0.6, 1.5), (1.5, 0.6)], ids=["pale H", "pale E"])
    def test_levels_follow_each_stain_by_itself(self, gains: tuple[float, float]) -> None:
        plain = slide_statistics(he_pixels(0.25), WHITE, "glass")
        found = slide_statistics(he_pixels(0.25, gains=gains), WHITE, "glass")
        assert found.h_nuclei / plain.h_nuclei == pytest.approx(gains[0], rel=0.2)
        assert found.e_stroma / plain.e_stroma == pytest.approx(gains[1], rel=0.2)

    def test_ink_and_black_pigment_do_not_count(self) -> None:
        pixels = he_pixels(0.25)
        dirt = np.repeat(np.array([(20, 120, 60), (25, 25, 25)], np.uint8), 1000, axis=0)
        clean = slide_statistics(pixels, WHITE, "glass")
        found = slide_statistics(np.concatenate([pixels, dirt]), WHITE, "glass")
        assert found.foreign > 0.01 > clean.foreign
        assert found.model_copy(update={"foreign": clean.foreign}) == clean

    @pytest.mark.parametrize(
        ("pixels", "white", "reason"),
        [
            (lambda: he_pixels(0.3, vectors=(H, DAB)), WHITE, "Not H&E"),
            (lambda: he_pixels(0.3, gains=(1.0, 0.0)), WHITE, "Not H&E|Only one stain"),
            (lambda: he_pixels(0.3), (30.0, 4.0, 4.0), "No brightfield slide"),
            (lambda: he_pixels(0.3, glass=1.0), WHITE, "stained as by H&E"),
            (lambda: np.full((5000, 3), (180, 90, 170), np.uint8), WHITE, "Only one stain|Not H&E"),
            (lambda: np.full((5000, 3), 0, np.uint8), WHITE, "Not H&E: 100% of the stained pixels are gray or black"),
        ],
        ids=["DAB", "hematoxylin only", "dark", "glass", "one colour", "black"],
    )
    def test_what_is_not_he_is_refused_with_a_remedy(
        self, pixels: Callable[[], np.ndarray], white: tuple[float, float, float], reason: str
    ) -> None:
        with pytest.raises(StainError, match=reason) as refused:
            slide_statistics(pixels(), white, "glass")
        assert refused.value.remedy

    def test_thresholds_are_the_configuration(self) -> None:
        with pytest.raises(StainError, match="expected at most 3"):
            slide_statistics(he_pixels(0.2), WHITE, "glass", StainConfig(max_angle_deg=3.0))

    @pytest.mark.parametrize("name", HE_SLIDES)
    def test_real_he_is_accepted(self, name: str) -> None:
        tiles, white, origin = real_sample(HE_SLIDES[name])
        found = slide_statistics(tiles.reshape(-1, 3), white, origin)
        assert found.h_nuclei > found.h_stroma
        assert found.lum_nuclei > found.lum_stroma

    def test_fluorescence_is_refused(self) -> None:
        with openslide.OpenSlide(real_slide("formats/test3-TRITC_560.ndpi")) as slide:
            thumbnail = np.array(slide.get_thumbnail((800, 800)).convert("RGB"))
        mask = thumbnail.max(axis=2) > 20
        with pytest.raises(StainError, match="No brightfield"):
            slide_statistics(thumbnail[mask], *white_point(thumbnail, mask))
        with pytest.raises(StainError):  # nor as H&E on a white background that it does not have
            slide_statistics(thumbnail[mask], WHITE, "glass")

    @pytest.mark.parametrize(("kind", "most"), [("gray", 0.075), ("he", 0.06)])
    def test_composition_of_a_real_slide_hardly_matters(
        self, kind: str, most: float, at2: tuple[np.ndarray, StainStatistics]
    ) -> None:
        """Statistics from the nuclei-rich and from the stroma-rich half must make the same template."""
        tiles, whole = at2
        template = Template(kind=kind, reference=whole)
        darkness = apply_template(tiles, whole, Template(kind="he", reference=whole))[..., 0].mean(axis=(1, 2))
        halves = np.array_split(np.argsort(darkness), 2)
        poor, rich = (slide_statistics(tiles[half].reshape(-1, 3), whole.white, "glass") for half in halves)
        assert np.abs(apply_template(tiles, rich, template) - apply_template(tiles, poor, template)).mean() < most


class TestTemplate:
    @pytest.mark.parametrize("kind", ["gray", "he"])
    @pytest.mark.parametrize("to", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
    def test_bytes_and_floats_numpy_and_torch_agree(self, kind: str, to: Callable[[np.ndarray], object]) -> None:
        pixels = np.random.default_rng(1).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
        own = slide_statistics(he_pixels(0.3, gains=(0.7, 1.3)), WHITE, "glass")
        template = Template(kind=kind, reference=REFERENCE)
        expected = apply_template(pixels, own, template)
        assert expected.shape == (2, 5, 7, template.channels)
        assert expected.dtype == np.float32
        for given_pixels in (pixels, pixels.astype(np.float32)):
            made = apply_template(to(given_pixels), own, template)
            assert type(made) is type(to(given_pixels))
            np.testing.assert_allclose(np.asarray(made), expected, atol=2e-6)

    @pytest.mark.parametrize("kind", ["gray", "he"])
    def test_glass_is_minus_one_and_all_lies_within_one(self, kind: str) -> None:
        own = slide_statistics(he_pixels(0.3), WHITE, "glass")
        corners = np.array([(241, 236, 239), (255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 0, 255)], np.uint8)
        made = apply_template(corners, own, Template(kind=kind, reference=REFERENCE))
        np.testing.assert_array_equal(made[:2], -1)
        assert np.abs(made).max() <= 1

    @given(
        stroma=st.floats(0.1, 1.0),
        step=st.floats(0.0, 2.0),
        values=st.lists(st.integers(0, 255), min_size=2, max_size=9).map(sorted),
    )
    @settings(max_examples=60, deadline=None)
    def test_gray_is_monotone_for_any_levels(self, stroma: float, step: float, values: list[int]) -> None:
        own = REFERENCE.model_copy(update={"lum_stroma": stroma, "lum_nuclei": stroma + step})
        grays = np.repeat(np.array(values, np.uint8)[:, None], 3, axis=1)
        made = apply_template(grays, own, Template(reference=REFERENCE))[:, 0]
        assert (np.diff(made) <= 1e-6).all()

    @pytest.mark.parametrize(("kind", "level"), [("gray", 0.25), ("he", 0.0)])
    def test_nuclei_land_on_one_level_whatever_the_stain(self, kind: str, level: float) -> None:
        """The reference's nuclei stand at 2 / headroom - 1, and so do those of a paler slide."""
        template = Template(kind=kind, reference=REFERENCE.model_copy(update={"slides": 1000}))
        for gains in ((1.0, 1.0), (0.6, 1.0), (1.4, 1.4)):
            pixels = he_pixels(0.3, gains=gains, glass=0.0)
            own = slide_statistics(pixels, WHITE, "glass").model_copy(update=BELIEVED)
            made = apply_template(pixels, own, template)[:, 0]
            nuclei = np.random.default_rng(7).random(len(pixels)) < 0.3
            assert np.median(made[nuclei]) == pytest.approx(level, abs=0.15)

    def test_od_table_is_zero_from_the_white_point_on(self) -> None:
        table = od_table(WHITE)
        assert table.shape == (256, 3)
        assert table[241, 0] == 0 and table[255, 0] == 0
        assert table[0, 1] == pytest.approx(np.log(237), rel=1e-6)
        assert (np.diff(table, axis=0) <= 0).all()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param({"white": (900.0, 240.0, 240.0)}, id="white beyond 255"),
        pytest.param({"vectors": ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))}, id="no vectors"),
        pytest.param({"vectors": ((0.6, 0.7, 0.3), (0.6, 0.7, 0.3))}, id="one vector twice"),
    ],
)
def test_impossible_statistics_are_refused(damage: dict[str, Any]) -> None:
    whole = {**_statistics_like(), **damage}
    with pytest.raises(ValidationError):
        StainStatistics.model_validate(whole)


def _statistics_like(**levels: float) -> dict[str, Any]:
    levels = {"h_nuclei": 1.5, "h_stroma": 0.4, "e_nuclei": 0.4, "e_stroma": 0.6, **levels}
    levels = {"lum_nuclei": 1.3, "lum_stroma": 0.6, "dark_ratio": 1.3, **levels}
    shape = {"white": (240.0, 240.0, 241.0), "white_origin": "glass", "pixels": 10_000}
    return {**shape, "vectors": ((0.6, 0.72, 0.35), (0.1, 0.95, 0.3)), **levels}


@pytest.mark.parametrize("lum_nuclei", [0.63, 0.6, 0.57], ids=["hardly", "not", "reversed"])
def test_gray_maps_a_reference_to_itself_where_luminance_does_not_tell_nuclei(lum_nuclei: float) -> None:
    flat = StainStatistics.model_validate(_statistics_like(lum_nuclei=lum_nuclei, lum_stroma=0.6))
    ramp = np.repeat(np.arange(20, 240, dtype=np.uint8)[:, None], 3, axis=1)
    made = apply_template(ramp, flat, Template(kind="gray", reference=flat))[:, 0]
    od = np.log((np.asarray(flat.white) + 1) / (ramp + 1)) @ np.asarray((0.299, 0.587, 0.114))
    inner = made < 1
    assert np.ptp(((made + 1) / od)[inner & (od > 0.05)]) < 1e-3, "one slope from glass to the darkest level"
