"""How many threads a training on CPUs computes with: as many as are worth it while other jobs want the cores too.

Threads wait for each other after every layer, so where one of them has to share its core all are as slow as that one:
on two busy cores two threads took seven times as long as one. What the cores give is measured when a training begins,
and its state keeps the number, since sums come out differently with another. Other jobs come and go within a second:
so it is measured for some, and more threads have to be worth it in their slow steps too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

_LEAST_S, _LEAST_ROUNDS = 3.0, 10
_LAYERS, _CHANNELS, _SIDE = 6, 24, 64
_WORTH = 0.9
"""Share of the usual time with half the threads that the slow steps with twice as many have to stay below."""
_SLOW = 90
"""Percentile of the time of a step that is called slow."""


@contextmanager
def computing_threads(count: int) -> Iterator[None]:
    """Compute with a number of threads while this is open, and then with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose_threads() -> int:
    """Return the number of threads that training steps are to be computed with, at most torch's own number.

    It halves as long as a short measurement is hardly slower with half as many, beside whatever else runs now.
    """
    counts = [torch.get_num_threads()]
    while counts[-1] > 1:
        counts.append(counts[-1] // 2)
    return pick_threads(_measure(counts)) if len(counts) > 1 else counts[0]


def pick_threads(seconds: Mapping[int, Sequence[float]]) -> int:
    """Return the largest number of threads each doubling up to which is worth it.

    Args:
        seconds: How long the same work took, time after time, by the number of threads.
    """
    counts = sorted(seconds)
    chosen = counts[0]
    for count in counts[1:]:
        if np.percentile(seconds[count], _SLOW) > _WORTH * np.median(seconds[chosen]):
            break
        chosen = count
    return chosen


def _measure(counts: Sequence[int]) -> dict[int, list[float]]:
    """Time steps of a small network with each number of threads, in turn, for some seconds."""
    step = _make_step()
    times: dict[int, list[float]] = {count: [] for count in counts}
    began, rounds = time.perf_counter(), 0
    while rounds < _LEAST_ROUNDS or time.perf_counter() - began < _LEAST_S:
        for count, taken in times.items():
            with computing_threads(count):
                started = time.perf_counter()
                step()
                taken.append(time.perf_counter() - started)
        rounds += 1
    return times


def _make_step() -> Callable[[], object]:
    """Make a training step like the generator's in kind: convolutions forward and back."""
    with torch.random.fork_rng([]):  # what a training draws does not depend on this
        layers = [nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1) for _ in range(_LAYERS)]
    network, x_BCHW = nn.Sequential(*layers), torch.zeros(8, _CHANNELS, _SIDE, _SIDE)

    def step() -> object:
        network.zero_grad()
        return network(x_BCHW).sum().backward()

    step()
    return step
