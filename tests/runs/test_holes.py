"""Damaged slides: a tile that cannot be read shows a coarser level, is counted and listed, and costs only itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from tests.support.files_below import contents
from tests.support.slide_files import Jpeg, shrink, write_jpeg_slide
from tests.support.tiled_slides import SMALL, Run, paint
from wsi_stain.core.errors import SlideError, StoreError, UnreadableError
from wsi_stain.core.geometry import TILE, BlockIndex, Region, TileIndex
from wsi_stain.slides.levels import own_pixels
from wsi_stain.slides.listing.find import SlideSource
from wsi_stain.slides.slide import Slide, SlideConfig
from wsi_stain.tiling.config import TilingConfig

JPEG = Jpeg((240, 240), "YCBCR", "420", aperio=True)
COLUMNS = 7
"""Of 240 px tiles on a slide of SMALL."""
BOGUS = b"\xff\xd8\xff\xc5bogus"
SPOILT = [(1, 3), (1, 4), (2, 2)]
"""(row, column) of 240 px tiles in the tissue."""


def slide_file(path: Path, spoilt: dict[tuple[int, int, int], bytes], levels: int = 2) -> SlideSource:
    """A slide of SMALL with some of its JPEG tiles, by level, row and column, replaced by other bytes."""
    pixels = paint(SMALL)
    pyramid = [pixels, shrink(pixels, 4, "ceil")][:levels]
    columns = [COLUMNS, 2]
    places = {(level, row * columns[level] + col): content for (level, row, col), content in spoilt.items()}
    write_jpeg_slide(path, pyramid, JPEG, mpp=0.5, spoilt=places)
    return SlideSource(path=path, slide_id=path.name, relative=path.name)


def count_touched(kept: NDArray[np.bool_], spoilt: list[tuple[int, int]]) -> set[tuple[int, int]]:
    """The kept 256 px tiles that the 240 px tiles reach into."""
    pixels = np.zeros((SMALL.height, SMALL.width), bool)
    for row, col in spoilt:
        pixels[row * 240 :, col * 240 :][:240, :240] = True
    ys, xs = np.nonzero(pixels)
    return {tile for tile in zip((ys // TILE).tolist(), (xs // TILE).tolist(), strict=True) if kept[tile]}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("sound")
    run = Run(slide_file(folder / "sound.svs", {}), folder / "sound", TilingConfig(max_holes=1))
    run.whole()
    return run


def write_damaged_slide(tmp_path: Path, spoilt: dict[tuple[int, int, int], bytes], **options: Any) -> Run:
    source = slide_file(tmp_path / "damaged.svs", spoilt, **options)
    return Run(source, tmp_path / "damaged", TilingConfig(max_holes=1))


@pytest.fixture(params=["the file's own tiles", "OpenSlide"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "OpenSlide":
        monkeypatch.setattr(own_pixels, "simplejpeg", None)
    return str(request.param)


def test_what_cannot_be_read_shows_the_coarser_level_and_is_listed(tmp_path: Path, sound: Run, reader: str) -> None:
    run = write_damaged_slide(tmp_path, {(0, row, col): BOGUS for row, col in SPOILT})
    survey = run.survey()
    receipts = run.blocks(survey)
    finish = run.finish(survey)
    stored, expected = run.stored, count_touched(run.stored.kept, SPOILT)
    listed = {(row, col) for receipt in receipts for row, col in receipt["holes"]}
    assert listed == {(int(row), int(col)) for row, col in np.argwhere(stored.map("holes"))} == expected
    assert stored.record.holes == finish["holes"] == len(expected) > 4
    assert np.array_equal(stored.kept, sound.stored.kept)
    for row, col in np.argwhere(stored.kept).tolist():
        tile, whole = TileIndex(row, col), sound.stored.read_tile(TileIndex(row, col))
        assert ((row, col) in expected) == (not np.array_equal(stored.read_tile(tile), whole))


def test_what_stands_in_is_at_its_place(tmp_path: Path, sound: Run, reader: str) -> None:
    """It is the source blurred, and fits it best where it stands: not a pixel to either side."""
    with Slide(write_damaged_slide(tmp_path, {(0, 1, 3): BOGUS}).source.path) as slide:
        pixels, holes = slide.read_repaired(Region(720, 240, 240, 240))
    assert holes
    truth = ndimage.gaussian_filter(paint(SMALL).astype(float), (2, 2, 0))
    error = {
        (dy, dx): float(np.abs(pixels - truth[240 + dy : 480 + dy, 720 + dx : 960 + dx]).mean())
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    }
    assert min(error, key=lambda shift: error[shift]) == (0, 0)
    flat = np.abs(truth - truth.mean(axis=(0, 1)))[240:480, 720:960].mean()
    assert error[0, 0] < flat / 4


def test_pixels_beside_a_hole_are_the_files_own(tmp_path: Path, sound: Run, reader: str) -> None:
    region = Region(600, 120, 500, 500)
    run = write_damaged_slide(tmp_path, {(0, 1, 3): BOGUS})
    with Slide(run.source.path) as slide, Slide(sound.source.path) as other:
        pixels, _ = slide.read_repaired(region)
        whole = other.read(region)
        with pytest.raises(UnreadableError):
            slide.read(region)
    differs = (pixels != whole).any(axis=2)
    assert differs[120:360, 120:360].mean() > 0.9
    differs[120:360, 120:360] = False
    assert not differs.any()


def test_without_a_coarser_level_a_hole_is_background(tmp_path: Path, reader: str) -> None:
    for spoilt, levels in (({(0, 1, 3): BOGUS}, 1), ({(0, 1, 3): BOGUS, (1, 0, 0): BOGUS}, 2)):
        with Slide(write_damaged_slide(tmp_path, spoilt, levels=levels).source.path) as slide:
            pixels, holes = slide.read_repaired(Region(720, 240, 240, 240))
        assert holes and (pixels == 255).all()


def test_a_slide_of_one_level_is_surveyed_in_spite_of_holes(tmp_path: Path, reader: str) -> None:
    run = write_damaged_slide(tmp_path, {(0, 1, 3): BOGUS}, levels=1)
    stored = run.whole()
    assert stored.record.holes == 4
    assert (stored.thumbnail.std(axis=(0, 1)) > 10).all()


def test_a_resampled_slide_has_its_holes_too(tmp_path: Path, reader: str) -> None:
    run = write_damaged_slide(tmp_path, {(0, 1, 3): BOGUS})
    with Slide(run.source.path, SlideConfig(mpp=0.7)) as slide:
        assert slide.read_repaired(Region(540, 200, 50, 50))[1]
        assert not slide.read_repaired(Region(0, 0, 400, 100))[1]


def test_a_tile_that_an_aperio_file_lacks_is_a_hole(tmp_path: Path, sound: Run, reader: str) -> None:
    stored = write_damaged_slide(tmp_path, {(0, row, col): b"" for row, col in SPOILT}).whole()
    assert stored.record.holes == len(count_touched(stored.kept, SPOILT))
    tile, row, col = stored.read_tile(TileIndex(1, 3)), *SPOILT[0]
    assert (row, col) == (1, 3) and tile.std() > 10


def test_too_many_holes_fail_the_slide_and_are_tried_again(tmp_path: Path) -> None:
    run = write_damaged_slide(tmp_path, {(0, row, col): BOGUS for row, col in SPOILT})
    strict = replace(run, config=TilingConfig(max_holes=0.1))
    survey = strict.survey()
    strict.blocks(survey)
    with pytest.raises(
        UnreadableError, match=r"\d+ of \d+ tiles of damaged.svs cannot be read, expected at most 10.0%"
    ):
        strict.finish(survey)
    assert strict.ids == []
    shard = strict.store / "damaged.svs" / "0" / "c" / "0" / "0" / "0"
    before = shard.stat().st_mtime_ns
    with pytest.raises(StoreError, match="1 of 1 shards are missing"):
        strict.finish(survey)
    assert run.survey()["key"] == survey["key"], "how many holes are borne decides nothing about the pixels"
    run.whole()
    assert shard.stat().st_mtime_ns > before
    fresh = replace(run, store=tmp_path / "fresh")
    fresh.whole()
    assert contents(fresh.store) == contents(run.store)


def test_a_slide_of_which_most_cannot_be_read_fails(tmp_path: Path, reader: str) -> None:
    everything = {(0, row, col): BOGUS for row in range(4) for col in range(COLUMNS)}
    run = write_damaged_slide(tmp_path, everything, levels=1)
    with pytest.raises(UnreadableError, match=r"Most of .* cannot be read"):
        run.survey()


def test_a_file_that_vanished_is_no_hole(tmp_path: Path) -> None:
    run = write_damaged_slide(tmp_path, {(0, 1, 3): BOGUS})
    with Slide(run.source.path) as slide:
        run.source.path.unlink()
        with pytest.raises(SlideError, match="cannot be opened") as caught:
            slide.read_repaired(Region(720, 240, 240, 240))
    assert not isinstance(caught.value, UnreadableError)


def test_a_finished_slide_with_holes_says_so_in_its_row(tmp_path: Path, sound: Run) -> None:
    from pipelines.normalization.rows import finished_row
    from pipelines.run_directory.slide_outputs import SlideOutputs  # torch stays out of the other tests

    run, outputs = (
        write_damaged_slide(tmp_path, {(0, 1, 3): BOGUS}),
        SlideOutputs(tmp_path, tmp_path, PurePosixPath("a"), ["ome-tiff"], "key"),
    )
    write_jpeg_slide(outputs.tiff.path, [paint(SMALL)], JPEG)
    slide = run.whole()
    row = finished_row(slide, run.source, outputs, slide.record.holes, 1.0)
    assert row.status == "done-with-holes" and row.remedy
    assert row.reason == f"4 of {row.tiles} tiles cannot be read and show a coarser level"
    row = finished_row(sound.stored, sound.source, outputs, 0, 1.0)
    assert (row.status, row.reason, row.remedy) == ("done", "", "")


def test_sound_slides_have_no_map_of_holes(sound: Run) -> None:
    assert sound.stored.record.holes == 0
    assert not (sound.stored.path / "maps" / "holes").exists()
    assert BlockIndex(0, 0) in sound.stored.grid.blocks()
