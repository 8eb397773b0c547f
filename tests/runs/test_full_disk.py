"""A disk that fills up: the slide is a row that says how much is needed, no other is begun, and a rerun goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.shared import space
from tests.support.commands import Run
from tests.support.files_below import digests
from tests.support.made_checkpoint import write_untrained
from tests.support.made_store import paint_tissue
from tests.support.small_disk import small_disk
from tests.support.viewed import pyramid
from wsi_stain.core.geometry import Size
from wsi_stain.results import read_summary

SLIDES = "abc"
MEGABYTES = 24


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three slides of 12 tiles, about 4 MB each in a store; and a checkpoint."""
    folder = tmp_path_factory.mktemp("full")
    pixels = paint_tissue(Size(700, 900), 1)
    for name in SLIDES:
        pyramid(folder / "slides" / f"{name}.svs", pixels)
    write_untrained(folder / "untrained.safetensors")
    return folder / "slides"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", MEGABYTES) as point:
        yield point


def fill(disk: Path, free_megabytes: float) -> None:
    """Leave so much free, by a file called ballast."""
    (disk / "ballast").write_bytes(bytes(MEGABYTES * 2**20 - int(free_megabytes * 1e6)))


def config(path: Path, wait_s: float) -> Path:
    path.write_text(f"space_wait_s: {wait_s}\n")
    return path


def test_a_run_on_a_full_disk_says_what_it_needs_begins_no_other_slide_and_goes_on_later(
    slides: Path, disk: Path, tmp_path: Path, wsi_stain: Run, identity: None
) -> None:
    fill(disk, 2.5)
    settings = config(tmp_path / "config.yaml", 0.1)
    options = ("--checkpoint", slides.parent / "untrained.safetensors", "-c", settings, "-j", 0)
    ended = wsi_stain("run", slides, *options, "-o", disk / "out")
    assert ended.code == 3, ended
    rows = {row["slide"]: row for row in read_summary(disk / "out" / "summary.csv")}
    reasons = [rows[f"{name}.svs"]["reason"] for name in SLIDES]
    assert "No space left on device: about" in reasons[0] and "are needed" in reasons[0] and "are free in" in reasons[0]
    assert all(reason.startswith("Not begun: about") for reason in reasons[1:])
    assert ended.out.count("The disk is full. No other slide is begun before") == 1
    (disk / "ballast").unlink()
    ended = wsi_stain("run", slides, *options, "-o", disk / "out")
    assert ended.code == 0, ended
    assert wsi_stain("run", slides, *options, "-o", tmp_path / "out").code == 0
    assert digests(disk / "out" / "slides") == digests(tmp_path / "out" / "slides")
    assert not list((disk / "out").rglob("*.partial"))


def test_room_that_is_made_while_it_is_waited_for_lets_the_rest_be_done(
    slides: Path, disk: Path, tmp_path: Path, wsi_stain: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(disk, 2.5)
    monkeypatch.setattr(space.time, "sleep", lambda seconds: (disk / "ballast").unlink())
    settings = config(tmp_path / "config.yaml", 300)
    ended = wsi_stain("tile", slides, "-s", disk / "store", "-c", settings, "-j", 0)
    assert ended.code == 3
    for line in ("2 of 3 slides tiled", "Waiting for room for at most 5 min", "There is room again"):
        assert line in ended.out
    ended = wsi_stain("tile", slides, "-s", disk / "store", "-c", settings, "-j", 0)
    assert ended.code == 0 and "3 of 3 slides tiled" in ended.out


def test_a_plan_that_does_not_fit_is_warned_of(slides: Path, disk: Path, wsi_stain: Run) -> None:
    fill(disk, 5)
    ended = wsi_stain("tile", slides, "-s", disk / "not" / "there", "-j", 0, "--dry-run")
    assert ended.code == 0
    assert "WARNING: about 6.02 MB are needed, 5 MB are free in" in ended.out
