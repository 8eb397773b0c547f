"""Nearest neighbours among an encoder's features: do they agree in biology, or in the centre? Same places found again.

The robustness index is that of PathoROB (Kömen et al. 2025, Towards Robust Foundation Models for Digital Pathology,
arXiv 2507.17845; after de Jong et al. 2025, arXiv 2501.18055): over the k nearest neighbours of every patch, by the
Euclidean distance of features of length 1, other than those of its own slide,

    R = SO / (SO + OS)

with SO the neighbours of the Same biology and an Other centre, OS those of an Other biology and the Same centre.
1: only biology counts; 0: only the centre. k is the one at which a vote of neighbours tells the biology best.

Memory bound: 512 rows of distances to all patches at a time, and the 301 nearest neighbours of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsi_stain.evaluation.intervals import Shares, count_shares
from wsi_stain.evaluation.robustness.patches import Codes, CohortPatches, Features

_KS = (1, 3, 5, 7, 9, *range(11, 302, 10))
_ROWS = 512
_TOP = (1, 10)


class Neighbours(NamedTuple):
    """The nearest neighbours of each patch with a label, among those of other groups.

    Attributes:
        patches: (m,), which patches have a label.
        nearest: (m, k), their neighbours, the nearest first.
    """

    patches: Codes
    nearest: Codes


def find_neighbours(features: Features, patches: CohortPatches) -> Neighbours:
    """Find as many neighbours as every patch has, 301 at most; patches without a label neither have nor are any."""
    labelled = np.flatnonzero(patches.label >= 0)
    unit, group = _unit(features[labelled]), patches.group[labelled]
    most = min(_KS[-1], len(group) - int(np.bincount(group).max())) if len(group) else 0
    rows = []
    for start in range(0, len(labelled), _ROWS):
        likeness = unit[start : start + _ROWS] @ unit.T
        likeness[group[start : start + _ROWS, None] == group] = -np.inf
        rows.append(np.argsort(-likeness, axis=1, kind="stable")[:, :most])
    nearest = np.concatenate(rows) if rows else np.zeros((0, 0), np.intp)
    return Neighbours(labelled, labelled[nearest])


def choose_k(neighbours: Neighbours, patches: CohortPatches) -> int:
    """Choose how many neighbours count: where their vote tells the biology best, by balanced accuracy; 0 without any.

    Of several the largest, so that there are neighbours of another centre or biology; a vote that is even goes to the
    label that comes first.
    """
    labels = patches.label[neighbours.patches]
    voted = patches.label[neighbours.nearest]
    accuracies = {
        k: _balanced_accuracy(labels, _vote(voted[:, :k], len(patches.labels)))
        for k in _KS
        if k <= neighbours.nearest.shape[1]
    }
    return max(accuracies, key=lambda k: (accuracies[k], k), default=0)


def robustness_index(neighbours: Neighbours, patches: CohortPatches, k: int) -> Shares:
    """Count the neighbours for the robustness index."""
    own, others = neighbours.patches, neighbours.nearest[:, :k]
    same_biology = patches.label[others] == patches.label[own, None]
    same_centre = patches.centre[others] == patches.centre[own, None]
    same_other, other_same = (same_biology & ~same_centre).sum(axis=1), (~same_biology & same_centre).sum(axis=1)
    shares = Shares(*(np.zeros((patches.group_count, 1)) for _ in range(2)))
    np.add.at(shares.hits[:, 0], patches.group[own], same_other)
    np.add.at(shares.cases[:, 0], patches.group[own], same_other + other_same)
    return shares


def index_by_chance(patches: CohortPatches) -> float | None:
    """Return the robustness index of features that say nothing: of all patches of other groups as neighbours.

    None where none is of the same biology and another centre, or the reverse.
    """
    own = np.flatnonzero(patches.label >= 0)
    label, centre, group = patches.label[own], patches.centre[own], patches.group[own]
    counts = np.zeros((patches.group_count, len(patches.labels), len(patches.centres)))
    np.add.at(counts, (group, label, centre), 1)
    others = counts.sum(axis=0) - counts  # those of other groups, by group
    same_both = others[group, label, centre]
    same_other = (others.sum(axis=2)[group, label] - same_both).sum()
    other_same = (others.sum(axis=1)[group, centre] - same_both).sum()
    return float(same_other / (same_other + other_same)) if same_other + other_same else None


def retrieve_places(features: Features, patches: CohortPatches) -> dict[str, Shares]:
    """Count how often the place of a patch is the nearest of another centre's patches, and among the ten nearest.

    For each ordered pair of centres a share: those of the first whose place the second shows are looked for among all
    of the second. `top1` and `top10`; nothing where no place is known in two centres.
    """
    unit = _unit(features)
    found: list[tuple[Codes, int, NDArray[np.intp]]] = []
    for pair, (own, other) in enumerate(_ordered_pairs(len(patches.centres))):
        gallery = np.flatnonzero((patches.centre == other) & (patches.place >= 0))
        where = {place: index for index, place in enumerate(patches.place[gallery].tolist())}
        queries = np.flatnonzero((patches.centre == own) & np.isin(patches.place, list(where)))
        if not len(queries):
            continue
        likeness = unit[queries] @ unit[gallery].T
        right = likeness[np.arange(len(queries)), [where[place] for place in patches.place[queries].tolist()]]
        found.append((queries, pair, (likeness > right[:, None]).sum(axis=1)))
    if not found:
        return {}
    groups = patches.group[np.concatenate([queries for queries, _, _ in found])]
    cells = np.concatenate([np.full(len(queries), pair, np.intp) for queries, pair, _ in found])
    ranks = np.concatenate([rank for _, _, rank in found])
    return {f"top{top}": count_shares(groups, patches.group_count, cells, ranks < top) for top in _TOP}


def _ordered_pairs(count: int) -> Sequence[tuple[int, int]]:
    return [(own, other) for own in range(count) for other in range(count) if own != other]


def _unit(features: Features) -> Features:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(length, 1e-12), np.float32)


def _vote(labels: Codes, count: int) -> Codes:
    votes = np.stack([(labels == label).sum(axis=1) for label in range(count)], axis=1)
    return np.asarray(votes.argmax(axis=1))


def _balanced_accuracy(labels: Codes, predicted: Codes) -> float:
    return float(np.mean([(predicted[labels == label] == label).mean() for label in np.unique(labels)]))
