"""A disk that is soon full: a real file system of a few megabytes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(point: Path, megabytes: int) -> Iterator[Path]:
    """Mount a file system of a size at a folder, which is made; skips where this user may not mount."""
    point.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(point)]
    if subprocess.run(["mount", *options], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", point], check=True)
