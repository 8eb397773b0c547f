"""The lease on an output directory: one run at a time, and the lease of a dead run is taken over.

It is a file that its holder touches every ten seconds, `.lease`. It is taken by what the file system has, and says by
which: a hard link, which appears with its content, or where there are none (exFAT, SMB, some FUSE) exclusive creation.
Whether a holder lives, its heartbeat decides by the file server's clock. Its process id counts only where the holder's
processes are known to be seen from here: the same boot of the same machine, in the same namespace of process ids.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from wsi_stain.core.errors import LeaseError, OutputError
from wsi_stain.core.journal import make_directory

LEASE_STALE_S = 120.0
"""A lease whose heartbeat is older than this, by the file server's clock, belongs to a dead run."""

_HEARTBEAT_S = 10.0
_MOST_BYTES = 64 * 1024
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES)
"""What file systems without hard links answer, each in its own words."""

Means = Literal["hard link", "exclusive creation", "rename"]
"""How a lease was taken; that of a dead run is replaced by a rename."""


class Holder(BaseModel):
    """Content of a lease: who holds it. What of it is missing is not known.

    Attributes:
        token: Random, another for each run; empty where the file is damaged.
        pid: The run's process.
        host: Its machine's name.
        namespace: Where that process id means something: the machine's boot and the namespace of process ids.
        means: How the lease was taken.
    """

    token: str = ""
    pid: int = 0
    host: str = ""
    namespace: str = ""
    means: str = ""


@contextmanager
def lease(directory: Path) -> Iterator[Callable[[], None]]:
    """Hold a directory for one run; a second run fails fast, and a dead run's lease is taken over.

    Yields:
        A check to call before each commit: it raises LeaseError when the lease was lost.

    Raises:
        LeaseError: Another run holds the directory.
        OutputError: The directory cannot be written.
    """
    path = directory / ".lease"
    token = _acquire(path)

    def check() -> None:
        with _explain_errors(directory):
            holder = _read(path)
        if holder.token != token:
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
        with suppress(OSError):
            if _read(path).token == token:
                path.unlink()


def lease_means(directory: Path) -> Means:
    """Find out how a lease on a directory would be taken; OutputError where nothing can be written there."""
    path = directory / f".lease.{secrets.token_hex(16)}"
    with _explain_errors(directory):
        path.touch()
        try:
            means = _link_or_create(path, path.with_name(f"{path.name}.try"))
            path.with_name(f"{path.name}.try").unlink()
        finally:
            path.unlink()
    return means


def _acquire(path: Path) -> str:
    """Take the lease at a path; returns its token."""
    me = Holder(token=secrets.token_hex(16), pid=os.getpid(), host=os.uname().nodename, namespace=_namespace())
    claim = path.with_name(f".lease.{me.token}")
    with _explain_errors(path.parent):
        make_directory(path.parent)
        _write(claim, me, "hard link")
        try:
            if (means := _link_or_create(claim, path)) != "hard link":
                _write(path, me, means)
        except FileExistsError:
            _write(claim, me, "rename")
            _take_over(path, claim)
        finally:
            claim.unlink(missing_ok=True)
    return me.token


def _write(path: Path, holder: Holder, means: Means) -> None:
    path.write_text(holder.model_copy(update={"means": means}).model_dump_json())


def _link_or_create(claim: Path, path: Path) -> Means:
    """Make a path appear by whatever lets one of many succeed; FileExistsError for all others.

    A created file is empty for a moment; should its run die in that moment, it is a damaged lease, which goes stale.
    """
    try:
        os.link(claim, path)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        return "exclusive creation"
    return "hard link"


def _take_over(path: Path, claim: Path) -> None:
    """Replace a lease whose owner is dead.

    Raises:
        LeaseError: It lives, or has not been silent for long enough.
    """
    _check_kind(path)
    holder, silent_s = _read(path), _silent_s(path, claim)
    if not _is_dead(holder, silent_s):
        where = f"process {holder.pid} on {holder.host}" if holder.token else "its lease is damaged"
        wait = f"should that run be dead, its lease ends {max(LEASE_STALE_S - silent_s, 1):.0f} s from now"
        raise LeaseError(
            f"Another run holds {path.parent} ({where}), and was heard {silent_s:.0f} s ago",
            f"Wait for it to end, or choose another --out; {wait}",
        )
    _inherit(path, claim, holder.token)


def _is_dead(holder: Holder, silent_s: float) -> bool:
    if silent_s > LEASE_STALE_S:
        return True
    return bool(holder.namespace) and holder.namespace == _namespace() and not _is_alive(holder.pid)


def _silent_s(path: Path, claim: Path) -> float:
    """Return how long a lease's holder has not been heard, s, by the clock of the server of both files.

    A heartbeat that lies far in the future is none of that clock's, so of no living run.
    """
    try:
        silent = claim.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:  # just given back
        return 2 * LEASE_STALE_S
    return abs(silent) if silent < -LEASE_STALE_S else max(silent, 0.0)


def _check_kind(path: Path) -> None:
    """Refuse what is no file where the lease should be; no run puts it there."""
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise LeaseError(f"{path} should be a file, the lease of a run, and is none", "Delete it")


def _inherit(path: Path, claim: Path, dead_token: str) -> None:
    """Replace a dead run's lease with a claim, unless another heir was quicker.

    Heirs queue for a lock. The first replaces the file, the others then find another one at its place. At no moment is
    there none, which a newcomer could fill.
    """
    try:
        with open(path, "r+b") as dead, _one_heir(path, dead.fileno()):
            first = os.path.samestat(os.fstat(dead.fileno()), path.stat()) and _read(path).token == dead_token
            if first:
                claim.replace(path)
    except OSError:
        first = False
    if not first:
        raise LeaseError(f"Another run took {path.parent} first", "Wait for it to end")


@contextmanager
def _one_heir(path: Path, handle: int) -> Iterator[None]:
    """Let one heir in at a time: by a lock on the dead lease's file, which the kernel frees whatever happens.

    A file system without locks has a folder instead, which only one can make; one that was left behind goes stale.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:
        folder = path.with_name(".lease.heir")
        with suppress(OSError):
            if os.fstat(handle).st_mtime - folder.stat().st_mtime > LEASE_STALE_S:
                folder.rmdir()
        folder.mkdir()
        try:
            yield
        finally:
            folder.rmdir()
    else:
        yield


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return pid > 0


def _namespace() -> str:
    """Name where process ids are one's own: the machine's boot and the namespace; empty where that is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _read(path: Path) -> Holder:
    """Read who holds a lease; nobody known where the file is damaged, odd, or not there."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return Holder()
        with open(path, "rb") as file:
            return Holder.model_validate_json(file.read(_MOST_BYTES))
    except (FileNotFoundError, ValidationError):
        return Holder()


def _heartbeat(path: Path, token: str, stop: threading.Event) -> None:
    """Touch the lease now and then while it is ours; a file server that does not answer for a while is asked again."""
    while not stop.wait(_HEARTBEAT_S):
        with suppress(OSError):
            if _read(path).token != token:
                return
            os.utime(path)


@contextmanager
def _explain_errors(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{directory} cannot be written: {error.strerror or error}",
            "Choose another --out, or correct its permissions",
        ) from error
