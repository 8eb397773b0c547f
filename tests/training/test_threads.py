"""Threads of a training: as many as are worth it when it begins, and the same when it goes on."""

from __future__ import annotations

import pytest
import torch

from wsi_stain.training import threads


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({1: [1.0]}, 1),
        ({1: [1.0], 2: [0.55]}, 2),
        ({1: [1.0], 2: [7.0]}, 1),
        ({1: [1.0], 2: [0.95]}, 1),
        ({1: [1.0], 2: [0.6], 4: [0.4], 8: [0.39]}, 4),
        ({1: [1.0], 2: [1.1], 4: [0.3]}, 1),
        pytest.param({1: [1.0] * 20, 2: [0.55] * 19 + [7.0]}, 2, id="one hiccup"),
        pytest.param({1: [1.0] * 20, 2: [0.55] * 16 + [7.0] * 4}, 1, id="other jobs every now and then"),
    ],
)
def test_threads_double_as_long_as_that_is_worth_it(seconds: dict[int, list[float]], chosen: int) -> None:
    assert threads.pick_threads(seconds) == chosen


def test_measuring_changes_neither_chance_nor_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with threads.computing_threads(2):
        assert threads.choose_threads() in (1, 2)
        assert torch.get_num_threads() == 2
    assert torch.equal(torch.rand(4), expected)
    assert torch.get_num_threads() == before


def test_one_thread_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_measure", None)
    with threads.computing_threads(1):
        assert threads.choose_threads() == 1
