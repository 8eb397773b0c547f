"""In which order tasks are begun: slides flow into each other, no pool runs dry, not all slides are begun at once."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from wsi_stain.executor import Flow, Pool, Receipt, SerialExecutor, Task, run_flows


def done(name: str) -> Receipt:
    return {"name": name}


class Watched(SerialExecutor):
    """Two pools with windows; finishes the oldest task, of the pools in turn.

    Attributes:
        submitted: Names of the tasks, in order.
        depths: How many tasks of each pool were in flight when one was awaited.
    """

    def __init__(self, cpu: int, gpu: int) -> None:
        super().__init__()
        self._windows = {"cpu": cpu, "gpu": gpu}
        self.submitted: list[str] = []
        self.depths: list[Counter[str]] = []

    def has_room(self, pool: Pool) -> bool:
        return self._in_flight()[pool] < self._windows[pool]

    def submit(self, ticket: int, task: Task) -> None:
        super().submit(ticket, task)
        self.submitted.append(task.argument)

    def wait_for_next(self) -> tuple[int, Receipt | Exception]:
        self.depths.append(self._in_flight())
        return super().wait_for_next()

    def _in_flight(self) -> Counter[str]:
        return Counter(task.pool for _, task in self._queue)


class OnePool(Watched):
    def has_room(self, pool: Pool) -> bool:
        return len(self._queue) < self._windows["cpu"]


def slide(name: str, blocks: int = 6) -> Flow:
    yield [Task(done, f"{name} prepare", "prepare", pool="gpu")]
    yield [Task(done, f"{name} block {number}", "normalize", pool="gpu") for number in range(blocks)]
    yield [Task(done, f"{name} stitch", "stitch")]


def tiled_slide(name: str, blocks: int = 6) -> Flow:
    yield [Task(done, f"{name} tile {number}", "tile") for number in range(blocks)]
    yield from slide(name, blocks)


def test_the_next_slide_is_normalized_while_one_is_stitched_and_no_worker_runs_dry() -> None:
    with OnePool(4, 4) as executor:
        list(run_flows(executor, {name: slide(name) for name in "abcdef"}))
    order = executor.submitted
    assert order.index("b block 0") < order.index("a stitch") < order.index("b block 5")
    full = [depth.total() for depth in executor.depths].index(3)
    assert all(depth.total() == 4 for depth in executor.depths[:full])
    assert full > order.index("f prepare") - 4, "nothing is left to begin"


def test_while_the_gpus_are_busy_slides_are_tiled_ahead_but_not_all_of_them() -> None:
    names = "abcdefgh"
    with Watched(2, 2) as executor:
        list(run_flows(executor, {name: tiled_slide(name) for name in names}))
    order = executor.submitted
    for earlier, later in pairwise(names):
        assert order.index(f"{later} tile 0") < order.index(f"{earlier} block 5"), "tiled ahead"
    for earlier, later in zip(names, names[4:], strict=False):
        assert order.index(f"{earlier} stitch") < order.index(f"{later} tile 0"), "not all at once"


@pytest.mark.parametrize("executor", [Watched(2, 3), OnePool(3, 3), Watched(1, 1)], ids=["two", "one", "small"])
def test_a_pool_never_holds_more_than_its_window(executor: Watched) -> None:
    results = list(run_flows(executor, {name: tiled_slide(name, 9) for name in "abcd"}))
    assert all(result.error is None for result in results)
    assert max(depth["gpu"] for depth in executor.depths) <= 3
    assert max(depth["cpu"] for depth in executor.depths) <= 3
    assert len(executor.submitted) == 4 * (9 + 1 + 9 + 1)
