"""Which slides a run does and which it learns from, before anything is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.run import Request
from pipelines.run_directory.workspace import Workspace
from pipelines.shared.config import RunConfig
from wsi_stain.core.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Slides a and b, a list of them, and the output of another run below."""
    for name in ("a.svs", "b.svs", "list.csv"):
        (tmp_path / name).touch()
    Workspace(tmp_path / "other").mark()
    (tmp_path / "other" / "slides").mkdir()
    (tmp_path / "other" / "slides" / "a.ome.tif").touch()
    return tmp_path


def make_request(folder: Path, slides: str, references: str, checkpoint: Path | None = None) -> Request:
    return Request([folder / slides], [folder / references], checkpoint, folder / "out", RunConfig())


def test_the_output_of_another_run_is_no_input(folder: Path) -> None:
    slides, references = make_request(folder, ".", "a.svs").find_sources(pytest.fail)
    assert [slide.relative for slide in slides] == ["a.svs", "b.svs"]
    assert [slide.relative for slide in references] == ["a.svs"]


def test_the_output_of_this_run_is_no_input_even_when_it_is_named(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "a.tif").touch()
    with pytest.raises(ConfigError, match="within the output directory"):
        make_request(folder, "out", "a.svs").find_sources(pytest.fail)


def test_slides_set_aside_for_testing_are_done_but_not_learnt_from(folder: Path) -> None:
    (folder / "list.csv").write_text("slide,split\na.svs,train\nb.svs,test\n")
    slides, references = make_request(folder, "list.csv", "list.csv").find_sources(pytest.fail)
    assert [slide.relative for slide in slides] == ["a.svs", "b.svs"]
    assert [slide.relative for slide in references] == ["a.svs"]
    with pytest.raises(ConfigError, match="split 'test'"):
        make_request(folder, "list.csv", "b.svs").find_sources(pytest.fail)


@pytest.mark.parametrize(("slides", "references"), [("list.csv", "a.svs"), (".", "list.csv")])
def test_what_a_list_says_of_a_slide_holds_wherever_it_is_used(folder: Path, slides: str, references: str) -> None:
    (folder / "list.csv").write_text("slide,mpp,group\na.svs,0.5,A\n")
    for found in make_request(folder, slides, references).find_sources(pytest.fail):
        assert (found[0].relative, found[0].mpp, found[0].group) == ("a.svs", 0.5, "A")


def test_with_a_checkpoint_nothing_is_learnt(folder: Path) -> None:
    assert make_request(folder, ".", "gone.svs", folder / "c.safetensors").find_sources(pytest.fail)[1] == []
