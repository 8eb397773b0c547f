"""Progress on a terminal and elsewhere."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

import pipelines.shared.progress
from pipelines.shared.progress import Progress
from wsi_stain.executor import Task


def test_plain_lines_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelines.shared.progress, "_PLAIN_EVERY_S", 0.0)
    text = io.StringIO()
    with Progress(Console(file=text, width=80)) as progress:
        progress.expect("tile", 3)
        progress.expect("tile", 1)
        progress.advance("tile", note="a.svs")
        progress.advance("tile")
    lines = text.getvalue().splitlines()
    assert lines[0].startswith("tile 1/4")
    assert "a.svs" in lines[0]
    assert lines[1].startswith("tile 2/4 ETA 0:")


def test_how_fast_pixels_are_done_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelines.shared.progress, "_PLAIN_EVERY_S", 0.0)
    text = io.StringIO()
    with Progress(Console(file=text, width=120)) as progress:
        task = Task(print, None, "normalize")
        progress.on_tasks("a.svs", [task, task])
        progress.on_done("a.svs", task, {"tiles": 100})
    assert re.search(r"normalize 1/2 .*\(\d+\.\d Mpx/s, a\.svs\)", text.getvalue())


def test_a_task_that_takes_long_is_named_more_and_more_rarely() -> None:
    text, stuck = io.StringIO(), Task(print, None, "survey")
    with Progress(Console(file=text, width=120)) as progress:
        progress.on_tasks("a.svs", [stuck])
        for seconds in (30, 60, 65, 119, 120, 125, 250):
            progress.on_wait("a.svs", stuck, seconds)
        progress.on_wait("b.svs", stuck, 70)
    lines = text.getvalue().splitlines()
    assert [line.rpartition("(")[2] for line in lines] == ["60 s)", "2 min)", "4 min)", "70 s)"]
    assert re.fullmatch(r"waiting for a\.svs: survey since \d\d:\d\d:\d\d \(60 s\)", lines[0])
    assert lines[3].startswith("waiting for b.svs")


def test_on_a_terminal_the_bar_names_the_task_that_takes_long() -> None:
    text, stuck = io.StringIO(), Task(print, None, "survey")
    with Progress(Console(file=text, width=150, force_terminal=True)) as progress:
        progress.on_tasks("a.svs", [stuck])
        progress.on_wait("a.svs", stuck, 90)
    assert "waiting for a.svs: survey since" in text.getvalue()


def test_bars_on_a_terminal() -> None:
    text = io.StringIO()
    with Progress(Console(file=text, width=100, force_terminal=True)) as progress:
        progress.expect("normalize", 2)
        progress.advance("normalize", 2)
        progress.report("[done] a message, not markup")
    assert "2/2" in text.getvalue()
    assert "[done] a message" in text.getvalue()
