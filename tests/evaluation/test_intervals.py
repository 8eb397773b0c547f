"""Shares by group, and groups drawn again."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_stain.evaluation.intervals import count_shares, draw_weights, percentile_interval


def test_a_score_is_the_mean_of_its_shares() -> None:
    shares = count_shares(np.array([0, 0, 1, 1]), 3, np.array([0, 1, 0, -1]), np.array([True, False, False, True]))
    assert shares.score(np.ones((1, 3)))[0] == pytest.approx((1 / 2 + 0) / 2)
    assert shares.score(np.array([[0.0, 1, 0], [0, 0, 1]]))[0] == 0  # only the second group's single case
    assert np.isnan(shares.score(np.array([[0.0, 0, 1]]))[0])


def test_strata_keep_their_size_and_a_seed_its_draws() -> None:
    weights = draw_weights(["a", "b", "a", "a"], seed=3)
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all() and (weights[:, 1] == 1).all()
    assert (weights == draw_weights(["a", "b", "a", "a"], seed=3)).all()
    assert weights[:, 0].std() > 0.5


def test_an_interval_ignores_what_is_no_number() -> None:
    low, high = percentile_interval(np.array([np.nan, *np.linspace(0, 1, 101)]))
    assert (low, high) == pytest.approx((0.025, 0.975))
    assert np.isnan(percentile_interval(np.array([np.nan]))).all()
