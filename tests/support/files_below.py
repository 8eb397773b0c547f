"""What lies below a folder, by relative path: for comparing whole outputs."""

from __future__ import annotations

import hashlib
from pathlib import Path


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents(folder).items()}


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
