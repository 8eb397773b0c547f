"""What libraries have to say, in this process and in workers: files in a folder of logs, never the terminal."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _LogFile(logging.FileHandler):
    """Appends to a file that is made with its first line; a full disk costs lines of it, and nothing else."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", delay=True, errors="backslashreplace")
        self.setLevel(logging.WARNING)
        self.setFormatter(logging.Formatter(_FORMAT))

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, in a folder that may not be there yet."""
        with suppress(OSError):
            Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing of a line that could not be written."""


@contextmanager
def log_to(folder: Path | None) -> Iterator[None]:
    """Append warnings and errors that are logged in this process, and Python's warnings, to `command.log` in a folder.

    Args:
        folder: Made when there is something to write; None lets them pass unseen.
    """
    root, handler = logging.getLogger(), _LogFile(folder / "command.log") if folder else logging.NullHandler()
    root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        handler.close()
        if folder:
            _remove_empty(folder)


def log_worker_to(folder: Path | None, name: str) -> None:
    """Append all that this process, a worker, writes to its standard error to a file: what C libraries say, too.

    Args:
        folder: Made where it is missing; None lets everything pass unseen.
        name: The file's, without suffix.
    """
    with suppress(OSError):
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
        with open(folder / f"{name}.log" if folder else os.devnull, "ab") as file:
            os.dup2(file.fileno(), sys.stderr.fileno())
    logging.basicConfig(level=logging.WARNING, format=_FORMAT, stream=sys.stderr)
    logging.captureWarnings(True)


def _remove_empty(folder: Path) -> None:
    """Remove the logs in which nothing was written, and their folder if it had no others."""
    with suppress(OSError):
        for path in folder.glob("*.log"):
            if not path.stat().st_size:
                path.unlink()
        folder.rmdir()
