"""Tables on terminals of any width, and in pipes."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from pipelines.shared.tables import Column, print_table

COLUMNS = [Column("slide"), Column("size", number=True), Column("vendor", rank=2), Column("tiles", number=True, rank=1)]
ROWS = [
    ["a.svs", "1 x 1", "aperio", "7"],
    ["a-very-long-directory/and-a-very-long-name-of-a-slide.ndpi", "13198 x 11685", "hamamatsu", "1804"],
    ["胃の標本.svs", "2 x 2", "", ""],
]


def print_at_width(width: int, terminal: bool) -> list[str]:
    text = io.StringIO()
    print_table(COLUMNS, ROWS, Console(file=text, width=width, force_terminal=terminal, no_color=True))
    return text.getvalue().splitlines()


def test_in_a_pipe_each_row_is_one_whole_line() -> None:
    lines = print_at_width(20, terminal=False)
    assert [line.split()[0] for line in lines] == ["slide", *(row[0] for row in ROWS)]
    assert lines[2].split("  ")[-3:] == ["13198 x 11685", "hamamatsu", " 1804"]
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize(
    ("width", "headings"),
    [(200, "slide size vendor tiles"), (60, "slide size vendor tiles"), (40, "slide size tiles"), (32, "slide size")],
)
def test_a_terminal_loses_columns_before_it_loses_names(width: int, headings: str) -> None:
    lines = print_at_width(width, terminal=True)
    assert lines[0].split() == headings.split()
    assert all(cell_len(line) <= width for line in lines)
    room = cell_len(lines[0].split("size")[0])
    assert "".join(line[:room].split("  ")[0].strip() for line in lines[1:]) == "".join(row[0] for row in ROWS)


def test_numbers_are_flush_right() -> None:
    sizes = [line.split("aperio")[0].rstrip() for line in print_at_width(200, terminal=False) if "aperio" in line]
    assert [len(size) for size in sizes] == [len(ROWS[1][0]) + 2 + len("13198 x 11685")]


def test_a_table_of_no_rows_is_its_heading() -> None:
    text = io.StringIO()
    print_table(COLUMNS, [], Console(file=text, width=80))
    assert text.getvalue().split() == ["slide", "size", "vendor", "tiles"]
