"""The cohort's own reference: the medoid among slides that are fit for it."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from wsi_stain.cohort.reference import SlideFitness, choose_reference, stain_colours
from wsi_stain.core.errors import ConfigError
from wsi_stain.stain.statistics import StainStatistics

STAIN = StainStatistics(
    white=(240, 238, 241),
    white_origin="glass",
    vectors=((0.58, 0.71, 0.4), (0.08, 0.91, 0.4)),
    h_nuclei=1.4,
    h_stroma=0.4,
    e_nuclei=0.4,
    e_stroma=0.5,
    lum_nuclei=1.2,
    lum_stroma=0.6,
    dark_ratio=1.2,
    pixels=10_000,
)


def slide(name: str, factor: float = 1.0, **stain: object) -> SlideFitness:
    levels = {name: factor * getattr(STAIN, name) for name in ("h_nuclei", "h_stroma", "e_nuclei", "e_stroma")}
    return SlideFitness(name, f"{name}.svs", STAIN.model_copy(update={**levels, **stain}), 500, 0.0, "")


LADDER = [slide("pale", 0.7), slide("paler", 0.85), slide("middle", 1.0), slide("darker", 1.15), slide("dark", 1.3)]


def test_the_slide_amid_the_others_is_chosen_whatever_their_order() -> None:
    for seed in range(3):
        choice = choose_reference(random.Random(seed).sample(LADDER, len(LADDER)))
        assert choice.chosen.slide == "middle.svs"
        assert {each.slide for each in choice.runners_up[:2]} == {"paler.svs", "darker.svs"}
    distances = [each.distance for each in choice.candidates]
    assert distances == sorted(distances, key=lambda distance: distance or 0)
    assert choice.reason.startswith("middle.svs lies nearest to the other 4 of 5 fit slides (5 were looked at)")
    assert "Next: " in choice.reason and "darker.svs" in choice.reason


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (replace(LADDER[2], tiles=10), "only 10 tiles of tissue, expected 125"),
        (replace(LADDER[2], ink=0.05), "pen or dark over 5.0% of its tissue's area"),
        (replace(LADDER[2], problem="3 of 32 tiles looked at are lost"), "3 of 32 tiles looked at are lost"),
        (replace(LADDER[2], stain=None), "its stain could not be measured"),
        (slide("middle", blurred=0.4), "40% of its sampled tiles are out of focus"),
        (slide("middle", foreign=0.3), "30% of its stained pixels are pigment, blood or ink"),
        (slide("middle", evidence=(0.2, 1.0)), "it shows too little of one of the stains"),
        (slide("middle", white_origin="brightest tissue"), "it shows no glass"),
    ],
    ids=["small", "pen", "damaged", "unmeasured", "blurred", "pigment", "one stain", "no glass"],
)
def test_the_slide_amid_the_others_is_passed_over_where_it_is_unfit(fault: SlideFitness, reason: str) -> None:
    choice = choose_reference([*LADDER[:2], fault, *LADDER[3:]])
    assert choice.chosen.slide in ("paler.svs", "darker.svs")
    (refused,) = [each for each in choice.candidates if each.unfit]
    assert (refused.slide, refused.unfit, refused.distance) == ("middle.svs", reason, None)


def test_an_outlier_is_none_and_does_not_draw_the_choice_to_itself() -> None:
    stained_blue = slide("a-blue", white=(120.0, 150.0, 240.0))
    choice = choose_reference([stained_blue, *LADDER])
    assert choice.chosen.slide == "middle.svs"
    (refused,) = [each for each in choice.candidates if each.unfit]
    assert refused.slide == "a-blue.svs"
    assert refused.unfit.startswith("an outlier: CIEDE2000")


def test_one_fit_slide_is_the_reference_and_none_is_an_error() -> None:
    assert choose_reference([LADDER[0]]).reason == "pale.svs is the only one of 1 slides that is fit for it"
    with pytest.raises(ConfigError, match=r"None of the 1 slides is fit .* pale\.svs: it has no tissue"):
        choose_reference([replace(LADDER[0], problem="it has no tissue")])


def test_colours_are_those_of_beer_and_lambert() -> None:
    nuclei, _, glass = stain_colours(STAIN)
    assert glass.tolist() == [240, 238, 241]
    od = 1.4 * np.array([0.58, 0.71, 0.4]) + 0.4 * np.array([0.08, 0.91, 0.4])
    assert nuclei.tolist() == np.round([241, 239, 242] * np.exp(-od) - 1).tolist()
