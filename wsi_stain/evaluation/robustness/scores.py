"""All scores of a cohort's features, method by method, with intervals from the same resampled groups for all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from wsi_stain.evaluation.intervals import Estimate, Shares, estimate_methods
from wsi_stain.evaluation.robustness.neighbours import (
    choose_k,
    find_neighbours,
    index_by_chance,
    retrieve_places,
    robustness_index,
)
from wsi_stain.evaluation.robustness.patches import CohortPatches, Features
from wsi_stain.evaluation.robustness.probes import tell_biology, tell_centre, transfer_biology

SCORES = ("robustness", "centre", "biology", "transfer", "top1", "top10")
"""The robustness index; balanced accuracies of the centre, of the biology, and of the biology in a centre that was not
learnt from; shares of places that are found again in another centre."""


class Comparison(NamedTuple):
    """What became of a cohort.

    Attributes:
        scores: By method and score; scores that cannot be had are left out.
        k: How many neighbours count for the robustness index.
        by_chance: The robustness index of features that say nothing; None where there is none.
        within_centres: Whether `biology` is told within centres; else over all of them.
    """

    scores: dict[str, dict[str, Estimate]]
    k: int
    by_chance: float | None
    within_centres: bool


def compare_features(features: Mapping[str, Features], patches: CohortPatches, k: int | None = None) -> Comparison:
    """Compare methods by what an encoder sees.

    Args:
        features: By method, the untouched first, (n, d).
        patches: What is known of the n patches.
        k: How many neighbours count for the robustness index; None chooses it on the untouched features, for all.
    """
    neighbours = {name: find_neighbours(each, patches) for name, each in features.items()}
    k = k or choose_k(next(iter(neighbours.values())), patches)
    shares, within = dict[str, dict[str, Shares]](), False
    for name, each in features.items():
        biology, within = tell_biology(each, patches)
        found = {
            "robustness": robustness_index(neighbours[name], patches, k) if k else None,
            "centre": tell_centre(each, patches),
            "biology": biology,
            "transfer": transfer_biology(each, patches),
            **retrieve_places(each, patches),
        }
        shares[name] = {score: counts for score, counts in found.items() if counts is not None}
    return Comparison(estimate_methods(shares, patches.strata), k, index_by_chance(patches), within)
