"""Dask clusters: worker processes of this machine, or the client of a running scheduler.

What runs on this machine speaks TLS with certificates that are made for the run and live in its memory: by itself Dask
lets whoever reaches a port of its scheduler or workers run code, and other users of the machine reach all its ports.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wsi_stain.core.errors import ConfigError, WsiStainError
from wsi_stain.core.journal import read_json
from wsi_stain.executor.config import ExecutorConfig
from wsi_stain.executor.pools import RESOURCES
from wsi_stain.executor.worker_process import LOGS

_QUIET = {"silence_logs": logging.WARNING}
"""The rest is of beginning and closing down."""

_LOCAL_SETTINGS = {
    "distributed.deploy.lost-worker-timeout": "1000 days",
    "distributed.comm.timeouts.connect": "120s",
    "distributed.diagnostics.nvml": False,
    "distributed.nanny.pre-spawn-environ.GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 32 * 2**20,
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 128 * 2**20,
    "distributed.worker.profile.enabled": False,
}
"""Dask's settings for workers of this machine. By its own, a worker that died is given up unless another stands in its
place 15 s later, and a busy machine takes longer; `LocalWorkers` sees to that. Each array goes back to the kernel at
once (a trim threshold of 64 KiB), and fetching its pages again takes as long as all the rest of tiling, and a fifth of
the time of a generator's pass. Whole blocks still go back; in pages of 2 MiB (glibc 2.35) they are fetched cheaply.
And each task would be stopped every 10 ms for a profile that nobody sees. And every process, also one without a GPU,
would ask NVML about GPUs, which raises where CUDA_VISIBLE_DEVICES names one that is not there."""

_LOG = logging.getLogger(__name__)

_STARTS = 3
_BEGIN_S = 300.0
"""How long a worker process may take to begin before it is ended, seconds: a slow disk holds many libraries."""

_LEFT_SEMAPHORES = "ignore:resource_tracker:UserWarning"
"""A filter of warnings, as `python -W` takes it; Python passes it on to the processes that it starts."""

_POLL_S = 0.2
"""How often to look for a scheduler's file."""


@contextmanager
def open_client(config: ExecutorConfig, logs: Path | None = None) -> Iterator[Any]:
    """Give a client of Dask: of the running scheduler that is asked for, else of a cluster of this machine's processes.

    Args:
        config: Which workers.
        logs: Folder for what this machine's workers have to say; None lets it pass unseen.

    Raises:
        WsiStainError: No scheduler answers, or processes cannot be started.
        ConfigError: The files for TLS cannot be used.
    """
    import dask
    from distributed import Client

    _pass_on_logs()
    if config.is_remote:
        with _connect(config) as client:
            yield client
        return
    with dask.config.set({**_LOCAL_SETTINGS, "distributed.scheduler.worker-ttl": f"{config.silence_s}s"}):
        _check_shared_memory()
        cluster = _start_surely(config, logs)
        with cluster, Client(cluster) as client:
            yield client


def _pass_on_logs() -> None:
    """Leave to this process what becomes of Dask's logs: by itself Dask prints them."""
    for name in ("distributed", *logging.root.manager.loggerDict):
        if name.partition(".")[0] == "distributed":
            logger = logging.getLogger(name)
            logger.handlers.clear()
            logger.propagate = True


def _start_surely(config: ExecutorConfig, logs: Path | None) -> Any:
    """Start this machine's cluster, again where a worker process was killed before it had begun.

    Raises:
        WsiStainError: It does not start.
    """
    for attempt in range(1, _STARTS + 1):
        try:
            return _start_local_cluster(config, logs)
        except (OSError, RuntimeError) as error:
            if attempt == _STARTS:
                raise _no_processes_error(_root_cause(error)) from error
            _LOG.warning("worker processes did not start, trying again: %s", _root_cause(error))
    raise AssertionError("the last attempt returns or raises")


def _start_local_cluster(config: ExecutorConfig, logs: Path | None) -> Any:
    """Start a scheduler, CPU workers, and a worker for each GPU that sees no other; all on the loopback interface."""
    from distributed import Nanny, Scheduler, SpecCluster

    private = _private_connections()
    preload, env = ["wsi_stain.executor.worker_process"], {LOGS: os.fspath(logs or "")}
    common = {**private, "memory_limit": 0, "dashboard": False, "preload": preload, **_QUIET}
    workers = {
        name: {"cls": Nanny, "options": {**common, **own, "env": {**env, **own.get("env", {})}}}
        for name, own in local_workers(config).items()
    }
    scheduler = {**private, "port": 0, "dashboard": True, "dashboard_address": "127.0.0.1:0"}
    options = {"security": private["security"], **_QUIET}
    return SpecCluster(workers=workers, scheduler={"cls": Scheduler, "options": scheduler}, **options)


def _private_connections() -> dict[str, Any]:
    """Make certificates for one cluster, and return the options by which all of it speaks TLS with no other."""
    from distributed.security import Security

    return {"host": "127.0.0.1", "protocol": "tls://", "security": Security.temporary()}


def local_workers(config: ExecutorConfig) -> dict[str, dict[str, Any]]:
    """Return the processes to start on this machine, by name: threads, what each offers, and the GPU that it sees."""
    offered = {"nthreads": 1, "resources": {RESOURCES["cpu"]: 1}}
    workers: dict[str, dict[str, Any]] = {f"cpu-{number}": offered for number in range(_cpu_workers(config))}
    for number, gpu in enumerate(_visible_gpus(config.gpus or 0)):
        offered = {"nthreads": config.gpu_tasks, "resources": {RESOURCES["gpu"]: config.gpu_tasks}}
        for process in range(config.gpu_processes):
            workers[f"gpu-{number}-{process}"] = {**offered, "env": {"CUDA_VISIBLE_DEVICES": gpu}}
    return workers


class LocalWorkers:
    """Sees to it that every worker process of this machine is replaced, whenever it dies.

    A worker's nanny starts another. Dask gives a worker up for good whose next process dies before it has begun, and
    never ends one that hangs before that.

    Args:
        cluster: The cluster that `open_client` started.
    """

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self._absent_since: dict[str, float] = {}

    def replace_lost(self) -> None:
        """Look for workers that were given up, and have others started. Does not wait."""
        self._cluster.loop.add_callback(self._replace_lost)

    def _replace_lost(self) -> None:
        """Do `replace_lost`, in the cluster's own thread."""
        from distributed.core import Status

        if self._cluster.status != Status.running:
            return
        self._end_those_that_never_begin()
        for name, nanny in list(self._cluster.workers.items()):
            if nanny.status in (Status.closed, Status.failed):
                del self._cluster.workers[name]
        if self._cluster.worker_spec.keys() - self._cluster.workers.keys():
            self._cluster.scale(len(self._cluster.worker_spec))

    def _end_those_that_never_begin(self) -> None:
        present = {worker.name for worker in self._cluster.scheduler.workers.values()}
        now, absent = time.monotonic(), self._cluster.worker_spec.keys() - present
        self._absent_since = {name: self._absent_since.get(name, now) for name in absent}
        for name, nanny in self._cluster.workers.items():
            if now - self._absent_since.get(name, now) > _BEGIN_S and nanny.pid:
                os.kill(nanny.pid, signal.SIGKILL)
                del self._absent_since[name]


def end_worker(client: Any, address: str) -> None:
    """End a worker's process as by kill -9, and with it the tasks that it runs; its nanny, if any, starts another.

    Args:
        client: Of the worker's scheduler.
        address: The worker's.
    """
    worker = client.scheduler_info(n_workers=-1)["workers"].get(address)
    if worker is None:
        return
    ending = (_kill_worker,) if worker["nanny"] else (os._exit, 1)
    try:
        client.run(*ending, workers=[address], nanny=bool(worker["nanny"]), on_error="ignore")
    except Exception as error:  # it was gone before, or its machine is
        _LOG.debug("the worker %s could not be ended: %s", address, error)


def _kill_worker(dask_worker: Any) -> None:
    """Run by a nanny, which Dask hands over under this name."""
    os.kill(dask_worker.pid, signal.SIGKILL)


def _check_shared_memory() -> None:
    """Worker processes need semaphores, which live in /dev/shm: it may be full, or read-only in a container.

    The first one starts the process that removes what is left of them. After a worker was killed it would say so on the
    terminal.

    Raises:
        WsiStainError: There are none to be had.
    """
    if _LEFT_SEMAPHORES not in sys.warnoptions:
        sys.warnoptions.append(_LEFT_SEMAPHORES)
    try:
        multiprocessing.get_context("spawn").Lock()
    except OSError as error:
        raise _no_processes_error(error) from error


def _root_cause(error: BaseException) -> BaseException:
    """Return the error that an error began with."""
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
    return max(1, len(os.sched_getaffinity(0)) - (config.gpus or 0) * config.gpu_processes)


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
        time.sleep(_POLL_S)
