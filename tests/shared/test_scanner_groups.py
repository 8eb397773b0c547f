"""Slides of one scanner and one folder become a group only when that is asked for."""

from __future__ import annotations

import io

from rich.console import Console

from pipelines.shared.progress import Progress
from pipelines.shared.scanner_groups import group_by_scanner
from tests.cohort.test_scanner_groups import SLIDES, scanners

NAMED = scanners("X", "X", "Y", "X", "")


def test_groups_are_offered_and_nothing_changes() -> None:
    said = io.StringIO()
    with Progress(Console(file=said, width=400)) as progress:
        sources, facts = group_by_scanner(SLIDES, NAMED, "listed", progress)
    assert sources == SLIDES
    offer = "2 slides of X, in a could share their stain as a group: if one laboratory stained them, run with "
    assert facts == {"scanner_groups_offered": f"{offer}--group auto"}
    assert f"{offer}--group auto" in said.getvalue()


def test_groups_are_made_where_they_are_asked_for() -> None:
    with Progress(Console(file=io.StringIO())) as progress:
        sources, facts = group_by_scanner(SLIDES, NAMED, "auto", progress)
        assert group_by_scanner(SLIDES, {}, "auto", progress) == (SLIDES, {})
    assert [source.group for source in sources] == ["X, in a", "X, in a", None, None, None]
    assert facts == {"scanner_groups": {"X, in a": 2}}
