"""Means by which work survives: atomic writes, hashes, fingerprints, failpoints. Receipts are in `receipts`.

Nothing half-written ever bears a final name: write to a temporary file beside it, fsync, rename, fsync the directory.
Folders are synced into their parents as they are made, or a power cut would take finished work with them.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypedDict

from wsi_stain.core.errors import NoSpaceError, OutputError
from wsi_stain.core.storage import StoragePath, odd_kind


def sync_directory(directory: Path) -> None:
    """Make renames within a directory durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_directory(directory: Path) -> None:
    """Make a directory with its parents, durably: what is synced in it later cannot vanish with its own name."""
    missing = []
    while not directory.is_dir():
        missing.append(directory)
        directory = directory.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_directory(folder.parent)


def atomic_write(path: Path, content: bytes | Callable[[BinaryIO], None]) -> None:
    """Write a whole file or nothing.

    Args:
        path: The final name; missing parent directories are made.
        content: The bytes, or a function that writes them to an open binary file (which may seek).

    Raises:
        OutputError: The file cannot be written; NoSpaceError where the disk is full.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        make_directory(path.parent)
        with open(partial, "w+b") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        failpoint("before-rename")
        partial.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise explain_failed_write(path, error) from error
    finally:
        with suppress(OSError):  # a folder that could not be made has no partial file
            partial.unlink()


def explain_failed_write(path: Path, error: OSError) -> OutputError:
    """Return what to raise when a path could not be written: NoSpaceError where the disk, or a quota, is full."""
    problem = f"{path} cannot be written: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpaceError(problem, "Free some space there, and run the same command again")
    return OutputError(problem, "Check the free space and the permissions there")


class FileFacts(TypedDict):
    """Facts of a file: its size in bytes, and the SHA-256 of its bytes, hex, as `sha256sum` gives it."""

    size: int
    sha256: str


Files: TypeAlias = dict[str, FileFacts]
"""Files by their path relative to a directory, with "/"."""


_SEND_BYTES = 4 * 2**20


class HashedFile:
    """File that is hashed as it is written, front to back.

    Every few MB are sent to the disk while the next ones are made: else the sync at the end waits for all of them.

    Args:
        file: Open for writing, empty.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._sha256, self._size, self._sent = file, hashlib.sha256(), 0, 0

    def write(self, content: bytes | memoryview) -> None:
        """Append bytes."""
        self._sha256.update(content)
        self._size += self._file.write(content)
        if self._size - self._sent >= _SEND_BYTES:
            self._send()

    def _send(self) -> None:
        """Have Linux begin to write what is not on its way yet; elsewhere the sync does it.

        "Not needed" drops only what is on the disk already, and that has only just been written: it stays in memory.
        """
        self._file.flush()
        if sys.platform == "linux":
            os.posix_fadvise(self._file.fileno(), self._sent, self._size - self._sent, os.POSIX_FADV_DONTNEED)
        self._sent = self._size

    def facts(self) -> FileFacts:
        """Return the facts of the file so far."""
        return {"size": self._size, "sha256": self._sha256.hexdigest()}


def write_hashed(path: Path, write: Callable[[HashedFile], None]) -> FileFacts:
    """Write a whole file or nothing, as `atomic_write` does, and hash it meanwhile.

    Args:
        path: The final name; missing parent directories are made.
        write: Writes the content, front to back.

    Returns:
        The facts of the file, which is not read again.

    Raises:
        OutputError: The file cannot be written.
    """
    hashed: list[HashedFile] = []

    def write_and_hash(file: BinaryIO) -> None:
        hashed.append(HashedFile(file))
        write(hashed[0])

    atomic_write(path, write_and_hash)
    return hashed[0].facts()


def remove(path: Path) -> None:
    """Remove a file, or a directory all at once as far as readers can see; no harm where there is none."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    doomed = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    path.replace(doomed)
    shutil.rmtree(doomed)


def remove_partials(directory: Path) -> None:
    """Remove what writes that were killed have left below a directory; only for who holds its lease."""
    for partial in sorted(directory.rglob(".*.partial")):
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def remove_partials_of(path: Path) -> None:
    """Remove what killed writes of one file have left beside it; only for who knows that none is under way."""
    for partial in sorted(path.parent.glob(f".{glob.escape(path.name)}.*.partial")):
        remove(partial)


def canonical_json(value: Any) -> bytes:
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode(
        errors="surrogateescape"
    )


def write_json(path: Path, value: Any) -> None:
    """Write a value atomically as JSON that people can read; whatever names in it hold, the text is plain ASCII."""
    atomic_write(path, f"{json.dumps(value, sort_keys=True, indent=1, allow_nan=False)}\n".encode())


def read_json(path: StoragePath) -> Any:
    """Read the value in a JSON file; None where there is no such file, it is not JSON, or nested too deep for any."""
    if isinstance(path, Path) and odd_kind(path):
        return None
    try:
        return json.loads(path.read_bytes().decode(errors="surrogateescape"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, RecursionError):
        return None


def fingerprint(value: Any) -> str:
    """Return the SHA-256, in hex, of a JSON-like value's canonical text."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256, in hex, of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_file(path: Path) -> FileFacts:
    """Read a file for its facts."""
    return {"size": path.stat().st_size, "sha256": file_digest(path)}


def describe_files(directory: Path) -> Files:
    """Read all files below a directory for their facts, in sorted order."""
    paths = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*") if path.is_file()}
    return {name: describe_file(paths[name]) for name in sorted(paths)}


def are_files_whole(directory: Path, files: Files) -> bool:
    """Check whether files as `describe_files` describes them are there, each with its size."""
    return all(has_size(directory / name, facts["size"]) for name, facts in files.items())


def has_size(path: Path, size: int) -> bool:
    """Check whether there is a file of a size, bytes."""
    return path.is_file() and path.stat().st_size == size


@dataclass
class _FailpointPlan:
    """Fault to show at a failpoint, and how many visits are left until then."""

    name: str
    visits: int
    hang: bool


@cache
def _failpoint_plan() -> _FailpointPlan | None:
    name, count, fault, *_ = *os.environ.get("WSI_STAIN_FAILPOINT", "").split(":"), "", ""
    return _FailpointPlan(name, int(count or 1), fault == "hang") if name else None


def failpoint(name: str) -> None:
    """Die here as by kill -9, if WSI_STAIN_FAILPOINT is `name:N` and this is this process's N-th visit. For tests.

    With `name:N:hang` that visit does not end, as a read from a dead network mount does not.
    """
    plan = _failpoint_plan()
    if plan is None or plan.name != name:
        return
    plan.visits -= 1
    if plan.visits == 0 and plan.hang:
        os.read(os.pipe()[0], 1)
    elif plan.visits == 0:
        os.kill(os.getpid(), signal.SIGKILL)
