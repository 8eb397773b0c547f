"""Which tasks workers have begun, where and when. Knows no Dask."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class _Begun:
    worker: str
    at: float


class RunningTasks:
    """The tasks that run. Threads may share it: what one says of a task is not taken apart by another."""

    def __init__(self) -> None:
        self._begun: dict[str, _Begun] = {}

    def begin(self, key: str, worker: str) -> None:
        """Note that a worker, by its address, begins a task; once more where another had begun it before."""
        self._begun[key] = _Begun(worker, time.monotonic())

    def end(self, key: str) -> str | None:
        """Forget a task; returns the address of the worker that had it, None where it was not begun."""
        begun = self._begun.pop(key, None)
        return begun.worker if begun else None

    def seconds(self, key: str) -> float:
        """Return how long a task has run; 0 where it was not begun."""
        begun = self._begun.get(key)
        return time.monotonic() - begun.at if begun else 0.0
