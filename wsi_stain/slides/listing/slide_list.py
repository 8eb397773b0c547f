"""Slide lists: a CSV with a row a slide and what is known of it. Knows what a row may say, not where slides may lie.

As spreadsheets write them: commas, semicolons or tabs between cells, a decimal comma where semicolons separate, a byte
order mark, rows of empty cells. Paths are relative to the list.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wsi_stain.core.errors import ConfigError
from wsi_stain.slides.resolution import MPP_RANGE

DETAILS = ("mpp", "group", "patient", "site", "split", "label")
"""Columns beside `slide`, all optional."""

_KNOWN = f"Known columns: {', '.join(('slide', *DETAILS))}"
_DELIMITERS = ",;\t"
_MOST_BYTES = 64 * 2**20


def read_list(source: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a slide list.

    Yields:
        Where the row stands, for messages, and its cells by column: `slide` is text, `mpp` a number in um per px or
        None, every other cell text or None where it is empty.

    Raises:
        ConfigError: The list cannot be read, or a column or a cell is wrong.
    """
    try:
        if (size := source.stat().st_size) > _MOST_BYTES:
            raise ConfigError(f"{source} has {size / 1e6:.0f} MB, expected a row a slide", "Name the list of slides")
        text = source.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source} cannot be read as a slide list: {error}", "Save it as CSV in UTF-8") from error
    if "\0" in text:
        raise ConfigError(f"{source} holds bytes of zero, expected text", "Save it as CSV in UTF-8")
    try:
        yield from _parse(source, text)
    except csv.Error as error:
        raise ConfigError(f"{source} is no table: {error}", "Save it as CSV in UTF-8, a row a slide") from error


def _parse(source: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    delimiter = max(_DELIMITERS, key=text.partition("\n")[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    _check_columns(source, [name.strip().lower() for name in reader.fieldnames or ()])
    for cells in reader:
        if any(cells.values()):
            where = f"{source}, row {reader.line_num}"
            yield where, _parse_row(where, cells, decimal_comma=delimiter != ",")


def _check_columns(source: Path, columns: Sequence[str]) -> None:
    unknown = [name for name in columns if name not in ("slide", *DETAILS)]
    repeated = [name for name, count in Counter(columns).items() if count > 1]
    if unknown or repeated:
        raise ConfigError(f"{source} has unknown or repeated columns: {', '.join(unknown or repeated)}", _KNOWN)
    if "slide" not in columns:
        raise ConfigError(f"{source} has no column 'slide'", _KNOWN)


def _parse_row(where: str, cells: Mapping[str | None, Any], decimal_comma: bool) -> dict[str, Any]:
    if None in cells or None in cells.values():
        raise ConfigError(f"{where} does not have as many cells as the header", "Correct the row")
    row: dict[str, Any] = {str(name).strip().lower(): text.strip() or None for name, text in cells.items()}
    if row["slide"] is None:
        raise ConfigError(f"{where} names no slide", "Fill the column 'slide'")
    return {**row, "mpp": _parse_mpp(where, row.get("mpp"), decimal_comma)}


def _parse_mpp(where: str, text: str | None, decimal_comma: bool) -> float | None:
    if text is None:
        return None
    low, high = MPP_RANGE
    try:
        mpp = float(text.replace(",", ".") if decimal_comma else text)
    except ValueError:
        mpp = 0.0
    if not low <= mpp <= high:
        raise ConfigError(
            f"{where}: mpp is {text!r}, expected {low} to {high} um per pixel", "Correct or empty the cell"
        )
    return mpp
