"""The lease on an output directory: one run at a time, and the lease of a dead run is taken over."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from wsi_stain.core.errors import LeaseError, OutputError
from wsi_stain.core.journal import read_json

LEASE_STALE_S = 120.0
"""A lease whose heartbeat is older than this, by the file server's clock, belongs to a dead run."""

_HEARTBEAT_S = 10.0


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
            "Choose another --out, or correct its permissions",
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
