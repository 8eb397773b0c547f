"""Text that does no harm where it goes: names that are printed, and tables that no spreadsheet takes for formulas."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from wsi_stain.core.journal import atomic_write

_FORMULA_STARTS = ("=", "@", "\t", "\r", "\n")
_SIGNS, _CALLS = ("+", "-"), "=@(|!"
"""Behind a sign only a function, a reference to another program or another formula does harm: `-x.svs` is a name."""

_UNPRINTABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table with a header: RFC 4180, UTF-8; None leaves a cell empty.

    Raises:
        OutputError: The file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text)  # its CRLF is what makes it quote a lone CR in a name
    writer.writerow(columns)
    for row in rows:
        writer.writerow([escape_formula(escape_unprintable(cell)) for cell in row])
    atomic_write(path, text.getvalue().encode())


def escape_formula(cell: Any) -> Any:
    """Put an apostrophe before text that a spreadsheet would take for a formula.

    So is done with what looks as if it had been written so, that every cell can be read back.
    """
    return f"'{cell}" if isinstance(cell, str) and _is_formula(cell.lstrip("'")) else cell


def unescape_formula(cell: str) -> str:
    """Return a cell as it was before `escape_formula`."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell.lstrip("'")) else cell


def _is_formula(text: str) -> bool:
    return text.startswith(_FORMULA_STARTS) or (text.startswith(_SIGNS) and any(mark in text for mark in _CALLS))


def escape_unprintable(text: Any) -> Any:
    r"""Escape what is no plain text, as `\x1b` or `\u202e`; what is no text stays.

    That is control characters (a name may hold the sequences that rewrite a terminal, or a line break that forges a
    line of a log), format characters (which turn the direction of writing, or are not seen), and bytes of a file name
    that are no Unicode.
    """
    if not isinstance(text, str) or text.isprintable():
        return text
    return "".join(_escape(character) if is_unprintable(character) else character for character in text)


def is_unprintable(character: str) -> bool:
    """Check whether a character is none that shows as itself: categories Cc, Cf, Cs, Zl and Zp of Unicode."""
    return unicodedata.category(character) in _UNPRINTABLE


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
