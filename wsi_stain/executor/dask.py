"""Tasks on Dask, whichever its workers are.

The tasks of a worker that dies are run again elsewhere. A task that several dying workers had in hand is tried
once more with nothing beside it, since Dask blames all tasks of a worker that dies, and one of them killed it at most.
A task that runs for longer than its limit fails, and its worker's process is ended: a read that never returns cannot be
stopped otherwise.

Memory bound: `WorkerPools.window` tasks and their receipts, whatever the number of slides.
"""

from __future__ import annotations

import itertools
import logging
import os
import queue
import secrets
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from wsi_stain.core.errors import BrokenDeviceError, TimeLimitError, WsiStainError
from wsi_stain.executor.config import ExecutorConfig
from wsi_stain.executor.dask_cluster import LocalWorkers, end_worker, open_client
from wsi_stain.executor.logs import log_to
from wsi_stain.executor.pools import WorkerPools, no_workers_error
from wsi_stain.executor.running import RunningTasks
from wsi_stain.executor.serial import SerialExecutor
from wsi_stain.executor.tasks import Pool, Task

_LOG = logging.getLogger(__name__)

_POLL_S = 1.0
"""How often to look for workers while nothing ends."""


@dataclass(frozen=True)
class _InFlight:
    """A task at the scheduler; Dask keeps its result as long as its future is held."""

    ticket: int
    task: Task[Any]
    alone: bool = False
    future: Any = None


class DaskExecutor(AbstractContextManager["DaskExecutor"]):
    """Runs tasks on a Dask cluster.

    Args:
        config: Which cluster.
        logs: Folder for what this machine's workers have to say; None lets it pass unseen.

    Raises:
        WsiStainError: No scheduler answers, or it has no worker.
        ConfigError: The files for TLS cannot be used.
    """

    def __init__(self, config: ExecutorConfig, logs: Path | None = None) -> None:
        self._config = config
        with ExitStack() as stack:
            self._client: Any = stack.enter_context(open_client(config, logs))
            if config.is_remote:
                self._await_worker()
            self._resources = stack.pop_all()
        self._local = LocalWorkers(self._client.cluster) if self._client.cluster else None
        self._running = RunningTasks()
        self._topic = f"wsi-stain-{secrets.token_hex(8)}"
        self._client.subscribe_topic(self._topic, self._on_begin)
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
            self._topic,
            pure=False,
            retries=self._config.retries,
            key=f"{task.stage}-{next(self._names)}",
            resources=self._pools.resources(task.pool),
        )
        self._in_flight[future.key] = replace(entry, future=future)
        future.add_done_callback(self._done.put)

    def wait_for_next(self) -> tuple[int, Any | Exception]:
        """Wait for the next task to finish."""
        while True:
            self._check_workers()
            if self._to_run_alone and not self._in_flight:
                self._send(self._to_run_alone.popleft())
            if (late := self._find_late()) is not None:
                return self._give_up(late)
            if (ended := self._poll()) is None:
                continue
            entry, outcome = ended
            if type(outcome).__name__ != "KilledWorker":
                return entry.ticket, outcome
            if entry.alone:
                return entry.ticket, _killed_error()
            self._to_run_alone.append(_InFlight(entry.ticket, entry.task, alone=True))

    def running_s(self) -> Mapping[int, float]:
        """Return how long each task has run that a worker has begun."""
        ages = {entry.ticket: self._running.seconds(key) for key, entry in self._in_flight.copy().items()}
        return {ticket: seconds for ticket, seconds in ages.items() if seconds}

    def _on_begin(self, event: tuple[float, Any]) -> None:
        """Take a worker's word that it begins a task; called by the client's own thread."""
        _, begun = event
        self._running.begin(begun["key"], begun["worker"])

    def _check_workers(self) -> None:
        self._pools.check({entry.task.pool for entry in self._in_flight.values()})
        if self._local:
            self._local.replace_lost()

    def _find_late(self) -> str | None:
        """Return the key of a task that has run for too long."""
        return next(
            (key for key, entry in self._in_flight.items() if self._running.seconds(key) > self._limit_s(entry)), None
        )

    def _limit_s(self, entry: _InFlight) -> float:
        return self._config.time_limit_s * entry.task.work

    def _give_up(self, key: str) -> tuple[int, WsiStainError]:
        """Take a task back from the scheduler, and end the worker that does not come to an end with it."""
        entry, worker = self._in_flight.pop(key), self._running.end(key)
        self._client.cancel([entry.future], force=True)
        if worker:
            end_worker(self._client, worker)
        return entry.ticket, _late_error(entry.task.stage, self._limit_s(entry))

    def _poll(self) -> tuple[_InFlight, Any | Exception] | None:
        """Wait a moment for a finished task, and fetch its receipt or error; None where there is none."""
        try:
            future = self._done.get(timeout=_POLL_S)
            if future.key not in self._in_flight:
                return None  # it was given up
            outcome = self._outcome(future)
        except queue.Empty:
            return None
        except TimeoutError:  # its worker died before the receipt was fetched: Dask runs the task again
            self._done.put(future)
            return None
        self._running.end(future.key)
        return self._in_flight.pop(future.key), outcome

    def _outcome(self, future: Any) -> Any | Exception:
        """Fetch a finished task's receipt or error; TimeoutError where it has none any more."""
        if future.status == "error":
            return _as_exception(future.exception())
        if future.status == "cancelled":
            raise _lost_error()
        try:
            return future.result(timeout=_POLL_S)
        except TimeoutError:
            raise
        except Exception as error:
            return error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()


@contextmanager
def open_executor(config: ExecutorConfig, logs: Path | None = None) -> Iterator[SerialExecutor | DaskExecutor]:
    """Open the executor that a configuration asks for.

    Args:
        config: Which.
        logs: Folder for what libraries and workers have to say meanwhile; None lets it pass unseen.
    """
    in_this_process = config.workers == 0 and not config.is_remote
    with log_to(logs), SerialExecutor() if in_this_process else DaskExecutor(config, logs) as executor:
        yield executor


def _run(function: Callable[[Any], Any], argument: Any, topic: str) -> Any | WsiStainError:
    """Run a task on a worker; errors raised on purpose are results, so that Dask does not retry them.

    Where the worker's GPU is broken its process ends, and Dask runs its tasks elsewhere: the nanny starts another.

    Args:
        function: The task's function.
        argument: Its argument.
        topic: Where the run hears that the task begins.
    """
    from distributed import get_worker

    worker = get_worker()
    worker.log_event(topic, {"key": worker.get_current_task(), "worker": worker.address})
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


def _late_error(stage: str, limit_s: float) -> WsiStainError:
    return TimeLimitError(
        f"Its stage {stage} did not end within {limit_s:.0f} s, so its worker was ended: a read may never return",
        "Check that the storage of the slide answers, and run the same command again; where the machine is that slow, "
        "raise executor.time_limit_s",
    )


def _lost_error() -> WsiStainError:
    return WsiStainError("The Dask scheduler was lost", "Start it, run the same command again: finished work is kept")
