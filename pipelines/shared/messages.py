"""Lines for the terminal: how they are printed, and how errors, sizes and durations are described in them."""

from __future__ import annotations

from rich.console import Console

from wsi_stain.core.errors import WsiStainError
from wsi_stain.core.text import escape_unprintable


def print_line(console: Console, text: str) -> None:
    """Print a line: nothing in a name is markup, and what is no plain text in it is escaped."""
    console.print(escape_unprintable(text), highlight=False, markup=False, soft_wrap=True)


def print_warning(console: Console, text: str) -> None:
    """Print what must not be overlooked."""
    console.print(f"WARNING: {escape_unprintable(text)}", style="bold red", markup=False, soft_wrap=True)


def print_error(console: Console, error: WsiStainError) -> None:
    """Print what went wrong, and the remedy."""
    console.print(f"error: {escape_unprintable(error.problem)}", style="bold red", highlight=False, markup=False)
    if error.remedy:
        console.print(f"remedy: {escape_unprintable(error.remedy)}", highlight=False, markup=False)


def describe_error(error: Exception) -> str:
    """Describe an error in one line; one that is no WsiStainError with its type."""
    return str(error) if isinstance(error, WsiStainError) else f"{type(error).__name__}: {error}"


def describe_holes(holes: int, tiles: int) -> str:
    """Describe in one line how many of a slide's tiles are damaged in its file."""
    return f"{holes} of {tiles} tiles cannot be read and show a coarser level"


def describe_size(count: float) -> str:
    """Describe a number of bytes, such as 1.23 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def describe_duration(seconds: float) -> str:
    """Describe a duration, such as 12 min."""
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
