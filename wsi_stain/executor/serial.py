"""Tasks in this process, one after the other: the reference that all other executors are compared with."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from wsi_stain.core.errors import BrokenDeviceError, WsiStainError
from wsi_stain.executor.tasks import Pool, Task

_LOG = logging.getLogger(__name__)


class SerialExecutor(AbstractContextManager["SerialExecutor"]):
    """Runs each task in this process."""

    def __init__(self) -> None:
        self._queue: deque[tuple[int, Task[Any]]] = deque()
        self._running: tuple[int, float] | None = None

    def has_room(self, pool: Pool) -> bool:
        """Check whether nothing is queued: both pools are this process."""
        return not self._queue

    def submit(self, ticket: int, task: Task[Any]) -> None:
        """Queue a task."""
        self._queue.append((ticket, task))

    def wait_for_next(self) -> tuple[int, Any | Exception]:
        """Run the oldest queued task; BrokenDeviceError where this process can run no more."""
        ticket, task = self._queue.popleft()
        self._running = ticket, time.monotonic()
        try:
            return ticket, task.function(task.argument)
        except BrokenDeviceError:
            raise
        except Exception as error:
            if not isinstance(error, WsiStainError):
                _LOG.warning("the task %s failed", task.stage, exc_info=True)
            return ticket, error
        finally:
            self._running = None

    def running_s(self) -> Mapping[int, float]:
        """Return how long the task has run that runs, if one does."""
        running = self._running
        return {running[0]: time.monotonic() - running[1]} if running else {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.clear()
