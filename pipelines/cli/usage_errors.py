"""Messages about wrong usage, in which what was typed is plain text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from typer.core import TyperGroup

from wsi_stain.core.text import escape_unprintable


class PlainTextGroup(TyperGroup):
    """Commands whose messages about wrong usage escape what is no plain text, such as a name that is no directory."""

    def make_context(self, *arguments: Any, **named: Any) -> Any:
        """Parse what stands before the command."""
        with _escape_message():
            return super().make_context(*arguments, **named)

    def invoke(self, ctx: Any) -> Any:
        """Parse the rest and run the command."""
        with _escape_message():
            return super().invoke(ctx)


@contextmanager
def _escape_message() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "message"):  # as typer's errors have
            error.message = escape_unprintable(error.message)
        raise
