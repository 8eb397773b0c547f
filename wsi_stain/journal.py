"""What makes work survive: atomic writes, receipts, fingerprints, the lease on an output directory, failpoints.

Nothing half-written ever bears a final name: write to a temporary file beside it, fsync, rename, fsync the directory.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from wsi_stain.errors import LeaseError, OutputError

LEASE_STALE_S = 120.0
"""A lease whose heartbeat is older than this, by the file server's clock, belongs to a dead run."""

_HEARTBEAT_S = 10.0


def sync_directory(directory: Path) -> None:
    """Make renames within a directory durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def atomic_write(path: Path, content: bytes | Callable[[BinaryIO], None]) -> None:
    """Write a whole file or nothing.

    Args:
        path: The final name; missing parent directories are made.
        content: The bytes, or a function that writes them to an open binary file (which may seek).

    Raises:
        OutputError: The file cannot be written (no space, no permission).
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}",
            "Check the free space and the permissions there",
        ) from error
    finally:
        with suppress(OSError):  # a folder that could not be made has no partial file
            partial.unlink()


def remove_partials(directory: Path) -> None:
    """Remove what writes that were killed have left below a directory; only for who holds its lease."""
    for partial in directory.rglob(".*.partial"):
        partial.unlink(missing_ok=True)


def canonical_json(value: Any) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()


def write_json(path: Path, value: Any) -> None:
    """Write a value atomically as JSON that people can read."""
    atomic_write(
        path,
        (json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode(),
    )


def read_json(path: Path) -> Any:
    """The value in a JSON file, or None where there is no such file or it is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
        return None


def fingerprint(value: Any) -> str:
    """SHA-256, in hex, of a JSON-like value's canonical text."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256, in hex, of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_receipt(receipt_path: Path, key: str, product: Path | None, **details: Any) -> dict[str, Any]:
    """Record that a piece of work is done, after its product (if any) is on disk.

    Args:
        receipt_path: Where the receipt goes.
        key: Fingerprint of everything the product depends on.
        product: The file made, or None when the work left nothing to keep.
        details: Small JSON values that later steps need.

    Returns:
        The receipt as written: key, product (name, size, sha256) and details.
    """
    made = None
    if product is not None:
        made = {"name": product.name, "size": product.stat().st_size, "sha256": file_digest(product)}
    receipt = {"key": key, "product": made, **details}
    write_json(receipt_path, receipt)
    return receipt


def valid_receipt(receipt_path: Path, key: str, product: Path | None) -> dict[str, Any] | None:
    """The receipt if the work it stands for still holds: same key, and the product there with the recorded size."""
    receipt = read_json(receipt_path)
    if not isinstance(receipt, dict) or receipt.get("key") != key:
        return None
    made = receipt.get("product")
    if made is None or product is None:
        return receipt if made is None and product is None else None
    return receipt if product.is_file() and product.stat().st_size == made["size"] else None


@contextmanager
def lease(directory: Path) -> Iterator[Callable[[], None]]:
    """Hold a directory for one run; a second run fails fast, and a dead run's lease is taken over.

    Yields:
        A check to call before each commit: it raises LeaseError when the lease was lost.

    Raises:
        LeaseError: Another run holds the directory.
        OutputError: The directory cannot be written.
    """
    path, token = directory / ".lease", secrets.token_hex(16)
    _acquire(path, token)

    def check() -> None:
        if _token(path) != token:
            raise LeaseError(
                f"The lease on {directory} was taken by another run", "Let that run finish, then run again"
            )

    stop = threading.Event()
    beat = threading.Thread(target=_heartbeat, args=(path, token, stop), name="lease", daemon=True)
    beat.start()
    try:
        yield check
    finally:
        stop.set()
        beat.join()
        if _token(path) == token:
            path.unlink(missing_ok=True)


def _acquire(path: Path, token: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        claim = path.with_name(f".lease.{token}")
        claim.write_text(json.dumps({"token": token, "pid": os.getpid(), "host": os.uname().nodename}))
    except OSError as error:
        raise OutputError(
            f"{path.parent} cannot be written: {error.strerror or error}",
            "Choose another --out, or mend its permissions",
        ) from error
    try:
        os.link(claim, path)
    except FileExistsError:
        _take_over(path, claim)
    finally:
        claim.unlink(missing_ok=True)


def _take_over(path: Path, claim: Path) -> None:
    """Replace a lease whose owner is dead: known dead on this host, or silent for too long on another."""
    holder = read_json(path) or {}
    now, beat = claim.stat().st_mtime, path.stat().st_mtime if path.exists() else 0.0
    here = holder.get("host") == os.uname().nodename
    dead = (here and not _alive(holder.get("pid"))) or now - beat > LEASE_STALE_S
    if not dead:
        raise LeaseError(
            f"Another run holds {path.parent} (process {holder.get('pid')} on {holder.get('host')})",
            "Wait for it to end, or choose another --out",
        )
    _inherit(path, claim, holder.get("token"))


def _inherit(path: Path, claim: Path, dead_token: Any) -> None:
    """Replace a dead run's lease with a claim, unless another heir was quicker.

    Heirs queue for a lock on the dead lease's file, which the kernel frees whatever happens. The first replaces the
    file, the others then find another one at its place. At no moment is there none, which a newcomer could fill.
    """
    try:
        with open(path, "r+b") as dead:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(dead, fcntl.LOCK_EX)
            first = os.path.samestat(os.fstat(dead.fileno()), path.stat()) and _token(path) == dead_token
            if first:
                claim.replace(path)
    except OSError:
        first = False
    if not first:
        raise LeaseError(f"Another run took {path.parent} first", "Wait for it to end")


def _alive(pid: Any) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, TypeError, ValueError):
        return False
    except PermissionError:
        return True
    return True


def _token(path: Path) -> str | None:
    held = read_json(path)
    return held.get("token") if isinstance(held, dict) else None


def _heartbeat(path: Path, token: str, stop: threading.Event) -> None:
    while not stop.wait(_HEARTBEAT_S):
        if _token(path) != token:
            return
        os.utime(path)


@cache
def _failpoint_plan() -> tuple[str, list[int]] | None:
    name, _, count = os.environ.get("WSI_STAIN_FAILPOINT", "").partition(":")
    return (name, [int(count or 1)]) if name else None


def failpoint(name: str) -> None:
    """Die here as by kill -9, if WSI_STAIN_FAILPOINT is `name:N` and this is this process's N-th visit. For tests."""
    plan = _failpoint_plan()
    if plan is None or plan[0] != name:
        return
    plan[1][0] -= 1
    if plan[1][0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
