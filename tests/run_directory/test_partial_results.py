"""What is known of a run that ended, of one that did not, and of one whose files were lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.run_directory.partial_results import (
    finished_slide,
    read_run_record,
    recover_rows,
    reference_nuclei,
    summary_rows,
)
from pipelines.run_directory.workspace import Workspace
from wsi_stain.core.geometry import Mpp, Size
from wsi_stain.core.journal import write_json
from wsi_stain.metrics.chromatin import NuclearDetail
from wsi_stain.results import SlideRow, write_summary
from wsi_stain.results.finished import FinishedSlide, Origin, save_finished
from wsi_stain.slides.slide import SlideConfig
from wsi_stain.tissue.grid import TileGrid

SIZE = Size(600, 300)
GRID = TileGrid(SIZE, np.ones((2, 3), np.float32), np.ones((2, 3), bool))
ORIGIN = Origin(slide=None, tiles=None, reading=SlideConfig(), fingerprint={"size": 1}, icc_sha256=None)


def row_of(name: str) -> SlideRow:
    return SlideRow(
        slide=f"{name}.svs",
        slide_id=name,
        status="done",
        output=f"slides/{name}.ome.tif",
        size=SIZE,
        mpp=Mpp(0.5, 0.5),
        before=b"\xff\xd8",
    )


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A run of two slides that ended when the first was finished."""
    workspace = Workspace(tmp_path)
    save_finished(workspace.slide("a"), FinishedSlide("key", row_of("a"), ORIGIN, GRID, np.zeros((4, 4), bool)))
    write_json(workspace.record, {"slides": [["a", "a.svs"], ["b", "b.svs"]]})
    return workspace


def statuses(workspace: Workspace) -> dict[str, str]:
    return {row.slide: row.status for row in recover_rows(workspace, read_run_record(workspace))}


def test_a_run_that_was_killed_has_a_row_for_each_slide(workspace: Workspace) -> None:
    rows = recover_rows(workspace, read_run_record(workspace))
    assert [(row.slide, row.status) for row in rows] == [("a.svs", "done"), ("b.svs", "unfinished")]
    assert "Run the same command again" in rows[1].remedy
    assert rows[0].before is None, "pictures are loaded when they are needed"


@pytest.mark.parametrize("content", [None, "{", "[1]", '{"slides": "none"}'])
def test_without_a_record_what_was_finished_is_found(workspace: Workspace, content: str | None) -> None:
    workspace.record.unlink()
    if content is not None:
        workspace.record.write_text(content)
    assert statuses(workspace) == {"a.svs": "done"}


def test_what_the_summary_says_of_a_failed_slide_holds_whatever_an_earlier_run_left(workspace: Workspace) -> None:
    failed = SlideRow(slide="a.svs", slide_id="a", status="failed", reason="it changed")
    write_summary(workspace.summary, [failed, row_of("b")])
    assert finished_slide(workspace, "a", None) is not None
    assert finished_slide(workspace, "a", failed) is None
    assert statuses(workspace) == {"a.svs": "failed", "b.svs": "done"}


def test_a_damaged_summary_is_told_from_none(workspace: Workspace) -> None:
    assert summary_rows(workspace) == []
    workspace.summary.write_text("slide,colour\n")
    assert summary_rows(workspace) is None
    assert statuses(workspace) == {"a.svs": "done", "b.svs": "unfinished"}


def test_nuclei_of_the_reference_are_read_or_unknown() -> None:
    nuclei = NuclearDetail(contrast=10.0, dark=0.01, luminance=100)
    assert reference_nuclei({"reference_nuclei": nuclei.model_dump(mode="json")}) == nuclei
    assert reference_nuclei({}) is None
