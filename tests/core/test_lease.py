"""One run at a time: leases kept, lost, and taken over from the dead."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from wsi_stain.core import journal, lease
from wsi_stain.core.errors import LeaseError, OutputError

HOST = os.uname().nodename
HERE = f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.stat('/proc/self/ns/pid').st_ino}"
ELSEWHERE = f"{HERE}1"
STALE_S = 2 * lease.LEASE_STALE_S

HOLD = """
    import sys, time
    from pathlib import Path
    from wsi_stain.core.lease import lease
    with lease(Path(sys.argv[1])):
        print("ready", flush=True)
        time.sleep(60)
"""


@contextmanager
def start_process(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process that has printed its first line; killed at the end."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def dead_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def plant(folder: Path, pid: int, namespace: str = HERE, age_s: float = 0.0) -> None:
    """Leave another run's lease."""
    path = folder / ".lease"
    path.write_text(json.dumps({"token": "theirs", "pid": pid, "host": HOST, "namespace": namespace}))
    os.utime(path, (time.time() - age_s,) * 2)


def test_a_lease_is_given_back(tmp_path: Path) -> None:
    with lease.lease(tmp_path / "out") as check:
        check()
        assert names(tmp_path / "out") == [".lease"]
    assert names(tmp_path / "out") == []


def test_a_second_run_fails_fast(tmp_path: Path) -> None:
    started = time.monotonic()
    with start_process(HOLD, tmp_path) as process:
        with pytest.raises(LeaseError, match=f"process {process.pid} on {HOST}"), lease.lease(tmp_path):
            pass
        assert names(tmp_path) == [".lease"]
    assert time.monotonic() - started < 30


def test_a_killed_run_leaves_a_lease_that_is_taken_over(tmp_path: Path) -> None:
    with start_process(HOLD, tmp_path):
        pass
    assert names(tmp_path) == [".lease"]
    with lease.lease(tmp_path) as check:
        check()
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("pid", "namespace", "age_s"),
    [
        (dead_pid(), HERE, 0.0),
        (os.getpid(), HERE, STALE_S),
        (os.getpid(), HERE, -STALE_S),
        (1, ELSEWHERE, STALE_S),
        (10**30, HERE, 0.0),
        (0, HERE, 0.0),
    ],
    ids=["dead here", "reused pid", "a clock that was set back", "silent elsewhere", "no such pid", "no pid"],
)
def test_a_dead_runs_lease_is_taken_over(tmp_path: Path, pid: int, namespace: str, age_s: float) -> None:
    plant(tmp_path, pid, namespace, age_s)
    with lease.lease(tmp_path) as check:
        check()
        assert names(tmp_path) == [".lease"]
        assert journal.read_json(tmp_path / ".lease")["means"] == "rename"


@pytest.mark.parametrize(
    ("pid", "namespace"),
    [(os.getpid(), HERE), (dead_pid(), ELSEWHERE), (dead_pid(), "")],
    ids=["alive here", "another container of the same name", "written before namespaces were"],
)
def test_a_living_runs_lease_stands(tmp_path: Path, pid: int, namespace: str) -> None:
    plant(tmp_path, pid, namespace, age_s=100)
    with (
        pytest.raises(LeaseError, match=r"was heard 10. s ago.* its lease ends (19|20) s from now"),
        lease.lease(tmp_path),
    ):
        pass
    assert journal.read_json(tmp_path / ".lease")["token"] == "theirs"


DAMAGED = [
    b"",
    b"[]",
    b"null",
    b"7",
    b'"x"',
    b"{",
    b"{}",
    b"\xff\xfe",
    b'{"pid": "me"}',
    b'{"token": {}}',
    b"[" * 60_000,
]


@pytest.mark.parametrize("content", DAMAGED, ids=lambda content: repr(content[:12]))
def test_a_damaged_lease_stands_until_it_is_silent_and_is_taken_over_then(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / ".lease"
    path.write_bytes(content)
    with pytest.raises(LeaseError, match="its lease is damaged"), lease.lease(tmp_path):
        pass
    os.utime(path, (time.time() - STALE_S,) * 2)
    with lease.lease(tmp_path) as check:
        check()
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["folder", "FIFO", "link to itself"])
def test_what_is_no_file_in_the_leases_place_is_an_error_that_says_what_to_do(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ".lease"
    {"folder": path.mkdir, "FIFO": lambda: os.mkfifo(path), "link to itself": lambda: path.symlink_to(path)}[kind]()
    with pytest.raises(LeaseError, match=r"should be a file.* Delete it"), lease.lease(tmp_path):
        pass
    assert names(tmp_path) == [".lease"]


@pytest.mark.parametrize("content", [b"", b"[[[", b'{"token": "theirs"}'])
def test_a_lease_that_is_damaged_while_it_is_held_is_lost_without_a_traceback(tmp_path: Path, content: bytes) -> None:
    with lease.lease(tmp_path) as check:
        (tmp_path / ".lease").write_bytes(content)
        with pytest.raises(LeaseError, match="taken by another run"):
            check()


def test_a_lost_lease_is_noticed_and_left_to_its_new_holder(tmp_path: Path) -> None:
    with lease.lease(tmp_path) as check:
        plant(tmp_path, os.getpid())
        with pytest.raises(LeaseError, match="taken by another run"):
            check()
    assert names(tmp_path) == [".lease"]


def test_the_lease_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_HEARTBEAT_S", 0.01)
    with lease.lease(tmp_path):
        os.utime(tmp_path / ".lease", (0, 0))
        deadline = time.monotonic() + 20
        while (tmp_path / ".lease").stat().st_mtime < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / ".lease").stat().st_mtime > 1


def test_a_late_heir_leaves_a_lease_that_another_heir_took_over(tmp_path: Path) -> None:
    """Both heirs saw the dead run's lease; the slower one acts when the quicker one already holds its own."""
    plant(tmp_path, dead_pid())
    read = lease._read

    def slow_read(path: Path) -> lease.Holder:
        holder = read(path)
        if holder.token == "theirs":
            (tmp_path / ".lease").write_text(json.dumps({"token": "quicker", "pid": os.getpid(), "namespace": HERE}))
        return holder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease, "_read", slow_read)
        with pytest.raises(LeaseError), lease.lease(tmp_path):
            pass
    assert journal.read_json(tmp_path / ".lease")["token"] == "quicker"
    assert names(tmp_path) == [".lease"]


def winners_of(folder: Path, rivals: int) -> int:
    """How many of so many runs that start at once get the lease; none gives it back before all have tried."""
    start, end = threading.Barrier(rivals, timeout=60), threading.Barrier(rivals, timeout=60)

    def try_it(_: int) -> bool:
        start.wait()
        with ExitStack() as stack:
            try:
                check = stack.enter_context(lease.lease(folder))
            except LeaseError:
                end.wait()
                return False
            end.wait()
            check()
            return True

    with ThreadPoolExecutor(rivals) as pool:
        return sum(pool.map(try_it, range(rivals)))


def refuse(code: int) -> Any:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.fixture(params=["hard links", "no hard links", "neither hard links nor locks"])
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the file system has; what it has not, it refuses as exFAT and some FUSE do."""
    if request.param != "hard links":
        monkeypatch.setattr(os, "link", refuse(errno.EPERM))
    if request.param == "neither hard links nor locks":
        monkeypatch.setattr(fcntl, "flock", refuse(errno.ENOSYS))
    return str(request.param)


@pytest.mark.parametrize("dead", [False, True], ids=["a new directory", "a dead run's"])
def test_of_twenty_rival_starts_one_wins(tmp_path: Path, file_system: str, dead: bool) -> None:
    if dead:
        plant(tmp_path, dead_pid())
    assert winners_of(tmp_path, 20) == 1
    assert names(tmp_path) == []


def test_the_lease_says_by_which_means_it_is_held(tmp_path: Path, file_system: str) -> None:
    means = "hard link" if file_system == "hard links" else "exclusive creation"
    with lease.lease(tmp_path):
        assert journal.read_json(tmp_path / ".lease")["means"] == means
    assert lease.lease_means(tmp_path) == means
    assert names(tmp_path) == []


def test_a_heir_that_died_holds_up_the_others_for_a_while_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", refuse(errno.ENOSYS))
    plant(tmp_path, dead_pid())
    (tmp_path / ".lease.heir").mkdir()
    with pytest.raises(LeaseError, match=r"took .* first"), lease.lease(tmp_path):
        pass
    os.utime(tmp_path / ".lease.heir", (time.time() - STALE_S,) * 2)
    with lease.lease(tmp_path) as check:
        check()
    assert names(tmp_path) == []


@pytest.fixture
def exfat(tmp_path: Path) -> Iterator[Path]:
    """A real file system without hard links, where exfat-fuse and exfatprogs are installed and this user may mount."""
    if not (shutil.which("mkfs.exfat") and shutil.which("mount.exfat-fuse")):
        pytest.skip("no exfat-fuse and exfatprogs here")
    image, point = tmp_path / "image", tmp_path / "exfat"
    image.write_bytes(bytes(16 * 2**20))
    point.mkdir()
    attached = subprocess.run(["losetup", "-f", "--show", image], capture_output=True, text=True, check=False)
    if attached.returncode:
        pytest.skip("no loop devices here")
    device = attached.stdout.strip()
    try:
        subprocess.run(["mkfs.exfat", device], check=True, capture_output=True)
        if subprocess.run(["mount.exfat-fuse", device, point], capture_output=True, check=False).returncode:
            pytest.skip("exFAT cannot be mounted here")
        yield point
        subprocess.run(["umount", point], check=True)
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


def test_on_exfat_of_twenty_rival_starts_one_wins(exfat: Path) -> None:
    out = exfat / "out"
    assert winners_of(out, 20) == 1
    with lease.lease(out):
        assert journal.read_json(out / ".lease")["means"] == "exclusive creation"
    plant(out, dead_pid())
    assert winners_of(out, 20) == 1
    plant(out, 1, ELSEWHERE, age_s=2 * lease.LEASE_STALE_S)
    assert winners_of(out, 20) == 1
    assert names(out) == []


def test_a_file_in_the_way_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"), lease.lease(tmp_path / "file"):
        pass
