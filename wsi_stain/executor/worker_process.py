"""Loaded by each worker process of this machine.

Ctrl-C goes to the command, which ends them; they do not answer it. What they say goes to a log.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from wsi_stain.executor.logs import log_worker_to

LOGS = "WSI_STAIN_LOGS"
"""Environment variable with the folder of logs; empty where there is none."""


def dask_setup(worker: Any) -> None:
    """Called by Dask in the worker's main thread when the worker begins."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if (folder := os.environ.get(LOGS)) is not None:
        log_worker_to(Path(folder) if folder else None, str(worker.name))
