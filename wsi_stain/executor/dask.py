"""Tasks on Dask: worker processes of this machine, or of a running scheduler. The only file that imports Dask.

The tasks of a worker that dies are run again elsewhere. A task that several dying workers had in hand is tried
once more with nothing beside it, since Dask blames all tasks of a worker that dies, and one of them killed it at most.

Memory bound: `WorkerPools.window` tasks and their receipts, whatever the number of slides.
"""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import queue
import secrets
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from wsi_stain.core.errors import BrokenDeviceError, ConfigError, WsiStainError
from wsi_stain.core.journal import read_json
from wsi_stain.executor.config import ExecutorConfig
from wsi_stain.executor.pools import RESOURCES, WorkerPools, no_workers_error
from wsi_stain.executor.serial import SerialExecutor
from wsi_stain.executor.tasks import Pool, Task

_LOG = logging.getLogger(__name__)

_LOCAL = {
    "distributed.deploy.lost-worker-timeout": "10 minutes",
    "distributed.comm.timeouts.connect": "120s",
    "distributed.nanny.pre-spawn-environ.GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 32 * 2**20,
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 128 * 2**20,
    "distributed.worker.profile.enabled": False,
}
"""Dask's settings for workers of this machine. By its own, a worker that died is given up unless another stands in its
place within 15 s, and a busy machine takes longer. Each array goes back to the kernel at once (a trim threshold of
64 KiB), and fetching its pages again takes as long as all the rest of tiling, and a fifth of the time of a generator's
pass. Whole blocks still go back; in pages of 2 MiB (glibc 2.35) they are fetched cheaply.
And each task would be stopped every 10 ms for a profile that nobody sees."""

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
        import dask
        from distributed import Client

        self._config = config
        with ExitStack() as stack:
            if config.is_remote:
                self._client: Any = stack.enter_context(_connect(config))
                self._await_worker()
            else:
                stack.enter_context(dask.config.set(_LOCAL))
                _check_shared_memory()
                try:
                    cluster = stack.enter_context(_start_local_cluster(config))
                except (OSError, RuntimeError) as error:
                    raise _no_processes_error(_root_cause(error)) from error
                self._client = stack.enter_context(Client(cluster))
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


def _start_local_cluster(config: ExecutorConfig) -> Any:
    """Start a scheduler, CPU workers, and a worker for each GPU that sees no other; all on the loopback interface."""
    from distributed import Nanny, Scheduler, SpecCluster

    quiet = {"silence_logs": logging.CRITICAL}  # what matters reaches us as an error; the rest is of closing down
    preload = ["wsi_stain.executor.worker_signals"]
    common = {"host": "127.0.0.1", "memory_limit": 0, "dashboard": False, "preload": preload, **quiet}
    cpu = {"cls": Nanny, "options": {**common, "nthreads": 1, "resources": {RESOURCES["cpu"]: 1}}}
    workers: dict[str, Any] = {f"cpu-{number}": cpu for number in range(_cpu_workers(config))}
    for number, gpu in enumerate(_visible_gpus(config.gpus or 0)):
        offered = {"nthreads": config.gpu_tasks, "resources": {RESOURCES["gpu"]: config.gpu_tasks}}
        options = {**common, **offered, "env": {"CUDA_VISIBLE_DEVICES": gpu}}
        workers[f"gpu-{number}"] = {"cls": Nanny, "options": options}
    scheduler = {"host": "127.0.0.1", "port": 0, "dashboard": True, "dashboard_address": "127.0.0.1:0"}
    return SpecCluster(workers=workers, scheduler={"cls": Scheduler, "options": scheduler}, **quiet)


def _check_shared_memory() -> None:
    """Worker processes need semaphores, which live in /dev/shm: it may be full, or read-only in a container.

    Raises:
        WsiStainError: There are none to be had.
    """
    try:
        multiprocessing.get_context("spawn").Lock()
    except OSError as error:
        raise _no_processes_error(error) from error


def _root_cause(error: BaseException) -> BaseException:
    """The error that an error began with."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _no_processes_error(cause: BaseException) -> WsiStainError:
    reason = (cause.strerror if isinstance(cause, OSError) else None) or str(cause) or type(cause).__name__
    return WsiStainError(
        f"Worker processes cannot be started here: {reason}",
        "Work in one process, with --workers 0; or make room for them: they need memory and a writable /dev/shm "
        "(docker run --shm-size 256m)",
    )


def _cpu_workers(config: ExecutorConfig) -> int:
    """Return the number asked for; by default one a core, less those that serve the GPUs."""
    if config.workers is not None:
        return config.workers
    return max(1, len(os.sched_getaffinity(0)) - (config.gpus or 0))


def _visible_gpus(count: int) -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES has to be for each GPU; where it is set already, its entries."""
    given = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return given[:count] if given else [str(number) for number in range(count)]


def _connect(config: ExecutorConfig) -> Any:
    """Connect a client to the running scheduler that the configuration names."""
    from distributed import Client
    from distributed.security import Security

    files = {"tls_ca_file": config.tls_ca_file, "tls_client_cert": config.tls_cert, "tls_client_key": config.tls_key}
    given = {name: str(file) for name, file in files.items() if file}
    security = Security(require_encryption=True, **given) if given else None
    file = str(config.scheduler_file) if config.scheduler_file else None
    address = config.scheduler or file
    if config.scheduler_file:
        _await_file(config.scheduler_file, config.worker_timeout_s)
    try:
        return Client(
            config.scheduler, scheduler_file=file, security=security, timeout=min(30.0, config.worker_timeout_s)
        )
    except TypeError as error:  # what Dask says of an address tls:// without certificates
        raise ConfigError(
            f"{address} wants TLS, and there are no certificates for it",
            "Set executor.tls_ca_file, tls_cert and tls_key, or distributed.comm.tls in Dask's configuration",
        ) from error
    except (OSError, TimeoutError, ValueError, RuntimeError) as error:
        raise WsiStainError(
            f"No Dask scheduler answers at {address}: {error}", "Check the address, start it"
        ) from error


def _await_file(file: Path, timeout_s: float) -> None:
    """Wait for the scheduler to write its file, and all of it; Dask would wait for ever, and not for the end."""
    deadline = time.monotonic() + timeout_s
    while read_json(file) is None:
        if time.monotonic() > deadline:
            raise WsiStainError(
                f"No Dask scheduler has written {file} for {timeout_s:.0f} s", "Check the path, start it"
            )
        time.sleep(_POLL_S / 5)


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
