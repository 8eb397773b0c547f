"""The robustness index by hand, and places found again."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_stain.evaluation.robustness.neighbours import (
    choose_k,
    find_neighbours,
    index_by_chance,
    retrieve_places,
    robustness_index,
)
from wsi_stain.evaluation.robustness.patches import CohortPatches, PatchFacts, gather_patches


def on_a_circle(*degrees: float) -> np.ndarray:
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def gather(*rows: str) -> CohortPatches:
    """Patches of `slide centre label`."""
    return gather_patches([PatchFacts(*row.split()) for row in rows])


def index(features: np.ndarray, patches: CohortPatches, k: int) -> float:
    shares = robustness_index(find_neighbours(features, patches), patches, k)
    return float(shares.score(np.ones((1, patches.group_count)))[0])


def test_the_index_is_that_of_the_paper() -> None:
    """Neighbours: s1-s2 (same biology, other centre), s3-s2 (both others), s4-s3 (other biology, same centre)..."""
    patches = gather("s1 a t", "s2 b t", "s3 a n", "s4 a t")
    features = on_a_circle(0, 10, 30, 45)
    # nearest: s1 -> s2 SO; s2 -> s1 SO; s3 -> s4 OS; s4 -> s3 OS
    assert index(features, patches, 1) == pytest.approx(0.5)
    # second: s1 -> s3 OS; s2 -> s3 OO; s3 -> s2 OO; s4 -> s2 SO
    assert index(features, patches, 2) == pytest.approx(3 / 6)
    # elsewhere: s1 -> s2 SO; s2 -> s1 or s4 SO; s3 -> s4 OS; s4 -> s2 SO
    assert index(on_a_circle(0, 1, 90, 2), patches, 1) == pytest.approx(3 / 4)


def test_neighbours_of_the_own_slide_do_not_count() -> None:
    patches = gather("s1 a t", "s1 a t", "s2 b t", "s3 a n")
    neighbours = find_neighbours(on_a_circle(0, 1, 20, 40), patches)
    assert neighbours.nearest.shape == (4, 2)
    assert neighbours.nearest[0].tolist() == [2, 3]
    assert neighbours.nearest[2].tolist() == [1, 0] or neighbours.nearest[2].tolist() == [1, 3]


def test_length_does_not_count() -> None:
    patches = gather("s1 a t", "s2 b t", "s3 a n", "s4 b n")
    features = on_a_circle(0, 5, 60, 65)
    scaled = features * np.array([[1], [9], [0.1], [3]], np.float32)
    assert index(features, patches, 1) == index(scaled, patches, 1) == 1.0


def test_chance_is_what_random_features_have() -> None:
    rng = np.random.default_rng(0)
    rows = [f"s{n % 60} {'ab'[n % 60 % 2]} {'tn'[int(rng.random() < 0.3)]}" for n in range(600)]
    patches = gather(*rows)
    found = index(rng.normal(size=(600, 8)).astype(np.float32), patches, 101)
    assert found == pytest.approx(index_by_chance(patches), abs=0.01)


def test_k_is_where_neighbours_tell_the_biology_best() -> None:
    rng = np.random.default_rng(1)
    rows = [f"s{n} {'ab'[n % 2]} {'tn'[n // 50]}" for n in range(100)]
    features = rng.normal(size=(100, 2)) + np.array([[3, 0]]) * (np.arange(100)[:, None] < 50) + 4
    k = choose_k(find_neighbours(features.astype(np.float32), gather(*rows)), gather(*rows))
    assert 3 <= k < 60


def test_places_are_found_again_where_only_the_centre_differs() -> None:
    facts = [PatchFacts(f"s{n % 6}", centre, place=f"p{n}") for centre in "ab" for n in range(30)]
    patches, rng = gather_patches(facts), np.random.default_rng(0)
    once = np.ones((1, patches.group_count))
    tissue = rng.normal(size=(30, 8)).astype(np.float32)
    same = retrieve_places(np.concatenate([tissue, tissue + 0.01]), patches)
    lost = retrieve_places(rng.normal(size=(60, 8)).astype(np.float32), patches)
    assert same["top1"].score(once)[0] == same["top10"].score(once)[0] == 1
    assert lost["top1"].score(once)[0] < 0.2 < lost["top10"].score(once)[0] < 0.6
    assert retrieve_places(tissue, gather_patches([PatchFacts(f"s{n}", "ab"[n % 2]) for n in range(30)])) == {}
