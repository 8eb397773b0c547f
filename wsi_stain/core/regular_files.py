"""Only regular files are opened: a FIFO would wait for a writer, and a device never ends. Knows no formats."""

from __future__ import annotations

import stat
from pathlib import Path

from wsi_stain.core.errors import SlideError, WsiStainError

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def odd_kind(path: Path) -> str:
    """Return what a path is in words, links followed; empty where it is a regular file, or cannot be looked at."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return ""
    if stat.S_ISREG(mode):
        return ""
    return next((name for test, name in _KINDS if test(mode)), "no regular file")


def check_regular(path: Path, error: type[WsiStainError] = SlideError) -> None:
    """Refuse to open what is no regular file; what is not there is left to who opens it.

    Raises:
        WsiStainError: It is a directory, a FIFO, a socket or a device; of the kind that is given.
    """
    if kind := odd_kind(path):
        raise error(f"{path} cannot be opened: it is {kind}, expected a regular file", "Name the file itself")
