"""Workers of a scheduler, in their two pools, and the number of tasks that each pool should have. Knows no Dask.

Where GPUs are wanted, a worker belongs to the pool `gpu` when it offers the resource GPU, and to the pool `cpu` when it
offers the resource CPU, each in the number of tasks that it runs at a time. Where none ever offered CPU, all tasks of
that pool go anywhere. Where no GPU is wanted, all workers are one pool.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from wsi_stain.core.errors import WsiStainError
from wsi_stain.executor.tasks import Pool

RESOURCES: dict[Pool, str] = {"cpu": "CPU", "gpu": "GPU"}
"""What a pool's workers offer: dask worker ADDRESS --resources GPU=3."""

_PER_SLOT = 2
"""Tasks in flight for each that runs: the next is there when one ends."""
_FRESH_S = 1.0


@dataclass(frozen=True)
class Worker:
    """One worker process: how many tasks it runs at a time, and how many of each pool it offers to run."""

    threads: int
    offers: Mapping[Pool, int]


class WorkerPools:
    """The workers as they were a moment ago: on a cluster they come one by one, and go.

    Args:
        list_workers: Gives what the scheduler knows of each worker, by address: its nthreads and resources.
        with_gpus: Whether tasks of the pool `gpu` need a GPU.
        timeout_s: How long a pool may be without a worker, seconds.
    """

    def __init__(
        self, list_workers: Callable[[], Mapping[str, Mapping[str, Any]]], with_gpus: bool, timeout_s: float
    ) -> None:
        self._list_workers, self._with_gpus, self._timeout_s = list_workers, with_gpus, timeout_s
        self._workers: list[Worker] = []
        self._pools: set[Pool] = {"gpu"} if with_gpus else set()
        self._refreshed_at = float("-inf")
        self._missing: dict[Pool, float] = {}

    def window(self, pool: Pool) -> int:
        """Return the most tasks of a pool to have in flight."""
        return max(1, _PER_SLOT * self._slots(pool))

    def resources(self, pool: Pool) -> dict[str, int] | None:
        """Return what a worker has to offer for a task of a pool; None where any will do."""
        self._refresh()
        return {RESOURCES[pool]: 1} if pool in self._pools else None

    def check(self, pools: Collection[Pool]) -> None:
        """Check that somebody can run the tasks that are in flight.

        Args:
            pools: Those that have tasks in flight.

        Raises:
            WsiStainError: One of them has had no worker for too long.
        """
        now = time.monotonic()
        for pool in pools:
            if self._slots(pool):
                self._missing.pop(pool, None)
            elif now - self._missing.setdefault(pool, now) > self._timeout_s:
                raise no_workers_error(self._timeout_s, RESOURCES[pool] if pool in self._pools else None)

    def _slots(self, pool: Pool) -> int:
        """Count the tasks of a pool that run at a time."""
        self._refresh()
        if pool in self._pools:
            return sum(worker.offers[pool] for worker in self._workers)
        return sum(worker.threads for worker in self._workers)

    def _refresh(self) -> None:
        if time.monotonic() - self._refreshed_at > _FRESH_S:
            self._workers = [_parse_worker(facts) for facts in self._list_workers().values()]
            self._refreshed_at = time.monotonic()
            if self._with_gpus and any(worker.offers["cpu"] for worker in self._workers):
                self._pools.add("cpu")


def no_workers_error(timeout_s: float, resource: str | None = None) -> WsiStainError:
    """Make the error of a scheduler whose workers do not come, or are gone."""
    offering, option = (f" that offers the resource {resource}", f" --resources {resource}=N") if resource else ("", "")
    return WsiStainError(
        f"The scheduler has had no worker{offering} for {timeout_s:.0f} s",
        f"Start workers (dask worker ADDRESS{option}), run the same command again: finished work is kept",
    )


def _parse_worker(facts: Mapping[str, Any]) -> Worker:
    resources = facts.get("resources", {})
    return Worker(int(facts["nthreads"]), {pool: int(resources.get(name, 0)) for pool, name in RESOURCES.items()})
