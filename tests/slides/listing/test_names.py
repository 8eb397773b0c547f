"""Ids and safe paths: what every file system takes, and that no two names meet."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_stain.slides.listing.names import collision_key, safe_path, slide_id

PART = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=300)
AS_IT_IS = ["a/x", "Gro\u00dfe Schnitte/\u03b1 (2)", "CON", "a:b?", "dot.", "x" * 215, "\u200a thin", "a/.hidden"]


@pytest.mark.parametrize("name", AS_IT_IS)
def test_what_a_file_system_takes_stays_as_it_is(name: str) -> None:
    assert safe_path(PurePosixPath(name)) == PurePosixPath(name)


@pytest.mark.parametrize(
    ("name", "start"),
    [
        pytest.param("\x1b[31mred", "_[31mred-", id="an escape sequence"),
        pytest.param("a\u202eb", "a_b-", id="a change of direction"),
        pytest.param("a\nb", "a_b-", id="a line break"),
        pytest.param("x" * 216, "x" * 206 + "-", id="too long"),
        pytest.param("\u00e9" * 120, "\u00e9" * 103 + "-", id="too long, and no letter is torn"),
    ],
)
def test_what_is_refused_or_not_shown_is_changed_and_gets_a_hash(name: str, start: str) -> None:
    safe = str(safe_path(PurePosixPath(name)))
    assert safe.startswith(start) and len(safe) == len(start) + 8


@pytest.mark.parametrize(
    "name", ["CON", "nul", "aux.2", "COM1 ", "lpt\u00b9.x", 'a<>:"|?*\\b', "dot.", "space ", ". ."]
)
def test_portable_names_are_taken_by_windows(name: str) -> None:
    for safe in (str(safe_path(PurePosixPath(name), portable=True)), slide_id(name)):
        assert not set(safe) & set('<>:"|?*\\') and safe[-1] not in ". "
        assert safe.split(".")[0].strip().upper() not in {"CON", "NUL", "AUX", "COM1", "LPT\u00b9"}


def test_a_path_that_is_too_long_as_a_whole_becomes_one_name() -> None:
    assert len(str(safe_path(PurePosixPath("/".join(["x" * 200] * 10)[1:])))) < 200


@given(PART, PART, st.booleans())
def test_names_that_are_changed_do_not_meet_and_are_changed_once(one: str, other: str, portable: bool) -> None:
    safe = [safe_path(PurePosixPath("f", part), portable) for part in (one, other)]
    assert all(len(part.encode()) <= 215 for path in safe for part in path.parts)
    assert all(path == safe_path(path, portable) for path in safe)
    if PurePosixPath("f", one) != PurePosixPath("f", other):
        assert safe[0] != safe[1]


@pytest.mark.parametrize(("one", "other"), [("A", "a"), ("\u00e9", "e\u0301"), ("\u00c9", "e\u0301"), ("\u00df", "SS")])
def test_names_that_some_file_system_takes_for_one_share_a_key(one: str, other: str) -> None:
    assert collision_key(one) == collision_key(other)
