"""Tables of text that fit where they are printed: on a terminal of any width, or whole, a line a row, in a pipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len, chop_cells
from rich.console import Console

from pipelines.shared.messages import print_line

_GAP = "  "
_NAME = 16


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        heading: What stands above it.
        number: Whether its cells are flush right.
        rank: Columns of a high rank are left out first where the terminal is too narrow; those of rank 0 never.
    """

    heading: str
    number: bool = False
    rank: int = 0


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], console: Console) -> None:
    """Print a table; names in its first column are cut into several lines where there is no room for them.

    Args:
        columns: The first is the rows' names.
        rows: A cell for each column, text that a terminal can show.
        console: Where to print. What is no terminal gets everything, whatever its width.
    """
    widths = [max(map(cell_len, cells)) for cells in zip([c.heading for c in columns], *rows, strict=True)]
    visible = list(range(len(columns)))
    if console.is_terminal:
        visible = _find_fitting_columns(columns, widths, console.width)
        widths[0] = min(widths[0], max(_NAME, console.width - sum(len(_GAP) + widths[index] for index in visible[1:])))
    for cells in ([column.heading for column in columns], *rows):
        name, *more = chop_cells(cells[0], widths[0]) or [""]
        rest = [_pad(cells[index], widths[index], columns[index].number) for index in visible[1:]]
        print_line(console, _GAP.join([_pad(name, widths[0], False), *rest]).rstrip())
        for line in more:
            print_line(console, line)


def _find_fitting_columns(columns: Sequence[Column], widths: Sequence[int], room: int) -> list[int]:
    """Choose the columns to show, by index, so that at least a short name fits beside them."""
    visible = list(range(len(columns)))
    for index in sorted(visible[1:], key=lambda index: -columns[index].rank):
        needed = min(widths[0], _NAME) + sum(len(_GAP) + widths[other] for other in visible[1:])
        if needed > room and columns[index].rank:
            visible.remove(index)
    return visible


def _pad(text: str, width: int, right: bool) -> str:
    blank = " " * (width - cell_len(text))
    return blank + text if right else text + blank
