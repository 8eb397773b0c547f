"""Intervals by resampling groups: patches of one slide, or of one patient, are not independent of each other."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

_RESAMPLINGS = 1000


class Shares(NamedTuple):
    """A score that is the mean of shares, kept by group, so that groups can be resampled.

    A balanced accuracy has a share a class: hits over cases. Shares without any case do not count.

    Attributes:
        hits: (groups, shares).
        cases: (groups, shares).
    """

    hits: Values
    cases: Values

    def score(self, weights: Values) -> Values:
        """Compute the score for each row of how often a group counts, (n, groups): (n,), NaN where nothing does."""
        hits, cases = weights @ self.hits, weights @ self.cases
        known = cases > 0
        shares = np.where(known, hits / np.where(known, cases, 1), 0)
        count = known.sum(axis=1)
        return np.where(count > 0, shares.sum(axis=1) / np.maximum(count, 1), np.nan)


class Estimate(NamedTuple):
    """A score of a method, with 95 % intervals by group.

    Attributes:
        value: The score.
        low: Lower end of its interval.
        high: Upper end.
        change: Difference to the untouched.
        change_low: Lower end of its interval, on the same resampled groups.
        change_high: Upper end.
    """

    value: float
    low: float
    high: float
    change: float
    change_low: float
    change_high: float


def count_shares(groups: NDArray[np.intp], count: int, cells: NDArray[np.intp], hits: NDArray[Any]) -> Shares:
    """Count hits by group and share.

    Args:
        groups: (n,), which group each case is of.
        count: How many groups there are.
        cells: (n,), which share it counts for; negative for none.
        hits: (n,), what it adds to its share's hits: 1 for a hit and 0 for none, or a value to be averaged.
    """
    counted = cells >= 0
    shape = (count, int(cells.max(initial=-1)) + 1)
    sums = Shares(np.zeros(shape), np.zeros(shape))
    np.add.at(sums.hits, (groups[counted], cells[counted]), hits[counted])
    np.add.at(sums.cases, (groups[counted], cells[counted]), 1)
    return sums


def estimate_methods(
    shares: Mapping[str, Mapping[str, Shares]], strata: Sequence[Hashable]
) -> dict[str, dict[str, Estimate]]:
    """Estimate every score of every method, on the same resampled groups for all.

    Args:
        shares: By method, the untouched first, and score.
        strata: (groups,), see `draw_weights`.

    Returns:
        By method and score; scores that are no numbers are left out.
    """
    once, resampled = np.ones((1, len(strata))), draw_weights(strata)
    first = next(iter(shares.values()))
    estimates: dict[str, dict[str, Estimate]] = {name: {} for name in shares}
    for score, untouched in first.items():
        base, many = float(untouched.score(once)[0]), untouched.score(resampled)
        for method, each in shares.items():
            if score not in each:
                continue
            value, values = float(each[score].score(once)[0]), each[score].score(resampled)
            if np.isfinite([value, base]).all():
                interval, change = percentile_interval(values), percentile_interval(values - many)
                estimates[method][score] = Estimate(value, *interval, value - base, *change)
    return estimates


def draw_weights(strata: Sequence[Hashable], seed: int = 0) -> Values:
    """Draw how often each group counts in each resampling: with replacement, as many of each stratum as there are.

    Args:
        strata: (groups,), the stratum of each; strata keep a resampling from losing one of the centres.
        seed: Of all chance.

    Returns:
        (1000, groups), whole numbers.
    """
    rng = np.random.default_rng(seed)
    weights = np.zeros((_RESAMPLINGS, len(strata)))
    for stratum in dict.fromkeys(strata):
        members = [index for index, other in enumerate(strata) if other == stratum]
        weights[:, members] = rng.multinomial(len(members), [1 / len(members)] * len(members), size=_RESAMPLINGS)
    return weights


def percentile_interval(values: Values) -> tuple[float, float]:
    """Return the 95 % interval of resampled values; NaN where none is a number."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = (float(value) for value in np.percentile(finite, [2.5, 97.5]))
    return low, high
