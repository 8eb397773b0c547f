"""A Dask scheduler and its workers as people start them: each a process of its own, from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from distributed import Client

from wsi_stain.core.journal import read_json

ONE_THREAD = ("--nthreads", "1")
_PATIENCE_S = 60


@dataclass
class Processes:
    """A running scheduler.

    Attributes:
        file: What it wrote for those who look for it.
        workers: Its workers, in the order they were started.
    """

    file: Path
    scheduler: subprocess.Popen[bytes]
    options: Sequence[str] = ()
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return str(json.loads(self.file.read_text())["address"])

    def start_worker(self, *options: str) -> subprocess.Popen[bytes]:
        """One more worker; without a nanny, so that killing it kills it."""
        started = ("--no-nanny", "--no-dashboard", "--local-directory", str(self.file.parent), *self.options, *options)
        self.workers.append(_dask("worker", self.address, "--host", "127.0.0.1", *started))
        return self.workers[-1]

    def await_workers(self) -> None:
        """Wait until all that were started have joined."""
        with Client(self.address) as client:
            client.wait_for_workers(len(self.workers), timeout=_PATIENCE_S)


@contextmanager
def dask_processes(folder: Path, *workers: Sequence[str], options: Sequence[str] = ()) -> Iterator[Processes]:
    """Start a scheduler and workers, and end them.

    Args:
        folder: Where the scheduler leaves its file.
        workers: The options of each worker.
        options: Options of the scheduler and all workers.
    """
    file = folder / "scheduler.json"
    there = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-show", "--scheduler-file", str(file))
    with ExitStack() as stack:
        scheduler = _dask("scheduler", *there, *options)
        stack.callback(_end, scheduler)
        processes = Processes(file, scheduler, options)
        deadline = time.monotonic() + _PATIENCE_S
        while read_json(file) is None:
            assert scheduler.poll() is None and time.monotonic() < deadline, "the scheduler did not start"
            time.sleep(0.05)
        stack.callback(lambda: [_end(worker) for worker in processes.workers])
        for worker in workers:
            processes.start_worker(*worker)
        yield processes


def _dask(*arguments: str) -> subprocess.Popen[bytes]:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    path = os.pathsep.join(filter(None, sys.path))  # the tasks are functions of the tests
    return subprocess.Popen([sys.executable, "-m", "dask", *arguments], env={**os.environ, "PYTHONPATH": path}, **quiet)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
