"""Digests by pieces: the same whether a file is hashed as it grows or afterwards, and different for every damage."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_stain.core import digest
from wsi_stain.core.digest import hashed, pieces_digest

PIECE = 1000


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "PIECE", PIECE)
    monkeypatch.setattr(digest, "_READ", 100)


def content(size: int) -> bytes:
    return bytes(number * 7 % 251 for number in range(size))


def expected(content: bytes) -> str:
    pieces = [hashlib.sha256(content[at : at + PIECE]) for at in range(0, max(len(content), 1), PIECE)]
    return (
        pieces[0].hexdigest() if len(pieces) == 1 else hashlib.sha256(b"".join(p.digest() for p in pieces)).hexdigest()
    )


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 1999, 2000, 2001, 7300])
def test_a_large_file_has_the_digest_of_its_pieces_digests(tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(content(size))
    assert pieces_digest(tmp_path / "file") == expected(content(size))


@given(st.lists(st.integers(0, 6000)), st.integers(0, 6000))
def test_a_file_that_grows_is_hashed_alike(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], size: int
) -> None:
    path, whole = tmp_path_factory.getbasetemp() / "growing", content(size)
    with open(path, "w+b") as file, hashed(file) as growing:
        for start, end in pairwise(sorted({0, size, *(cut for cut in cuts if cut < size)})):
            growing.write(whole[start:end])
        growing.seek(8)
        growing.write(b"patched")
        found = growing.digest()
    assert found == expected(path.read_bytes()) == pieces_digest(path)


def test_damage_in_any_piece_is_seen(tmp_path: Path) -> None:
    whole = content(3500)
    (tmp_path / "file").write_bytes(whole)
    digests = {pieces_digest(tmp_path / "file")}
    for at in (0, 999, 1000, 2500, 3499):
        (tmp_path / "file").write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
        digests.add(pieces_digest(tmp_path / "file"))
    (tmp_path / "file").write_bytes(whole[1000:2000] + whole[:1000] + whole[2000:])
    digests.add(pieces_digest(tmp_path / "file"))
    assert len(digests) == 7


def test_what_is_hashed_already_is_not_written_again(tmp_path: Path) -> None:
    with open(tmp_path / "file", "w+b") as file, hashed(file) as growing:
        growing.write(content(2500))
        with pytest.raises(AssertionError, match="first piece"):
            growing.seek(1000)
