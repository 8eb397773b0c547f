"""The slide of a cohort that the others are best brought to: the medoid of stain and white point. Knows no slides.

How far two slides lie apart is the mean CIEDE2000 of three colours, each under its own glass: that of the median stain
of nuclei, that of stroma, and that of glass. The medoid is the fit slide whose mean distance to the others is least.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wsi_stain.core.errors import ConfigError
from wsi_stain.core.records import StrictRecord
from wsi_stain.metrics.colour_difference import ciede2000_map
from wsi_stain.stain.statistics import StainStatistics

_LEAST_TILES, _LEAST_OF_MEDIAN = 16, 0.25
"""Least tissue: as many tiles as a stain is measured on, and this share of what the cohort's median slide has."""

_MOST_INK = 0.01
_MOST_BLURRED = 0.15
_MOST_FOREIGN = 0.1
_LEAST_EVIDENCE = 0.6
_BEYOND, _FEWEST, _LEAST_SPREAD = 3.5, 5, 1.0
"""An outlier's modified z-score (Iglewicz and Hoaglin 1993), from so many slides on; least MAD, CIEDE2000."""

RUNNERS_UP = 3


@dataclass(frozen=True)
class SlideFitness:
    """What decides whether a slide can be a reference.

    Attributes:
        slide_id: The slide.
        slide: The name it is listed by.
        stain: Its stain; None where it could not be measured.
        tiles: How many tiles its tissue would fill.
        ink: Share of the tissue's area that ink and dark over tissue come to, 0 and more.
        problem: What is wrong with it beside that; "" where nothing is.
    """

    slide_id: str
    slide: str
    stain: StainStatistics | None
    tiles: int
    ink: float
    problem: str


class Candidate(StrictRecord):
    """A slide that was looked at.

    Attributes:
        slide_id: The slide.
        slide: The name it is listed by.
        stain: Its stain, where it was measured.
        unfit: Why it cannot be the reference; "" for a slide that can.
        distance: Mean distance to the other fit slides, CIEDE2000; None for unfit slides.
    """

    slide_id: str
    slide: str
    stain: StainStatistics | None
    unfit: str = ""
    distance: float | None = Field(default=None, ge=0)


class ReferenceChoice(StrictRecord):
    """The choice of a reference.

    Attributes:
        candidates: The fit slides, the nearest to all others first, which is the choice; then the unfit ones.
    """

    candidates: tuple[Candidate, ...] = Field(min_length=1)

    @property
    def chosen(self) -> Candidate:
        """The reference."""
        return self.candidates[0]

    @property
    def runners_up(self) -> tuple[Candidate, ...]:
        """The next best, at most three."""
        return tuple(each for each in self.candidates[1:] if not each.unfit)[:RUNNERS_UP]

    @property
    def reason(self) -> str:
        """Why it was chosen, and who came next, in a sentence or two."""
        fit = sum(not each.unfit for each in self.candidates)
        if fit == 1:
            return f"{self.chosen.slide} is the only one of {len(self.candidates)} slides that is fit for it"
        text = (
            f"{self.chosen.slide} lies nearest to the other {fit - 1} of {fit} fit slides ({len(self.candidates)} were "
            f"looked at): CIEDE2000 {self.chosen.distance:.1f} on average in the colours of nuclei, stroma and glass"
        )
        nexts = ", ".join(f"{each.slide} ({each.distance:.1f})" for each in self.runners_up)
        return f"{text}. Next: {nexts}"


def choose_reference(slides: Sequence[SlideFitness]) -> ReferenceChoice:
    """Choose the reference of a cohort; the order of the slides does not matter.

    Raises:
        ConfigError: No slide is fit for it.
    """
    ordered = sorted(slides, key=lambda slide: slide.slide)
    tissue = [slide.tiles for slide in ordered if slide.stain]
    least = max(_LEAST_TILES, round(_LEAST_OF_MEDIAN * float(np.median(tissue)))) if tissue else _LEAST_TILES
    unfit = {slide.slide_id: reason for slide in ordered if (reason := _unfit_reason(slide, least))}
    fit = [slide for slide in ordered if slide.slide_id not in unfit]
    for slide, reason in _find_outliers(fit):
        unfit[slide.slide_id] = reason
    fit = [slide for slide in fit if slide.slide_id not in unfit]
    if not fit:
        reasons = "; ".join(f"{slide.slide}: {unfit[slide.slide_id]}" for slide in ordered[:5])
        raise ConfigError(
            f"None of the {len(ordered)} slides is fit to be the reference. {reasons}", "Name one with --reference"
        )
    distances = _mean_distances(fit)
    best = sorted(zip(distances, fit, strict=True), key=lambda pair: (pair[0], pair[1].slide))
    chosen = [
        Candidate(slide_id=slide.slide_id, slide=slide.slide, stain=slide.stain, distance=distance)
        for distance, slide in best
    ]
    refused = [
        Candidate(slide_id=slide.slide_id, slide=slide.slide, stain=slide.stain, unfit=unfit[slide.slide_id])
        for slide in ordered
        if slide.slide_id in unfit
    ]
    return ReferenceChoice(candidates=(*chosen, *refused))


def stain_colours(stain: StainStatistics) -> NDArray[np.uint8]:
    """Return the colours of a slide's nuclei, stroma and glass, RGB (3, 3): its median stain under its own glass."""
    levels = np.array([[stain.h_nuclei, stain.e_nuclei], [stain.h_stroma, stain.e_stroma], [0.0, 0.0]])
    shown = (np.asarray(stain.white) + 1) * np.exp(-levels @ np.asarray(stain.vectors)) - 1
    return np.asarray(np.clip(shown, 0, 255).round(), np.uint8)


def _unfit_reason(slide: SlideFitness, least_tiles: int) -> str:
    """Say why a slide cannot be a reference, beside what its stain is like; "" where it can."""
    if slide.problem or slide.stain is None:
        return slide.problem or "its stain could not be measured"
    stain = slide.stain
    faults = {
        f"only {slide.tiles} tiles of tissue, expected {least_tiles}": slide.tiles < least_tiles,
        f"pen or dark over {slide.ink:.1%} of its tissue's area": slide.ink > _MOST_INK,
        f"{stain.blurred:.0%} of its sampled tiles are out of focus": stain.blurred > _MOST_BLURRED,
        f"{stain.foreign:.0%} of its stained pixels are pigment, blood or ink": stain.foreign > _MOST_FOREIGN,
        "it shows too little of one of the stains": min(stain.evidence) < _LEAST_EVIDENCE,
        "it shows no glass": stain.white_origin != "glass",
    }
    return "; ".join(fault for fault, holds in faults.items() if holds)


def _find_outliers(slides: Sequence[SlideFitness]) -> list[tuple[SlideFitness, str]]:
    """List slides whose mean distance to the others is far beyond the others' own, and what to say of them."""
    if len(slides) < _FEWEST:
        return []
    distances = _mean_distances(slides)
    median = float(np.median(distances))
    spread = max(float(np.median(np.abs(np.asarray(distances) - median))), _LEAST_SPREAD)
    return [
        (slide, f"an outlier: CIEDE2000 {distance:.1f} from the others, whose median is {median:.1f}")
        for slide, distance in zip(slides, distances, strict=True)
        if 0.6745 * (distance - median) / spread > _BEYOND
    ]


def _mean_distances(slides: Sequence[SlideFitness]) -> list[float]:
    """Return each slide's mean distance to the others, CIEDE2000; 0 for one alone. Memory: N x 3 colours a row."""
    colours = np.stack([stain_colours(slide.stain) for slide in slides if slide.stain])
    others = max(len(slides) - 1, 1)
    return [
        round(float(ciede2000_map(np.broadcast_to(own, colours.shape), colours).mean(axis=1).sum()) / others, 3)
        for own in colours
    ]
