"""Loaded by each worker process of this machine: Ctrl-C goes to the command, which ends them; they do not answer it."""

from __future__ import annotations

import signal


def dask_setup(worker: object) -> None:
    """Called by Dask in the worker's main thread when the worker begins."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
