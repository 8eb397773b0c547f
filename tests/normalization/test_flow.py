"""Slides side by side: each ends in a row of its own, and only a lost lease ends all."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.normalization.flow import collect_rows
from pipelines.shared.progress import Progress
from pipelines.shared.space import DiskSpace
from wsi_stain.core.errors import LeaseError, NoTissueError, SlideError
from wsi_stain.executor import Flow, Task, single_task
from wsi_stain.executor.serial import SerialExecutor
from wsi_stain.results import SlideRow
from wsi_stain.slides.listing.find import SlideSource


def raise_error(error: Exception) -> None:
    raise error


def finish(name: str) -> Flow[SlideRow]:
    yield []
    return SlideRow(slide=name, slide_id=name, status="done")


def fail(error: Exception) -> Flow[SlideRow]:
    yield from single_task(Task(raise_error, error, "tile"))
    raise AssertionError("the task's error comes first")


def run_all(flows: Mapping[str, Flow[SlideRow]], out: Path) -> tuple[list[SlideRow], str]:
    printed = io.StringIO()
    sources = [SlideSource(path=out / name, slide_id=name, relative=name) for name in flows]
    with Progress(Console(file=printed, width=200)) as progress:
        space = DiskSpace(out, 0, 0, progress.report)
        return collect_rows(SerialExecutor(), flows, sources, progress, space), printed.getvalue()


def test_a_slide_that_fails_leaves_the_others_alone_and_its_row_in_its_place(tmp_path: Path) -> None:
    flows = {
        "a": fail(SlideError("a is damaged", "Copy it again")),
        "b": finish("b"),
        "c": fail(NoTissueError("c is empty", "Leave it out")),
        "d": fail(ZeroDivisionError("division by zero")),
    }
    rows, printed = run_all(flows, tmp_path)
    assert [row.slide for row in rows] == ["a", "b", "c", "d"]
    assert [row.status for row in rows] == ["failed", "done", "empty", "failed"]
    assert (rows[0].reason, rows[0].remedy) == ("a is damaged", "Copy it again")
    assert rows[3].reason == "ZeroDivisionError: division by zero" and "report" in rows[3].remedy
    assert "a: failed: a is damaged. Copy it again" in printed


def test_a_lost_lease_ends_the_run(tmp_path: Path) -> None:
    flows = {"a": fail(LeaseError("another run has it", "Wait for it")), "b": finish("b")}
    with pytest.raises(LeaseError, match="another run has it"):
        run_all(flows, tmp_path)
