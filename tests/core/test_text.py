"""Text that does no harm where it is printed."""

from __future__ import annotations

import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_stain.core.text import escape_unprintable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("a\u202egnp.svs", "a\\u202egnp.svs"),
        ("one\nerror: two\r\t", "one\\nerror: two\\r\\t"),
        ("\x9b31m", "\\x9b31m"),
        ("zero\u200bwidth\ufeff\u2028", "zero\\u200bwidth\\ufeff\\u2028"),
        (os.fsdecode(b"\xff"), "\\udcff"),
        (
            "Gr\u00f6\u00dfe 5 \u00b5m \u65e5\u672c\u3000[b]\U0001f52c",
            "Gr\u00f6\u00dfe 5 \u00b5m \u65e5\u672c\u3000[b]\U0001f52c",
        ),
    ],
)
def test_what_a_terminal_would_obey_is_shown_escaped(text: str, shown: str) -> None:
    assert escape_unprintable(text) == shown


@given(st.text())
def test_nothing_escaped_is_left(text: str) -> None:
    shown = escape_unprintable(text)
    assert not {unicodedata.category(letter) for letter in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert shown == escape_unprintable(shown)


def test_what_is_no_text_stays() -> None:
    assert escape_unprintable(3.5) == 3.5 and escape_unprintable(None) is None
