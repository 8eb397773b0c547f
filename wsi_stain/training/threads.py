"""How many threads a training on CPUs computes with: as many as are worth it while other jobs want the cores too.

Threads wait for each other after every layer, so where one of them has to share its core all are as slow as that one:
on two busy cores two threads took seven times as long as one. What the cores give is measured when a training begins,
and its state keeps the number, since sums come out differently with another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import torch
from torch import nn

_ROUNDS = 7
_LAYERS, _CHANNELS, _SIDE = 6, 24, 64
_WORTH = 0.9
"""Share of the time with half the threads that the time with twice as many has to be below."""


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


def pick_threads(seconds: dict[int, float]) -> int:
    """Return the largest number of threads each doubling up to which is worth it.

    Args:
        seconds: How long the same work takes, by the number of threads.
    """
    counts = sorted(seconds)
    chosen = counts[0]
    for count in counts[1:]:
        if seconds[count] > _WORTH * seconds[chosen]:
            break
        chosen = count
    return chosen


def _measure(counts: list[int]) -> dict[int, float]:
    """Time steps of a small network with each number of threads, in turn: medians, seconds."""
    step = _make_step()
    times: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(_ROUNDS):
        for count, taken in times.items():
            with computing_threads(count):
                began = time.perf_counter()
                step()
                taken.append(time.perf_counter() - began)
    return {count: median(taken) for count, taken in times.items()}


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
