"""Area under the ROC curve, with intervals by resampling slides: patches of one slide, or of one patient, are
not independent of each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from wsi_stain.evaluation.intervals import percentile_interval

Scores = NDArray[np.float64]

_RESAMPLINGS = 500


class Auc(NamedTuple):
    """One method's result.

    Attributes:
        auc: Mean over the seeds.
        seed_sd: Standard deviation over the seeds; NaN for one.
        low: Lower end of the 95 % interval of the mean, by resampling groups.
        high: Upper end.
        gain_low: Lower end of the 95 % interval of the difference to the first method on the same groups.
        gain_high: Upper end.
    """

    auc: float
    seed_sd: float
    low: float
    high: float
    gain_low: float
    gain_high: float


def auc(labels: NDArray[np.bool_], scores: Scores) -> float:
    """Measure the area under the ROC curve: the share of pairs in the right order, ties half.

    Hanley and McNeil (1982), Radiology 143, 29-36. NaN where only one label occurs.
    """
    positive = int(labels.sum())
    negative = len(labels) - positive
    if not positive or not negative:
        return float("nan")
    ranks = rankdata(scores)
    return float((ranks[labels].sum() - positive * (positive + 1) / 2) / (positive * negative))


def compare_methods(
    labels: NDArray[np.bool_], groups: Sequence[str], scores: Mapping[str, Sequence[Scores]], seed: int = 0
) -> dict[str, Auc]:
    """Measure the area of each method, with intervals from the same resampled groups for all.

    Args:
        labels: (n,), true for the positive label.
        groups: (n,), which slide or patient each patch is of; of a single one no interval is known (NaN).
        scores: By method, (n,) for each seed of training.
        seed: Of the resampling.
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    members = [np.flatnonzero(member == number) for number in range(len(names))]
    rng = np.random.default_rng(seed)
    resampled: dict[str, list[float]] = {method: [] for method in scores}
    for _ in range(_RESAMPLINGS if len(names) > 1 else 0):
        sample = np.concatenate([members[number] for number in rng.integers(len(names), size=len(names))])
        for method, each in scores.items():
            resampled[method].append(_mean(labels[sample], [values[sample] for values in each]))
    first = np.asarray(next(iter(resampled.values())))
    return {method: _result(labels, each, np.asarray(resampled[method]), first) for method, each in scores.items()}


def _mean(labels: NDArray[np.bool_], scores: Sequence[Scores]) -> float:
    return float(np.mean([auc(labels, values) for values in scores]))


def _result(labels: NDArray[np.bool_], scores: Sequence[Scores], resampled: Scores, first: Scores) -> Auc:
    each = [auc(labels, values) for values in scores]
    deviation = float(np.std(each, ddof=1)) if len(each) > 1 else float("nan")
    interval, gain = percentile_interval(resampled), percentile_interval(resampled - first)
    return Auc(float(np.mean(each)), deviation, *interval, *gain)
