"""What makes work survive: kill -9 at a failpoint, what is left of it, hashes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_stain.core import journal
from wsi_stain.core.errors import OutputError


def python(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, **environment}, text=True, capture_output=True, timeout=60)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Atomic writes

WRITE = """
    import sys
    from pathlib import Path
    from wsi_stain.core import journal
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


def test_partials_of_killed_writes_are_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in (".a.tif.12-34.partial", "deep/.b.json.5-6.partial", "a.tif", "deep/x.partial", ".lease"):
        (tmp_path / name).touch()
    journal.remove_partials(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"a.tif", "deep/x.partial", ".lease"}


def test_a_directory_on_its_way_out_is_a_partial_too(tmp_path: Path) -> None:
    (tmp_path / ".x.zarr.ab.partial" / "0").mkdir(parents=True)
    (tmp_path / ".x.zarr.ab.partial" / "0" / ".c.1.partial").touch()
    journal.remove_partials(tmp_path)
    assert names(tmp_path) == []


def test_removing_takes_files_directories_and_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder" / "b").mkdir(parents=True)
    (tmp_path / "folder" / "b" / "c").touch()
    for path in (tmp_path / "folder", tmp_path / "file", tmp_path / "nothing"):
        journal.remove(path)
    assert names(tmp_path) == []


# Hashes


@pytest.mark.parametrize("size", [0, 1, 5_000_001])
def test_a_hash_is_what_sha256sum_gives(tmp_path: Path, size: int) -> None:
    content = bytes(range(251)) * (size // 251) + bytes(size % 251)
    facts = journal.write_hashed(
        tmp_path / "deep" / "file", lambda file: [file.write(content[:7]), file.write(memoryview(content)[7:])]
    )
    command = ["sha256sum", tmp_path / "deep" / "file"]
    printed = subprocess.run(command, check=True, text=True, capture_output=True).stdout
    assert facts == {"size": size, "sha256": printed.split()[0]}
    assert facts == journal.describe_file(tmp_path / "deep" / "file")
    assert journal.describe_files(tmp_path) == {"deep/file": facts}


def test_a_hashed_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def write(file: journal.HashedFile) -> None:
        file.write(b"half")
        raise ValueError

    with pytest.raises(ValueError):
        journal.write_hashed(tmp_path / "file", write)
    assert names(tmp_path) == []
