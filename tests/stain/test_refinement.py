"""Statistics that are off come right by what a generator that doubts them makes of the slide."""

from __future__ import annotations

import numpy as np
import pytest

from tests.stain.test_statistics import BELIEVED, REFERENCE, WHITE, he_pixels
from wsi_stain.core.arrays import RgbImage
from wsi_stain.stain.gains import stain_gains, with_gains
from wsi_stain.stain.refinement import refine_statistics, sum_beliefs
from wsi_stain.stain.statistics import StainStatistics, od_table, slide_statistics
from wsi_stain.stain.template import Template, apply_template
from wsi_stain.stain.vectors import angle_deg, unmixing_matrix

PIXELS = he_pixels(0.25, gains=(0.8, 1.2))
MEASURED = slide_statistics(PIXELS, WHITE, "glass").model_copy(update=BELIEVED)
TEMPLATE = Template(kind="he", reference=REFERENCE.model_copy(update=BELIEVED))


def off(h: float = 1.0, e: float = 1.0, leak: float = 0.0) -> StainStatistics:
    """Statistics with levels that are too high by factors, and a share of hematoxylin taken for eosin's colour."""
    hematoxylin, eosin = np.asarray(MEASURED.vectors)
    mixed = eosin + leak * hematoxylin
    levels = {"h_nuclei": h * MEASURED.h_nuclei, "h_stroma": h * MEASURED.h_stroma}
    levels |= {"e_nuclei": e * MEASURED.e_nuclei, "e_stroma": e * MEASURED.e_stroma}
    vectors = MEASURED.vectors[0], tuple(mixed / np.linalg.norm(mixed))
    return MEASURED.model_copy(update={**levels, "vectors": vectors})


def doubting(statistics: StainStatistics, doubt: float = 0.5) -> RgbImage:
    """What a generator makes of the pixels that goes a part of the way from what it is told to what is right."""
    told, right = (apply_template(PIXELS, stain, TEMPLATE) + 1.0 for stain in (statistics, MEASURED))
    ref = TEMPLATE.reference
    amounts = (told + doubt * (right - told)) * (ref.h_nuclei, ref.e_stroma)
    light = (np.asarray(ref.white) + 1) * np.exp(-amounts @ np.asarray(ref.vectors)) - 1
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)


def refine(made: RgbImage, statistics: StainStatistics, measured: StainStatistics | None = None) -> StainStatistics:
    """Take a step by what a generator made of the pixels with `statistics`, which were measured too by default."""
    beliefs = sum_beliefs([(PIXELS, made)], statistics, TEMPLATE)
    return refine_statistics(beliefs, statistics, measured or statistics, TEMPLATE.reference)


def farness(statistics: StainStatistics) -> float:
    """How far its template is from the right one on tissue, on average."""
    told, right = (apply_template(PIXELS, stain, TEMPLATE) for stain in (statistics, MEASURED))
    tissue = right.sum(axis=1) > -1.7
    return float(np.abs(told - right)[tissue].mean())


@pytest.mark.parametrize(
    "wrong", [(1.3, 1.0, 0.0), (1.0, 0.75, 0.0), (0.8, 1.25, 0.0), (1.0, 1.0, 0.15), (1.2, 0.8, 0.1)]
)
def test_levels_and_vectors_that_are_off_come_right(wrong: tuple[float, float, float]) -> None:
    statistics = measured = off(*wrong)
    before = farness(statistics)
    for _ in range(5):
        statistics = refine(doubting(statistics), statistics, measured)
    assert before > 0.03
    assert farness(statistics) < before / 8


def test_statistics_that_a_generator_believes_stay() -> None:
    told = off(1.3, 0.8)
    refined = refine(doubting(told, 0.0), told)
    assert farness(refined) == pytest.approx(farness(told), rel=0.03)


def test_tiles_may_be_given_in_parts() -> None:
    told = off(1.3, 0.8)
    made, half = doubting(told), len(PIXELS) // 2
    parts = [(PIXELS[:half], made[:half]), (PIXELS[half:], made[half:])]
    once, twice, apart = (sum_beliefs(pairs, told, TEMPLATE) for pairs in ([(PIXELS, made)], parts, parts[:1]))
    apart += sum_beliefs(parts[1:], told, TEMPLATE)
    np.testing.assert_allclose(twice, once, rtol=1e-9)
    np.testing.assert_array_equal(apart, twice)


def test_what_the_slide_hardly_shows_moves_little() -> None:
    told = off(1.3, 1.0).model_copy(update={"evidence": (0.0, 1.0)})
    refined = refine(doubting(told), told)
    assert (refined.h_nuclei, refined.h_stroma) == (told.h_nuclei, told.h_stroma)


def test_levels_and_vectors_stay_near_what_was_measured() -> None:
    """As of a slide that shows other tissue than the reference's: the generator takes it for another stain."""
    measured = refined = off(3.0, 1.0, 0.5)
    for _ in range(5):
        refined = refine(doubting(refined, 1.0), refined, measured)
    (before, _), (after, _) = (stain_gains(stain, TEMPLATE.reference) for stain in (measured, refined))
    assert after == pytest.approx(1.35 * before)
    for old, new in zip(measured.vectors, refined.vectors, strict=True):
        assert angle_deg(old, new) < 6.01
        assert np.linalg.norm(new) == pytest.approx(1)
    assert angle_deg(measured.vectors[1], refined.vectors[1]) > 5.9


def test_no_vector_gives_light() -> None:
    """Of a leak so large that eosin without it would absorb less than no red."""
    red_free = MEASURED.model_copy(update={"vectors": (MEASURED.vectors[0], (0.0, 0.94, 0.341))})
    leaky = apply_template(PIXELS, red_free, TEMPLATE) + 1.0
    leaky[:, 0] += 0.3 * leaky[:, 1]  # the generator sees more hematoxylin where there is eosin
    ref = TEMPLATE.reference
    light = (np.asarray(ref.white) + 1) * np.exp(-leaky * (ref.h_nuclei, ref.e_stroma) @ np.asarray(ref.vectors)) - 1
    made = np.clip(np.rint(light), 0, 255).astype(np.uint8)
    refined = refine(made, red_free)
    assert np.min(refined.vectors) >= 0


@pytest.mark.parametrize("seed", range(20))
def test_whatever_a_generator_makes_statistics_stay_those_of_two_stains(seed: int) -> None:
    rng = np.random.default_rng(seed)
    hematoxylin = np.asarray(MEASURED.vectors[0])
    close = hematoxylin + 0.3 * (np.asarray(MEASURED.vectors[1]) - hematoxylin)
    vectors = MEASURED.vectors if seed % 2 else (MEASURED.vectors[0], tuple(close / np.linalg.norm(close)))
    refined = measured = MEASURED.model_copy(update={"vectors": vectors, "evidence": (float(rng.uniform(0, 1)), 1.0)})
    colours = rng.integers(0, 256, (1 + seed % 4, 3), np.uint8)
    for _ in range(3):
        made = colours[rng.integers(0, len(colours), len(PIXELS))]
        refined = refine(made, refined, measured)
    again = StainStatistics.model_validate_json(refined.model_dump_json())
    assert angle_deg(*again.vectors) >= min(8.0, angle_deg(*measured.vectors))
    assert np.min(again.vectors) >= 0


def test_glass_or_a_gray_template_change_nothing() -> None:
    glass, told = np.full((100, 3), 255, np.uint8), off(1.3, 1.0)
    gray = Template(kind="gray", reference=TEMPLATE.reference)
    for pixels, template in ((glass, TEMPLATE), (PIXELS, gray)):
        beliefs = sum_beliefs([(pixels, pixels)], told, template)
        assert refine_statistics(beliefs, told, told, TEMPLATE.reference) == told


def test_levels_are_found_for_gains() -> None:
    own = slide_statistics(PIXELS, WHITE, "glass").model_copy(update={"dark_ratio": 0.5, "evidence": (0.6, 1.0)})
    assert stain_gains(with_gains(own, REFERENCE, (1.7, 0.6)), REFERENCE) == pytest.approx((1.7, 0.6))
    same = with_gains(own, REFERENCE, stain_gains(own, REFERENCE))
    assert (same.h_stroma, same.e_nuclei) == pytest.approx((own.h_stroma, own.e_nuclei))


def test_a_template_is_what_its_unmixing_says() -> None:
    """The model that refinement rests on: before its curve is cut off, T is OD times the vectors' inverse and gains."""
    table = od_table(WHITE)
    od = np.stack([table[PIXELS[:, c], c] for c in range(3)], axis=1)
    levels = TEMPLATE.reference.h_nuclei, TEMPLATE.reference.e_stroma
    gains = np.array(stain_gains(MEASURED, TEMPLATE.reference)) / levels
    expected = np.clip(od @ (unmixing_matrix(MEASURED.vectors) * gains), 0, 2) - 1
    np.testing.assert_allclose(apply_template(PIXELS, MEASURED, TEMPLATE), expected, atol=2e-5)
