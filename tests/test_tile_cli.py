"""The command `tile`: what it says and how it ends, slide by slide."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Run

from wsi_stain.geometry import Size
from wsi_stain.store import TileStore
from wsi_stain.synthetic import LABORATORIES, stain_tissue, write_slide
from wsi_stain.synthetic_tissue import render_tissue


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
