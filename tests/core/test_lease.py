"""One run at a time: leases kept, lost, and taken over from the dead."""

from __future__ import annotations

import json
import os
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

HOLD = """
    import sys, time
    from pathlib import Path
    from wsi_stain.core.lease import lease
    with lease(Path(sys.argv[1])):
        print("ready", flush=True)
        time.sleep(60)
"""


@contextmanager
def running(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
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


def plant(folder: Path, pid: int, host: str, age_s: float = 0.0) -> None:
    """Leave another run's lease."""
    path = folder / ".lease"
    path.write_text(json.dumps({"token": "theirs", "pid": pid, "host": host}))
    os.utime(path, (time.time() - age_s,) * 2)


def test_a_lease_is_given_back(tmp_path: Path) -> None:
    with lease.lease(tmp_path / "out") as check:
        check()
        assert names(tmp_path / "out") == [".lease"]
    assert names(tmp_path / "out") == []


def test_a_second_run_fails_fast(tmp_path: Path) -> None:
    started = time.monotonic()
    with running(HOLD, tmp_path) as process:
        with pytest.raises(LeaseError, match=f"process {process.pid} on {HOST}"), lease.lease(tmp_path):
            pass
        assert names(tmp_path) == [".lease"]
    assert time.monotonic() - started < 30


def test_a_killed_run_leaves_a_lease_that_is_taken_over(tmp_path: Path) -> None:
    with running(HOLD, tmp_path):
        pass
    assert names(tmp_path) == [".lease"]
    with lease.lease(tmp_path) as check:
        check()
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("pid", "host", "age_s"),
    [
        (dead_pid(), HOST, 0.0),
        (os.getpid(), HOST, 2 * lease.LEASE_STALE_S),
        (1, "another-host", 2 * lease.LEASE_STALE_S),
    ],
    ids=["dead here", "reused pid", "silent elsewhere"],
)
def test_a_dead_runs_lease_is_taken_over(tmp_path: Path, pid: int, host: str, age_s: float) -> None:
    plant(tmp_path, pid, host, age_s)
    with lease.lease(tmp_path) as check:
        check()
        assert names(tmp_path) == [".lease"]


@pytest.mark.parametrize(
    ("pid", "host"), [(os.getpid(), HOST), (dead_pid(), "another-host")], ids=["alive here", "unknown elsewhere"]
)
def test_a_living_runs_lease_stands(tmp_path: Path, pid: int, host: str) -> None:
    plant(tmp_path, pid, host)
    with pytest.raises(LeaseError, match="Another run holds"), lease.lease(tmp_path):
        pass
    assert journal.read_json(tmp_path / ".lease")["token"] == "theirs"


def test_a_lost_lease_is_noticed_and_left_to_its_new_holder(tmp_path: Path) -> None:
    with lease.lease(tmp_path) as check:
        plant(tmp_path, os.getpid(), HOST)
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
    plant(tmp_path, dead_pid(), HOST)
    seen = journal.read_json

    def slow_read(path: Path) -> Any:
        holder = seen(path)
        if holder and holder["token"] == "theirs":
            (tmp_path / ".lease").write_text(json.dumps({"token": "quicker", "pid": os.getpid(), "host": HOST}))
        return holder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease, "read_json", slow_read)
        with pytest.raises(LeaseError), lease.lease(tmp_path):
            pass
    assert journal.read_json(tmp_path / ".lease")["token"] == "quicker"
    assert names(tmp_path) == [".lease"]


def test_of_many_heirs_one_inherits(tmp_path: Path) -> None:
    heirs = 8
    start, end = threading.Barrier(heirs, timeout=30), threading.Barrier(heirs, timeout=30)

    def inherit(_: int) -> bool:
        start.wait()
        with ExitStack() as stack:
            try:
                check = stack.enter_context(lease.lease(tmp_path))
            except LeaseError:
                end.wait()
                return False
            end.wait()
            check()
            return True

    plant(tmp_path, dead_pid(), HOST)
    with ThreadPoolExecutor(heirs) as pool:
        assert sum(pool.map(inherit, range(heirs))) == 1
    assert names(tmp_path) == []


def test_a_file_in_the_way_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"), lease.lease(tmp_path / "file"):
        pass
