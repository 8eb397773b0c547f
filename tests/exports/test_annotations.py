"""`wsi-stain annotate`: a file a finished slide, from what the run left."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pipelines.exports.annotations import Request, run
from pipelines.run_directory.workspace import Workspace
from tests.cli.test_report import GRID, ORIGIN
from tests.report.test_report import finished_row
from tests.support.made_run import run_unchanged
from tests.support.slide_files import noise, write_slide
from tests.support.tiled_slides import SMALL, paint, write
from wsi_stain.core.errors import OutputError
from wsi_stain.core.journal import write_json
from wsi_stain.metrics.hallucination import map_png
from wsi_stain.results.areas import AREAS
from wsi_stain.results.finished import FinishedSlide, save_finished
from wsi_stain.slides.slide import SlideConfig
from wsi_stain.store.artifact import save_artifact
from wsi_stain.tissue.exempt import AS_SCANNED


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A run that finished a/b.svs, read at half its resolution, with all there is to see."""
    workspace = Workspace(tmp_path / "out")
    source = write_slide(tmp_path / "b.svs", [noise(940, 620)], mpp=0.25)
    write_json(workspace.record, {"slides": [["b", "a/b.svs"]]})
    png = map_png(np.array([[0, 90], [20, 0]], np.uint8))
    row = finished_row(slide="a/b.svs", slide_id="b", output="slides/a/b.ome.tif", hallucination=png)
    origin = ORIGIN.model_copy(update={"slide": source, "reading": SlideConfig(mpp=0.5)})
    save_finished(workspace.slide("b"), FinishedSlide("key", row, origin, GRID, np.zeros((4, 4), bool)))
    mask, exempt = np.zeros((31, 47), bool), np.zeros((31, 47), np.uint8)
    mask[5:20, 5:30], exempt[25:30, 40:45] = True, AS_SCANNED
    areas = {"suspect": np.eye(2, dtype=bool), "holes": np.array([[False, True], [False, False]])}
    save_artifact(workspace.slide("b") / AREAS, {"mask": mask, "exempt": exempt, **areas})
    return workspace


def annotate(workspace: Workspace, frame: str, bound: float = 5.0) -> tuple[int, str]:
    said = io.StringIO()
    to = workspace.out / "annotations"
    code = run(Request(workspace.out, to, frame, bound), Console(file=said, width=400))  # type: ignore[arg-type]
    return code, said.getvalue()


def names_and_corners(workspace: Workspace) -> dict[str, list[float]]:
    content = json.loads((workspace.out / "annotations" / "a" / "b.svs.geojson").read_text())
    return {
        feature["properties"]["classification"]["name"]: feature["geometry"]["coordinates"][0][0]
        for feature in content["features"]
    }


def test_each_frame_has_its_own_pixels(workspace: Workspace) -> None:
    assert annotate(workspace, "output")[0] == 0
    own = names_and_corners(workspace)
    assert own["Hole"] == [256, 0] and own["Hallucination"] == [256, 0]
    assert own.keys() == {"Tissue", "Ink*", "Missed tissue*", "Hole", "Hallucination"}
    assert annotate(workspace, "source", bound=9.5)[0] == 0
    twice = names_and_corners(workspace)
    assert twice["Hole"] == [512, 0], "the run read the slide at half its resolution"
    assert "Hallucination" not in twice


def test_a_slide_that_is_gone_is_told_and_its_output_can_still_be_had(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "b.svs").unlink()
    code, said = annotate(workspace, "source")
    assert (code, "a/b.svs: " in said, "b.svs" in said) == (3, True, True)
    assert annotate(workspace, "output")[0] == 0


def test_a_slide_of_an_earlier_version_can_be_drawn_once_it_is_made_again(tmp_path: Path) -> None:
    source, out = write(tmp_path / "a.tif", paint(SMALL)).path, tmp_path / "out"
    pyramid = run_unchanged(source, out).pyramid
    workspace, before = Workspace(out), pyramid.read_bytes()
    folder = workspace.slide("a.tif")
    for damage, words in (
        ((folder / AREAS).unlink, "earlier version"),
        (lambda: (folder / AREAS).write_bytes(b""), "damaged"),
    ):
        damage()
        code, said = annotate(workspace, "output")
        assert (code, words in said) == (3, True)
        row = re.search(r"Delete (\S+) and give the run's own command again", said)
        assert row is not None
        Path(row[1]).unlink()
        run_unchanged(source, out)
        assert annotate(workspace, "output")[0] == 0
        assert pyramid.read_bytes() == before


def test_without_a_finished_slide_there_is_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no finished slide"):
        annotate(Workspace(tmp_path / "empty"), "output")
