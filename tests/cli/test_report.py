"""`wsi-stain report`: the page from what a run left, whole, torn or unfinished."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from pipelines.run_directory.workspace import Workspace
from tests.report.test_report import STAIN, Page, finished_row
from tests.support.commands import Run
from wsi_stain.core.geometry import Size
from wsi_stain.core.journal import write_json
from wsi_stain.results import SlideRow, write_summary
from wsi_stain.results.finished import FinishedSlide, Origin, save_finished
from wsi_stain.slides.slide import SlideConfig
from wsi_stain.tissue.grid import TileGrid

GRID = TileGrid(Size(470, 310), np.ones((2, 2), np.float32), np.ones((2, 2), bool))
ORIGIN = Origin(slide=None, tiles="x", reading=SlideConfig(), fingerprint={}, icc_sha256=None)


def finish_slide(workspace: Workspace, name: str) -> SlideRow:
    row = finished_row(slide=f"{name}.svs", slide_id=name, output=f"slides/{name}.ome.tif", seam=None)
    save_finished(workspace.slide(name), FinishedSlide("key", row, ORIGIN, GRID, np.zeros((4, 4), bool)))
    return row


@pytest.fixture
def crashed_run(tmp_path: Path) -> Workspace:
    """A run that was killed: one slide of three is finished."""
    workspace = Workspace(tmp_path)
    slides = [[name, f"{name}.svs"] for name in "abc"]
    write_json(
        workspace.record, {"device": "cpu", "slides": slides, "reference": STAIN.model_dump(mode="json"), "config": {}}
    )
    finish_slide(workspace, "b")
    return workspace


def page(workspace: Workspace) -> Page:
    return Page(workspace.out / "report" / "index.html")


def test_a_killed_run_shows_what_is_finished_and_says_what_is_not(crashed_run: Workspace, wsi_stain: Run) -> None:
    ended = wsi_stain("report", crashed_run.out)
    assert ended.code == 0
    assert "The run did not end: 2 of 3 slides are not finished." in ended.out
    told = page(crashed_run)
    assert "3 slides 1 done 2 unfinished" in told.text
    assert "a.svs unfinished The run ended before the slide Run the same command again" in told.text
    assert "The run did not end: 2 of 3 slides are not finished." in told.text
    assert [article["data-name"] for article in told.all("article")] == ["b.svs"]
    assert "white, R G B 243 241 245 243 241 245 243 241 245" in told.text


def test_a_run_that_was_killed_after_its_last_slide_lacks_its_summary(crashed_run: Workspace, wsi_stain: Run) -> None:
    for name in "ac":
        finish_slide(crashed_run, name)
    assert "The run did not end: only its summary is missing." in wsi_stain("report", crashed_run.out).out


def test_the_summary_of_a_run_that_ended_says_what_failed(crashed_run: Workspace, wsi_stain: Run) -> None:
    failed = SlideRow(slide="a.svs", slide_id="a", status="failed", reason="No resolution", remedy="Give --slide-mpp")
    empty = SlideRow(slide="c.svs", slide_id="c", status="empty", reason="No tissue", remedy="Look")
    write_summary(crashed_run.summary, [failed, finish_slide(crashed_run, "b"), empty])
    assert wsi_stain("report", crashed_run.out).code == 0
    told = page(crashed_run).text
    assert "3 slides 1 done 1 empty 1 failed" in told
    assert "a.svs failed No resolution Give --slide-mpp" in told
    assert "did not end" not in told


def test_the_page_is_the_same_however_often_it_is_made(crashed_run: Workspace, wsi_stain: Run) -> None:
    pages = []
    for _time in range(2):
        wsi_stain("report", crashed_run.out)
        pages.append((crashed_run.out / "report" / "index.html").read_bytes())
    assert pages[0] == pages[1]


def test_slides_whose_rows_are_gone_are_told_without_pictures(crashed_run: Workspace, wsi_stain: Run) -> None:
    write_summary(crashed_run.summary, [finish_slide(crashed_run, name) for name in "abc"])
    shutil.rmtree(crashed_run.out / "work")
    ended = wsi_stain("report", crashed_run.out)
    assert "3 finished slides have no pictures here: OUT/work no longer has their rows." in ended.out
    told = page(crashed_run)
    assert "3 slides 3 done" in told.text
    assert "no picture" in told.text


def test_a_run_that_was_killed_in_training_shows_its_curves(tmp_path: Path, wsi_stain: Run) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "metrics.csv").write_text("epoch,l1\n1,0.5\n2,0.25\n")
    ended = wsi_stain("report", tmp_path)
    assert ended.code == 0
    assert "There is no run.json" in ended.out
    assert "L1 loss" in Page(tmp_path / "report" / "index.html").text


def test_rows_without_a_record_are_still_shown(tmp_path: Path, wsi_stain: Run) -> None:
    workspace = Workspace(tmp_path)
    write_summary(workspace.summary, [finish_slide(workspace, "a")])
    workspace.summary.unlink()
    workspace.training.mkdir()
    assert wsi_stain("report", tmp_path).code == 0
    assert [article["data-name"] for article in page(workspace).all("article")] == ["a.svs"]


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"slides": 3}', '{"slides": [["a"]]}', '{"reference": {"white": 1}}']
)
def test_a_damaged_record_is_no_traceback(crashed_run: Workspace, wsi_stain: Run, text: str) -> None:
    crashed_run.record.write_text(text)
    ended = wsi_stain("report", crashed_run.out)
    assert ended.code == 0, ended.err
    assert [article["data-name"] for article in page(crashed_run).all("article")] == ["b.svs"]


@pytest.mark.parametrize("text", ["", "slide,status\na,done\n", "\x00"], ids=["empty", "earlier", "torn"])
def test_a_summary_that_cannot_be_read_is_told(crashed_run: Workspace, wsi_stain: Run, text: str) -> None:
    crashed_run.summary.write_text(text)
    ended = wsi_stain("report", crashed_run.out)
    assert ended.code == 0, ended.err
    assert "summary.csv is damaged, or of another version" in ended.out
    assert [article["data-name"] for article in page(crashed_run).all("article")] == ["b.svs"]


def test_a_directory_without_a_run_is_refused(tmp_path: Path, wsi_stain: Run) -> None:
    ended = wsi_stain("report", tmp_path)
    assert ended.code == 1
    assert "is not the output directory of a run" in ended.err
    assert not list(tmp_path.iterdir())
