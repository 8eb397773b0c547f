"""The command `tile`: what it says and how it ends, slide by slide; and whatever stops it, a rerun mends."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.commands import Run
from tests.support.files_below import contents
from tests.support.forked import fork_command
from tests.support.slide_files import Jpeg, write_jpeg_slide
from tests.support.slide_files import write_slide as write_lossless
from tests.support.tiled_slides import SIZE, SMALL, paint
from wsi_stain.core.geometry import Size
from wsi_stain.store import TileStore
from wsi_stain.synthetic import LABORATORIES, stain_tissue, write_slide
from wsi_stain.synthetic.tissue import render_tissue


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    """One of tissue, one of glass, and, last by name, one that does not say its resolution."""
    folder = tmp_path / "slides"
    folder.mkdir()
    tissue = render_tissue(Size(601, 433), 0.25, 5)
    for name, amount, mpp in (("a.tif", tissue, 0.25), ("b.tif", tissue * 0, 0.25), ("c.tif", tissue, None)):
        write_slide(folder / name, stain_tissue(amount, LABORATORIES["other"], 5), mpp, 40)
    return folder


def test_what_cannot_be_used_is_told_before_any_work_and_glass_is_no_failure(
    slides: Path, wsi_stain: Run, tmp_path: Path
) -> None:
    ended = wsi_stain("tile", slides, "-s", tmp_path / "tiles.zarr", "-c", "small", "-j", 0)
    assert ended.code == 3
    assert 0 <= ended.out.index("--slide-mpp") < ended.out.index("No tissue was found on b.tif")
    assert "1 of 3 slides tiled" in ended.out
    assert "1 without tissue, 1 failed" in ended.out
    assert TileStore(tmp_path / "tiles.zarr").slide_ids() == ["a.tif"]


def test_slides_without_tissue_alone_end_well(slides: Path, wsi_stain: Run, tmp_path: Path) -> None:
    ended = wsi_stain("tile", slides / "b.tif", "-s", tmp_path / "tiles.zarr", "-c", "small", "-j", 0)
    assert (ended.code, "0 of 1 slides tiled" in ended.out) == (0, True)


def test_why_a_slide_is_done_again_is_told(slides: Path, wsi_stain: Run, tmp_path: Path) -> None:
    command = ("tile", slides / "a.tif", "-s", tmp_path / "tiles.zarr", "-c", "small", "-j", 0)
    assert "tiled again" not in wsi_stain(*command).out
    assert "tiled again" not in wsi_stain(*command).out
    assert "a.tif: tiled again, because the settings changed" in wsi_stain(*command, "--mpp", 0.5).out


def test_doubts_about_a_resolution_are_told(slides: Path, wsi_stain: Run, tmp_path: Path) -> None:
    command = ("tile", slides / "a.tif", "-s", tmp_path / "tiles.zarr", "-c", "small", "-j", 0)
    assert "a.tif: 0.5 um/px was given" in wsi_stain(*command, "--slide-mpp", 0.5).out


def tile(slides: Path, store: Path, workers: int = 0, failpoint: str = "") -> int:
    command = ("tile", slides, "--store", store, "-j", workers)
    return fork_command(*command, WSI_STAIN_FAILPOINT=failpoint).wait().code


def test_killed_while_tiling_and_run_again_by_two_workers_gives_the_same_bytes(tmp_path: Path) -> None:
    """One slide of two blocks as JPEG, one of one block without loss; the kill comes after the first shard."""
    slides = tmp_path / "slides"
    slides.mkdir()
    write_jpeg_slide(slides / "a.svs", [paint(SIZE)], Jpeg((240, 240), aperio=True), mpp=0.5)
    write_lossless(slides / "b.tif", [paint(SMALL, seed=1)], mpp=0.5)
    assert tile(slides, tmp_path / "undisturbed") == 0
    assert tile(slides, tmp_path / "store", failpoint="before-rename:21") == -9
    assert TileStore(tmp_path / "store").slide_ids() == []
    assert len(list((tmp_path / "store").rglob("shard-*.json"))) == 1
    assert tile(slides, tmp_path / "store", workers=2) == 0
    assert contents(tmp_path / "store") == contents(tmp_path / "undisturbed")


def test_holes_are_told_and_too_many_are_a_failure(wsi_stain: Run, tmp_path: Path) -> None:
    jpeg, spoilt = Jpeg((240, 240), aperio=True), {(0, 10): b"no JPEG"}
    slide = write_jpeg_slide(tmp_path / "a.svs", [paint(SMALL)], jpeg, mpp=0.5, spoilt=spoilt)
    config = tmp_path / "c.yaml"
    config.write_text("tiling: {max_holes: 0.5}")
    ended = wsi_stain("tile", slide, "--store", tmp_path / "store", "-j", 0, "-c", config)
    assert ended.code == 0
    assert "a.svs: 4 of" in ended.out + ended.err and "cannot be read and show a coarser level" in ended.out + ended.err
    ended = wsi_stain("tile", slide, "--store", tmp_path / "strict", "-j", 0)
    assert ended.code == 3
    assert "expected at most 5.0%" in ended.out + ended.err and "tiling.max_holes" in ended.out + ended.err
