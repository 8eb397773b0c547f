"""What makes work survive: kill -9 at a failpoint, taken leases, lost products."""

from __future__ import annotations

import json
import os
import re
import signal
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
from hypothesis import given
from hypothesis import strategies as st

from wsi_stain import journal
from wsi_stain.errors import LeaseError, OutputError

HOST = os.uname().nodename


def python(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, **environment}, text=True, capture_output=True, timeout=60)


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


# Atomic writes

WRITE = """
    import sys
    from pathlib import Path
    from wsi_stain import journal
    for text in sys.argv[2:]:
        journal.atomic_write(Path(sys.argv[1]), text.encode())
"""


def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    journal.atomic_write(path, b"first")

    def write(file: Any) -> None:
        file.write(b"second")
        file.seek(0)
        file.write(b"S")

    journal.atomic_write(path, write)
    assert path.read_bytes() == b"Second"
    assert names(path.parent) == ["file"]


def test_a_killed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    done = python(WRITE, path, "old", "new", WSI_STAIN_FAILPOINT="before-rename:2")
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    (partial,) = (name for name in names(tmp_path) if name != "file")
    assert re.fullmatch(r"\.file\..*\.partial", partial)


def test_a_killed_first_write_leaves_no_file(tmp_path: Path) -> None:
    assert python(WRITE, tmp_path / "file", "new", WSI_STAIN_FAILPOINT="before-rename").returncode < 0
    assert not (tmp_path / "file").exists()


def test_a_failpoint_counts_its_visits(tmp_path: Path) -> None:
    done = python(WRITE, tmp_path / "file", "1", "2", "3", WSI_STAIN_FAILPOINT="before-rename:4")
    assert done.returncode == 0, done.stderr
    assert python(WRITE, tmp_path / "file", "1", WSI_STAIN_FAILPOINT="elsewhere").returncode == 0


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    def fail(file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    path = tmp_path / "file"
    journal.atomic_write(path, b"old")
    with pytest.raises(KeyboardInterrupt):
        journal.atomic_write(path, fail)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_path_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written") as caught:
        journal.atomic_write(tmp_path / "file" / "below", b"")
    assert caught.value.remedy


def test_a_full_disk_says_so(tmp_path: Path) -> None:
    def full(_: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        journal.atomic_write(tmp_path / "file", full)
    assert names(tmp_path) == []


# JSON and fingerprints


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe"], ids=["absent", "empty", "torn", "binary"])
def test_what_is_not_json_reads_as_none(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    assert journal.read_json(tmp_path / "file") is None
    assert journal.read_json(tmp_path / "file" / "below") is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), VALUES, max_size=6))
def test_a_fingerprint_ignores_order_and_survives_json(value: dict[str, Any]) -> None:
    backwards = dict(reversed(value.items()))
    assert journal.fingerprint(backwards) == journal.fingerprint(value)
    assert journal.fingerprint(json.loads(json.dumps(value))) == journal.fingerprint(value)


def test_fingerprints_tell_values_apart() -> None:
    values = [1, "1", [1], {"1": 1}, None, 1.5, "a", "ä"]
    assert len({journal.fingerprint(value) for value in values}) == len(values)
    with pytest.raises(ValueError, match="JSON compliant"):
        journal.fingerprint(float("nan"))


# Receipts


@pytest.fixture
def product(tmp_path: Path) -> Path:
    path = tmp_path / "product"
    path.write_bytes(b"pixels")
    return path


def test_a_receipt_holds_as_long_as_its_product(tmp_path: Path, product: Path) -> None:
    written = journal.write_receipt(tmp_path / "r.json", "key", product, tiles=3)
    assert written["product"] == {"name": "product", "size": 6, "sha256": journal.file_digest(product)}
    assert written["tiles"] == 3
    assert journal.valid_receipt(tmp_path / "r.json", "key", product) == written


@pytest.mark.parametrize("spoil", ["key", "size", "gone", "torn", "other kind"])
def test_a_receipt_that_no_longer_holds_is_none(tmp_path: Path, product: Path, spoil: str) -> None:
    receipt_path = tmp_path / "r.json"
    journal.write_receipt(receipt_path, "key", product)
    if spoil == "size":
        product.write_bytes(b"pix")
    elif spoil == "gone":
        product.unlink()
    elif spoil == "torn":
        receipt_path.write_bytes(receipt_path.read_bytes()[:-9])
    asked = None if spoil == "other kind" else product
    assert journal.valid_receipt(receipt_path, "other" if spoil == "key" else "key", asked) is None


def test_a_receipt_may_stand_for_nothing_made(tmp_path: Path, product: Path) -> None:
    written = journal.write_receipt(tmp_path / "r.json", "key", None, tiles=0)
    assert journal.valid_receipt(tmp_path / "r.json", "key", None) == written
    assert journal.valid_receipt(tmp_path / "r.json", "key", product) is None


# The lease

HOLD = """
    import sys, time
    from pathlib import Path
    from wsi_stain import journal
    with journal.lease(Path(sys.argv[1])):
        print("ready", flush=True)
        time.sleep(60)
"""


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
    with journal.lease(tmp_path / "out") as check:
        check()
        assert names(tmp_path / "out") == [".lease"]
    assert names(tmp_path / "out") == []


def test_a_second_run_fails_fast(tmp_path: Path) -> None:
    started = time.monotonic()
    with running(HOLD, tmp_path) as process:
        with pytest.raises(LeaseError, match=f"process {process.pid} on {HOST}"), journal.lease(tmp_path):
            pass
        assert names(tmp_path) == [".lease"]
    assert time.monotonic() - started < 30


def test_a_killed_run_leaves_a_lease_that_is_taken_over(tmp_path: Path) -> None:
    with running(HOLD, tmp_path):
        pass
    assert names(tmp_path) == [".lease"]
    with journal.lease(tmp_path) as check:
        check()
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("pid", "host", "age_s"),
    [
        (dead_pid(), HOST, 0.0),
        (os.getpid(), HOST, 2 * journal.LEASE_STALE_S),
        (1, "another-host", 2 * journal.LEASE_STALE_S),
    ],
    ids=["dead here", "reused pid", "silent elsewhere"],
)
def test_a_dead_runs_lease_is_taken_over(tmp_path: Path, pid: int, host: str, age_s: float) -> None:
    plant(tmp_path, pid, host, age_s)
    with journal.lease(tmp_path) as check:
        check()
        assert names(tmp_path) == [".lease"]


@pytest.mark.parametrize(
    ("pid", "host"), [(os.getpid(), HOST), (dead_pid(), "another-host")], ids=["alive here", "unknown elsewhere"]
)
def test_a_living_runs_lease_stands(tmp_path: Path, pid: int, host: str) -> None:
    plant(tmp_path, pid, host)
    with pytest.raises(LeaseError, match="Another run holds"), journal.lease(tmp_path):
        pass
    assert journal.read_json(tmp_path / ".lease")["token"] == "theirs"


def test_a_lost_lease_is_noticed_and_left_to_its_new_holder(tmp_path: Path) -> None:
    with journal.lease(tmp_path) as check:
        plant(tmp_path, os.getpid(), HOST)
        with pytest.raises(LeaseError, match="taken by another run"):
            check()
    assert names(tmp_path) == [".lease"]


def test_the_lease_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_HEARTBEAT_S", 0.01)
    with journal.lease(tmp_path):
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
        patch.setattr(journal, "read_json", slow_read)
        with pytest.raises(LeaseError), journal.lease(tmp_path):
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
                check = stack.enter_context(journal.lease(tmp_path))
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
    with pytest.raises(OutputError, match="cannot be written"), journal.lease(tmp_path / "file"):
        pass


def test_partials_of_killed_writes_are_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in (".a.tif.12-34.partial", "deep/.b.json.5-6.partial", "a.tif", "deep/x.partial", ".lease"):
        (tmp_path / name).touch()
    journal.remove_partials(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"a.tif", "deep/x.partial", ".lease"}
