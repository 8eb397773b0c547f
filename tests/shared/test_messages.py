"""Lines for the terminal: sizes, durations, errors and names that are no text."""

from __future__ import annotations

import io
import os

import pytest
from rich.console import Console

from pipelines.shared.messages import describe_duration, describe_error, describe_holes, describe_size, print_line
from wsi_stain.core.errors import SlideError


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (40_000 * 1804, "72.2 MB"), (2.5e12, "2.5 TB"), (3e15, "3e+03 TB")],
)
def test_sizes_have_three_digits_and_a_unit(count: float, text: str) -> None:
    assert describe_size(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2.0 h")])
def test_durations_have_the_unit_that_suits_them(seconds: float, text: str) -> None:
    assert describe_duration(seconds) == text


def test_an_error_of_ours_is_its_text_and_another_bears_its_type() -> None:
    assert describe_error(SlideError("No such slide", "Check the path")) == "No such slide. Check the path"
    assert describe_error(KeyError("x")) == "KeyError: 'x'"


def test_holes_are_counted() -> None:
    assert describe_holes(4, 12) == "4 of 12 tiles cannot be read and show a coarser level"


def test_names_are_printed_as_they_are_and_what_is_no_text_escaped() -> None:
    text = io.StringIO()
    print_line(Console(file=text, width=20), "[bold]" + os.fsdecode(b"\xff.svs") + " " + "x" * 40)
    assert text.getvalue() == "[bold]\\udcff.svs " + "x" * 40 + "\n"
