"""Faults that verification finds: one is one row of `verify.csv`."""

from __future__ import annotations

from typing import NamedTuple

REDO = "Delete it and run the same command again"
"""The remedy for an output whose bytes are not those that were written: a rerun makes again what is not there."""

REPORT = "A rerun would write the same bytes again: this is a fault of wsi-stain, please report it"
"""The remedy for an output that is wrong although its bytes are those that were written."""


class Fault(NamedTuple):
    """One thing that is wrong.

    Attributes:
        check: Name of the check, in one word.
        expected: What should be there.
        got: What is there.
        remedy: What the user can do about it.
    """

    check: str
    expected: str
    got: str
    remedy: str = REPORT
