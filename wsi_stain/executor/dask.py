"""Tasks on Dask, whichever its workers are.

The tasks of a worker that dies are run again elsewhere. A task that several dying workers had in hand is tried
once more with nothing beside it, since Dask blames all tasks of a worker that dies, and one of them killed it at most.

Memory bound: `WorkerPools.window` tasks and their receipts, whatever the number of slides.
"""

from __future__ import annotations

import itertools
import logging
import os
import queue
import secrets
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from wsi_stain.core.errors import BrokenDeviceError, WsiStainError
from wsi_stain.executor.config import ExecutorConfig
from wsi_stain.executor.dask_cluster import open_client
from wsi_stain.executor.pools import WorkerPools, no_workers_error
from wsi_stain.executor.serial import SerialExecutor
from wsi_stain.executor.tasks import Pool, Task

_LOG = logging.getLogger(__name__)

_POLL_S = 1.0
"""How often to look for workers while nothing ends."""


@dataclass(frozen=True)
class _InFlight:
    """A task at the scheduler."""

    ticket: int
    task: Task[Any]
    alone: bool = False


class DaskExecutor(AbstractContextManager["DaskExecutor"]):
    """Runs tasks on a Dask cluster.

    Args:
        config: Which cluster.

    Raises:
        WsiStainError: No scheduler answers, or it has no worker.
        ConfigError: The files for TLS cannot be used.
    """

    def __init__(self, config: ExecutorConfig) -> None:
        self._config = config
        with ExitStack() as stack:
            self._client: Any = stack.enter_context(open_client(config))
            if config.is_remote:
                self._await_worker()
            self._resources = stack.pop_all()
        self._pools = WorkerPools(self._known_workers, bool(config.gpus), config.worker_timeout_s)
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._in_flight: dict[str, _InFlight] = {}
        self._to_run_alone: deque[_InFlight] = deque()
        # A scheduler may serve several runs: names are never shared, or one run would be handed the other's receipts.
        self._names = (f"{secrets.token_hex(4)}-{number}" for number in itertools.count())
        _LOG.debug("dashboard: %s (needs the package bokeh)", self._client.dashboard_link)

    @property
    def scheduler_address(self) -> str:
        """Address at which others reach the scheduler."""
        return str(self._client.scheduler.address)

    def _await_worker(self) -> None:
        try:
            self._client.wait_for_workers(1, timeout=self._config.worker_timeout_s)
        except TimeoutError as error:
            raise no_workers_error(self._config.worker_timeout_s) from error

    def _known_workers(self) -> dict[str, dict[str, Any]]:
        try:
            workers: dict[str, dict[str, Any]] = self._client.scheduler_info(n_workers=-1)["workers"]
        except (OSError, TimeoutError, RuntimeError) as error:
            raise _lost_error() from error
        return workers

    def has_room(self, pool: Pool) -> bool:
        """Check whether a pool's window is not full; never while a task has to run alone."""
        if self._to_run_alone or any(entry.alone for entry in self._in_flight.values()):
            return False
        # Without GPUs the pools are one, and so is their window.
        in_pool = sum(not self._config.gpus or entry.task.pool == pool for entry in self._in_flight.values())
        return in_pool < self._pools.window(pool)

    def submit(self, ticket: int, task: Task[Any]) -> None:
        """Send a task to the scheduler."""
        self._send(_InFlight(ticket, task))

    def _send(self, entry: _InFlight) -> None:
        task = entry.task
        future = self._client.submit(
            _run,
            task.function,
            task.argument,
            pure=False,
            retries=self._config.retries,
            key=f"{task.stage}-{next(self._names)}",
            resources=self._pools.resources(task.pool),
        )
        self._in_flight[future.key] = entry
        future.add_done_callback(self._done.put)

    def wait_for_next(self) -> tuple[int, Any | Exception]:
        """Wait for the next task to finish."""
        while True:
            if self._to_run_alone and not self._in_flight:
                self._send(self._to_run_alone.popleft())
            future = self._next_done()
            entry, outcome = self._in_flight[future.key], self._outcome(future)
            del self._in_flight[future.key]
            if type(outcome).__name__ != "KilledWorker":
                return entry.ticket, outcome
            if entry.alone:
                return entry.ticket, _killed_error()
            self._to_run_alone.append(_InFlight(entry.ticket, entry.task, alone=True))

    def _next_done(self) -> Any:
        while True:
            self._check()
            try:
                return self._done.get(timeout=_POLL_S)
            except queue.Empty:
                continue

    def _check(self) -> None:
        self._pools.check({entry.task.pool for entry in self._in_flight.values()})

    def _outcome(self, future: Any) -> Any | Exception:
        """Fetch a finished task's receipt or error; Dask runs it again where its worker died before that."""
        while True:
            self._check()
            if future.status == "error":
                return _as_exception(future.exception())
            if future.status == "cancelled":
                raise _lost_error()
            try:
                return future.result(timeout=_POLL_S)
            except TimeoutError:
                continue
            except Exception as error:
                return error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()


def open_executor(config: ExecutorConfig) -> SerialExecutor | DaskExecutor:
    """Open the executor that a configuration asks for, to be used as a context manager."""
    if config.workers == 0 and not config.is_remote:
        return SerialExecutor()
    return DaskExecutor(config)


def _run(function: Callable[[Any], Any], argument: Any) -> Any | WsiStainError:
    """Run a task on a worker; errors raised on purpose are results, so that Dask does not retry them.

    Where the worker's GPU is broken its process ends, and Dask runs its tasks elsewhere: the nanny starts another.
    """
    try:
        return function(argument)
    except BrokenDeviceError as error:
        logging.getLogger("distributed.worker").error("this process ends: %s", error)
        os._exit(1)
    except WsiStainError as error:
        return error


def _as_exception(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else RuntimeError(repr(error))


def _killed_error() -> WsiStainError:
    return WsiStainError(
        "The worker processes of this task died again and again, even when it ran alone: too little memory, or a GPU "
        "that failed",
        "Use workers with more memory, look at the workers' logs, and run again: finished work is kept",
    )


def _lost_error() -> WsiStainError:
    return WsiStainError("The Dask scheduler was lost", "Start it, run the same command again: finished work is kept")
