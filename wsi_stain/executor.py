"""Where tasks run: in this process, or on Dask. The only file that imports dask.distributed.

A task is a module-level function of `wsi_stain` and one small record; its result is a small receipt. Pixels never
pass through here. A *flow* is the work on one slide: a generator that yields a list of tasks, is sent the list of
their receipts, and returns its result. `drive` runs many flows at once, so that one slide is stitched while the next
is normalized, and a slide that fails takes no other down.

Memory bound: at most `executor.window` tasks are in flight, whatever the number of slides.
Ordering: flows are served in the order given, each flow's receipts in the order of its tasks; nothing else is ordered.
"""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, TypeAlias

from wsi_stain.errors import WsiStainError
from wsi_stain.settings import Settings

Receipt: TypeAlias = dict[str, Any]

_WORKERS = {
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 8 * 2**20,
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 64 * 2**20,
    "distributed.worker.profile.enabled": False,
}
"""Dask's settings for worker processes. By its own, each array goes back to the kernel at once (a trim threshold of
64 KiB), and fetching its pages again for the next tile takes as long as all the rest of tiling; blocks still go back.
And each task would be stopped every 10 ms for a profile that nobody sees."""


class ExecutorConfig(Settings):
    """Where the work runs.

    Attributes:
        workers: Worker processes on this machine; 0 runs everything in this process, None takes one for each core.
        scheduler: Address of a running Dask scheduler (tcp://...), whose workers are used instead.
        scheduler_file: File that such a scheduler wrote with --scheduler-file.
        retries: How often a task that failed by no error of ours is tried again; Dask itself sees to dead workers.
        worker_timeout_s: How long to wait for a first worker of a running scheduler, seconds.
    """

    workers: int | None = None
    scheduler: str | None = None
    scheduler_file: str | None = None
    retries: int = 2
    worker_timeout_s: float = 120.0


@dataclass(frozen=True)
class Task:
    """One call on a worker: `function(argument)`, both picklable, idempotent by its receipt."""

    function: Callable[[Any], Receipt]
    argument: Any
    stage: str
    """What the task does, for the progress display: survey, tile, prepare, normalize, stitch, ..."""


Flow: TypeAlias = Generator[list[Task], list[Receipt], Any]


@dataclass(frozen=True)
class FlowResult:
    """How one flow ended: with a value, or with the error that ended it."""

    key: str
    value: Any
    error: Exception | None
    seconds: float


class Executor(Protocol):
    """Runs tasks. `submit` never blocks; `completed` waits for one result."""

    @property
    def window(self) -> int:
        """Most tasks to have in flight."""

    def submit(self, ticket: int, task: Task) -> None:
        """Start a task; its result comes back under `ticket`."""

    def completed(self) -> tuple[int, Receipt | Exception]:
        """The next finished task's ticket, with its receipt or the exception that ended it."""


class SerialExecutor(AbstractContextManager["SerialExecutor"]):
    """Runs each task in this process: the reference that all others are compared with."""

    window = 1

    def __init__(self) -> None:
        self._queue: deque[tuple[int, Task]] = deque()

    def submit(self, ticket: int, task: Task) -> None:
        """Queue a task."""
        self._queue.append((ticket, task))

    def completed(self) -> tuple[int, Receipt | Exception]:
        """Run the oldest queued task."""
        ticket, task = self._queue.popleft()
        try:
            return ticket, task.function(task.argument)
        except Exception as error:
            return ticket, error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.clear()


class DaskExecutor(AbstractContextManager["DaskExecutor"]):
    """Runs tasks on a Dask cluster: worker processes of this machine, or of a scheduler that is already running."""

    def __init__(self, config: ExecutorConfig) -> None:
        import dask
        from distributed import Client, LocalCluster, as_completed

        self._cluster: Any = None
        self._retries = config.retries
        if config.scheduler or config.scheduler_file:
            self._client = _connected(config)
            self._await_worker(config.worker_timeout_s)
        else:
            with dask.config.set(_WORKERS):
                self._cluster = LocalCluster(
                    n_workers=_workers(config),
                    threads_per_worker=1,
                    processes=True,
                    dashboard_address="127.0.0.1:0",
                    host="127.0.0.1",
                    memory_limit=0,
                    silence_logs=logging.CRITICAL,  # what matters reaches us as an error; the rest is of closing down
                )
            self._client = Client(self._cluster)
        self.dashboard: str = self._client.dashboard_link
        self._done: Any = as_completed(raise_errors=False)
        self._tickets: dict[str, int] = {}
        # A scheduler may serve several runs: names are never shared, or one run would be handed the other's receipts.
        self._names = (f"{secrets.token_hex(4)}-{number}" for number in itertools.count())

    @property
    def window(self) -> int:
        """Two tasks for each worker there is now: on a cluster workers come one by one."""
        return 2 * max(1, len(self._client.scheduler_info(n_workers=-1)["workers"]))

    def _await_worker(self, timeout_s: float) -> None:
        try:
            self._client.wait_for_workers(1, timeout=timeout_s)
        except TimeoutError as error:
            self._client.close()
            raise WsiStainError(
                f"The scheduler has had no worker for {timeout_s:.0f} s",
                "Start workers (dask worker ADDRESS), run again",
            ) from error

    def submit(self, ticket: int, task: Task) -> None:
        """Send a task to the scheduler."""
        future = self._client.submit(
            _run,
            task.function,
            task.argument,
            pure=False,
            retries=self._retries,
            key=f"{task.stage}-{next(self._names)}",
        )
        self._tickets[future.key] = ticket
        self._done.add(future)

    def completed(self) -> tuple[int, Receipt | Exception]:
        """Wait for the next task to finish."""
        future = next(self._done)
        ticket = self._tickets.pop(future.key)
        if future.status == "error":
            return ticket, _worker_error(future.exception())
        if future.status != "finished":
            return ticket, WsiStainError("The scheduler was lost", "Run the same command again: finished work is kept")
        try:
            outcome: Receipt | WsiStainError = future.result()
        except Exception as error:  # the worker died with the receipt, and running the task again failed
            return ticket, _worker_error(error)
        return ticket, outcome

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()


def _connected(config: ExecutorConfig) -> Any:
    """A client of the running scheduler that the configuration names."""
    from distributed import Client

    try:
        return Client(address=config.scheduler, scheduler_file=config.scheduler_file, timeout="30s")
    except (OSError, TimeoutError, ValueError) as error:
        where = config.scheduler or config.scheduler_file
        raise WsiStainError(f"No Dask scheduler answers at {where}: {error}", "Check the address, start it") from error


def _run(function: Callable[[Any], Receipt], argument: Any) -> Receipt | WsiStainError:
    """Run a task on a worker; errors raised on purpose are results, so that Dask does not retry them."""
    try:
        return function(argument)
    except WsiStainError as error:
        return error


def _worker_error(error: BaseException) -> Exception:
    if type(error).__name__ == "KilledWorker":
        return WsiStainError(
            "The worker processes of this task died again and again, often for want of memory",
            "Use fewer --workers, or run again: finished work is kept",
        )
    return error if isinstance(error, Exception) else RuntimeError(repr(error))


def _workers(config: ExecutorConfig) -> int:
    return config.workers if config.workers is not None else len(os.sched_getaffinity(0))


def open_executor(config: ExecutorConfig) -> SerialExecutor | DaskExecutor:
    """The executor that a configuration asks for, to be used as a context manager."""
    if config.workers == 0 and not (config.scheduler or config.scheduler_file):
        return SerialExecutor()
    return DaskExecutor(config)


@dataclass
class _Running:
    """A flow under way: tasks not yet submitted, receipts that came back, and how many are awaited."""

    flow: Flow
    started: float = 0.0
    begun: bool = False
    waiting: deque[tuple[int, Task]] = field(default_factory=deque)
    receipts: list[Receipt | None] = field(default_factory=list)
    in_flight: int = 0
    failure: Exception | None = None


def drive(
    executor: Executor,
    flows: Mapping[str, Flow],
    on_tasks: Callable[[str, list[Task]], None] = lambda key, tasks: None,
    on_done: Callable[[str, Task], None] = lambda key, task: None,
) -> Iterator[FlowResult]:
    """Run flows side by side and yield each one's result as it ends.

    Args:
        executor: Where the tasks run.
        flows: A flow for each key (a slide's id), served in this order.
        on_tasks: Called with a flow's key and the tasks it just asked for.
        on_done: Called with a flow's key and each of its tasks that ended well.

    Yields:
        A FlowResult per flow. When a task fails, the flow's other tasks of that step are let run or dropped, and the
        error is raised inside the flow, which may handle it.
    """
    running = {key: _Running(flow) for key, flow in flows.items()}
    owners: dict[int, tuple[str, Task, int]] = {}
    fresh, ticket = deque(running), 0
    while running:
        # Serve flows already begun before starting another: their slides end sooner and hold less on disk.
        while len(owners) < executor.window:
            key = next((k for k, state in running.items() if state.waiting), None)
            if key is not None:
                place, task = running[key].waiting.popleft()
                running[key].in_flight += 1
                owners[ticket] = (key, task, place)
                executor.submit(ticket, task)
                ticket += 1
            elif fresh:
                key = fresh.popleft()
                if (ended := _advance(key, running[key], on_tasks)) is not None:
                    del running[key]
                    yield ended
            else:
                break
        if not owners:
            continue
        done, outcome = executor.completed()
        key, task, place = owners.pop(done)
        state = running[key]
        state.in_flight -= 1
        if isinstance(outcome, Exception):
            state.failure = state.failure or outcome
            state.waiting.clear()
        else:
            state.receipts[place] = outcome
            on_done(key, task)
        if not state.in_flight and not state.waiting and (ended := _advance(key, state, on_tasks)) is not None:
            del running[key]
            yield ended


def _advance(key: str, state: _Running, on_tasks: Callable[[str, list[Task]], None]) -> FlowResult | None:
    """Hand a flow its receipts (or its failure) until it asks for tasks again or ends."""
    while True:
        try:
            tasks = _resume(state)
        except StopIteration as end:
            return FlowResult(key, end.value, None, time.monotonic() - state.started)
        except Exception as error:
            return FlowResult(key, None, error, time.monotonic() - state.started)
        state.receipts = [None] * len(tasks)
        state.waiting = deque(enumerate(tasks))
        on_tasks(key, tasks)
        if tasks:
            return None


def _resume(state: _Running) -> list[Task]:
    """Start a flow, raise its failure inside it, or send it the receipts it waits for."""
    if not state.begun:
        state.begun, state.started = True, time.monotonic()
        return next(state.flow)
    if state.failure is not None:
        failure, state.failure = state.failure, None
        return state.flow.throw(failure)
    return state.flow.send([receipt for receipt in state.receipts if receipt is not None])
