"""Tiling: the store holds the slide's own pixels, and whatever interrupts or changes, a rerun makes it whole."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.files_below import contents
from tests.support.forked import Fork
from tests.support.tiled_slides import GLASS, SIZE, SMALL, Run, paint, write
from wsi_stain.core.errors import MppError, NoTissueError, SlideError, StainError, StoreError
from wsi_stain.core.geometry import TILE, BlockIndex, Region, Size, TileIndex
from wsi_stain.slides.listing.find import SlideSource, find_slides
from wsi_stain.slides.slide import Slide, SlideConfig
from wsi_stain.store import StoredSlide
from wsi_stain.synthetic import write_slide
from wsi_stain.tiling.block import BlockTask, tile_block
from wsi_stain.tiling.config import TilingConfig
from wsi_stain.tiling.inspect import InspectTask, identify_slide, inspect_slide, probe_slide
from wsi_stain.tiling.record import make_record
from wsi_stain.tissue.config import TissueConfig
from wsi_stain.tissue.tile_quality import QUALITIES, ink_sample, ink_shares, measure_blur

DATA = Path(os.environ.get("WSI_STAIN_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SlideSource:
    return write(tmp_path_factory.mktemp("slides") / "odd.tif", paint(SIZE))


@pytest.fixture(scope="module")
def tiled_run(source: SlideSource, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(source, tmp_path_factory.mktemp("done") / "store")
    run.whole()
    return run


@pytest.fixture
def run(source: SlideSource, tmp_path: Path) -> Run:
    return Run(source, tmp_path / "store")


# What is written


def test_the_store_holds_the_slides_own_pixels(tiled_run: Run) -> None:
    stored, expected = tiled_run.stored, paint(SIZE)
    kept = stored.kept.repeat(TILE, 0).repeat(TILE, 1)[: SIZE.height, : SIZE.width]
    assert 0.2 < stored.kept.mean() < 0.9
    assert np.array_equal(stored.read(Region(0, 0, *SIZE)), np.where(kept[..., None], expected, 255))


def test_what_is_not_kept_is_glass(tiled_run: Run) -> None:
    stored = tiled_run.stored
    outside = ~stored.kept.repeat(TILE, 0).repeat(TILE, 1)[: SIZE.height, : SIZE.width]
    assert paint(SIZE)[outside].min() > 220
    assert stored.tissue[~stored.kept].max() == 0


def test_every_tile_has_its_quality(tiled_run: Run) -> None:
    stored = tiled_run.stored
    for name in QUALITIES:
        found = stored.map(name)
        assert found.dtype == np.float32
        assert np.array_equal(np.isnan(found), ~stored.kept)
    row, col = (int(index) for index in np.argwhere(stored.tissue == 1)[-1])
    pixels = stored.read_tile(TileIndex(row, col))
    assert stored.map("blur")[row, col] == pytest.approx(measure_blur(pixels, stored.mpp.mean))
    assert stored.map("pen")[row, col] == pytest.approx(ink_shares([ink_sample(pixels)])[0])
    assert stored.map("pen")[stored.kept].max() < 0.01
    assert stored.map("blur")[stored.tissue > 0.9].min() > 5 * stored.map("blur")[stored.tissue == 0][0]


def test_the_record_says_what_the_slide_is(tiled_run: Run) -> None:
    record = tiled_run.stored.record
    assert (record.slide_id, record.relative, record.size) == ("odd.tif", "odd.tif", SIZE)
    assert record.mpp == pytest.approx((0.5, 0.5), rel=1e-4)
    assert record.mpp_origin in {"openslide", "tiff tags"}
    assert record.stain is not None
    assert record.stain.white == pytest.approx(GLASS, abs=2)
    assert record.stain.pixels > 20_000


def test_receipts_are_small_and_say_what_comes_next(run: Run) -> None:
    survey = run.survey()
    assert survey["blocks"] == [[0, 0], [0, 1]]
    assert survey["size"] == list(SIZE)
    assert (survey["complete"], survey["redone_because"]) == (False, None)
    blocks = run.blocks(survey)
    assert sum(block["tiles"] for block in blocks) == survey["kept_tiles"]
    finish = run.finish(survey)
    assert finish["tiles"] == survey["kept_tiles"]
    assert all(len(pickle.dumps(receipt)) < 4096 for receipt in (survey, *blocks, finish))


def test_a_look_tells_what_tiling_would_give(run: Run) -> None:
    look = inspect_slide(InspectTask(run.source, run.config))
    assert not run.store.exists()
    survey = run.survey()
    assert (look["size"], look["size_l0"], look["mpp_origin"]) == (survey["size"], list(SIZE), survey["mpp_origin"])
    assert (look["tiles"], look["blocks"]) == (survey["kept_tiles"], len(survey["blocks"]))
    assert 0.1 < look["tissue"] < 0.3
    compressed = inspect_slide(InspectTask(run.source, TilingConfig(codec="jpeg")))
    assert compressed["bytes"] < look["bytes"] / 5 < look["tiles"] * 200_000
    assert identify_slide(InspectTask(run.source, run.config))["key"] == survey["key"]


def test_tasks_travel(run: Run) -> None:
    task = BlockTask(run.source, run.store, run.config, BlockIndex(0, 1), "key")
    assert pickle.loads(pickle.dumps(task)) == task


def test_a_resampled_slide_is_tiled_in_its_new_frame(run: Run) -> None:
    run = replace(run, config=TilingConfig(slide=SlideConfig(mpp=1.3)))
    stored = run.whole()
    assert (stored.size, stored.mpp) == (Size(1809, 347), (1.3, 1.3))
    with Slide(run.source.path, run.config.slide) as slide:
        row, col = (int(index) for index in np.argwhere(stored.kept)[-1])
        expected = slide.read(Region(col * TILE, row * TILE, TILE, TILE))
    assert np.array_equal(stored.read_tile(TileIndex(row, col)), expected)


@pytest.mark.parametrize(("mpp", "power"), [(None, 40.0), (0.5, 20.0), (0.6, 16.7)])
def test_a_resampled_slide_is_worth_less_magnification(tmp_path: Path, mpp: float | None, power: float) -> None:
    write_slide(tmp_path / "a.svs", paint(SMALL), 0.25, 40, style="svs")
    (source,) = find_slides([tmp_path])
    stored = Run(source, tmp_path / "store", TilingConfig(slide=SlideConfig(mpp=mpp))).whole()
    assert stored.record.objective_power == power


# Doing it again


def test_nothing_is_done_twice(run: Run) -> None:
    survey = run.survey()
    blocks = run.blocks(survey)
    before = {path: path.stat().st_mtime_ns for path in run.store.rglob("*")}
    assert run.survey() == survey
    assert run.blocks(survey) == blocks
    assert {path: path.stat().st_mtime_ns for path in run.store.rglob("*")} == before


def test_a_complete_slide_is_left_alone(tiled_run: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiled_run.store.rglob("*")}
    survey = tiled_run.survey()
    assert (survey["complete"], survey["redone_because"]) == (True, None)
    assert survey["blocks"] == [[0, 0], [0, 1]]
    assert all(receipt["product"] is None for receipt in tiled_run.blocks(survey))
    assert tiled_run.finish(survey) == tiled_run.finish(survey)
    assert {path: path.stat().st_mtime_ns for path in tiled_run.store.rglob("*")} == before


def test_a_complete_slide_that_lost_a_folder_is_made_again(run: Run) -> None:
    stored = run.whole()
    before = contents(stored.path)
    for name in ("maps/blur", "exempt"):
        shutil.rmtree(stored.path / name)
        assert "damaged" in str(run.survey()["redone_because"]), name
        run.whole()
        assert contents(stored.path) == before


def tile_in_process(run: Run, failpoint: str) -> int:
    """Tile the slide in a process of its own that may be killed on the way."""
    return Fork(Run.whole, run, WSI_STAIN_FAILPOINT=failpoint).wait().code


@pytest.mark.parametrize("visit", [1, 2, 16, 17, 18, 21, 26])
def test_a_run_killed_anywhere_resumes_to_the_same_bytes(run: Run, tiled_run: Run, visit: int) -> None:
    """Visits 1 to 17 lie in the survey, then shards and receipts, then the quality maps; 26 is the mark."""
    assert tile_in_process(run, f"before-rename:{visit}") == -signal.SIGKILL
    if (run.store / "zarr.json").exists():
        assert run.ids == []
    run.whole()
    assert contents(run.stored.path) == contents(tiled_run.stored.path)


def test_the_killed_visits_are_all_there_are(run: Run) -> None:
    assert tile_in_process(run, "before-rename:26") == -signal.SIGKILL
    run = replace(run, store=run.store.with_name("another"))
    assert tile_in_process(run, "before-rename:27") == 0


@pytest.mark.parametrize("stop", ["survey", "blocks", "finish"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("settings", "the settings changed"),
        ("source", "the source file changed"),
        ("resolution", "the settings changed"),
    ],
)
def test_a_change_makes_the_slide_anew_and_says_why(tmp_path: Path, stop: str, change: str, reason: str) -> None:
    run = Run(write(tmp_path / "a.tif", paint(SMALL)), tmp_path / "store")
    survey = run.survey()
    if stop != "survey":
        run.blocks(survey)
    if stop == "finish":
        run.finish(survey)
    if change == "settings":
        run = replace(run, config=TilingConfig(tissue=TissueConfig(smoothing_um=20)))
    elif change == "resolution":
        run = replace(run, source=run.source.model_copy(update={"mpp": 0.4}))
    else:
        write(tmp_path / "a.tif", paint(SMALL, seed=1))
    again = run.survey()
    assert again["redone_because"] == reason
    assert again["key"] != survey["key"]
    assert run.ids == []
    assert not (run.store / "a.tif" / "0" / "c").exists()
    fresh = replace(run, store=tmp_path / "fresh")
    run.whole()
    fresh.whole()
    assert contents(run.store) == contents(fresh.store)


def test_a_damaged_record_is_made_anew(run: Run, tiled_run: Run) -> None:
    metadata = run.whole().path / "zarr.json"
    metadata.write_text(metadata.read_text().replace('"settings_key"', '"settings"'))
    assert run.survey()["redone_because"] == "its record was damaged"
    run.whole()
    assert contents(run.store) == contents(tiled_run.store)


@pytest.mark.parametrize("torn", ["0/c/0/0/0", "thumbnail/c/0/0/0", "maps/zarr.json"])
def test_a_slide_with_a_torn_file_is_tiled_again(run: Run, tiled_run: Run, torn: str) -> None:
    os.truncate(run.whole().path / torn, 100)
    assert "a file of it was damaged" in (run.survey()["redone_because"] or "")
    run.whole()
    assert contents(run.store) == contents(tiled_run.store)


@pytest.mark.parametrize("lost", ["maps/kept/zarr.json", "maps/zarr.json", "mask/c/0/0", "0/c/0/0/0"])
def test_a_killed_slide_that_lost_a_file_is_made_again(began: Run, tmp_path: Path, lost: str) -> None:
    again = replace(began, store=tmp_path / "again")
    shutil.copytree(began.store, again.store)
    (again.store / "a.tif" / lost).unlink()
    survey = again.survey()
    assert survey["redone_because"] == (None if lost.startswith("0/c") else "a file of it was damaged")
    again.blocks(survey)
    again.finish(survey)
    whole = replace(began, store=tmp_path / "whole")
    assert contents(again.stored.path) == contents(whole.whole().path)


@pytest.fixture(scope="module")
def began(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A slide of one block whose tiling was killed amid its quality maps."""
    folder = tmp_path_factory.mktemp("began")
    run = Run(write(folder / "a.tif", paint(SMALL)), folder / "store")
    assert tile_in_process(run, "before-rename:21") == -signal.SIGKILL
    return run


@pytest.mark.slow
@pytest.mark.parametrize("visit", [18, 20, 24, 25])
def test_a_slide_that_lost_any_file_is_made_again_however_far_it_was(tmp_path: Path, visit: int) -> None:
    """Killed before its shard, its quality maps, its mark, or whole: each of its files is deleted, then cut to half."""
    done, began = (Run(write(tmp_path / "a.tif", paint(SMALL)), tmp_path / name) for name in ("done", "began"))
    expected = contents(done.whole().path)
    assert tile_in_process(began, f"before-rename:{visit}") == (0 if visit == 25 else -signal.SIGKILL)
    for name, content in contents(began.store / "a.tif").items():
        for size in (None, len(content) // 2):
            again = replace(began, store=tmp_path / "again")
            shutil.copytree(began.store, again.store)
            if size is None:
                (again.store / "a.tif" / name).unlink()
            else:
                os.truncate(again.store / "a.tif" / name, size)
            assert contents(again.whole().path) == expected, (name, size)
            shutil.rmtree(again.store)


def test_the_slide_list_has_the_last_word_on_resolution(run: Run) -> None:
    run = replace(run, source=run.source.model_copy(update={"mpp": 0.4}))
    survey = run.survey()
    assert (survey["mpp"], survey["mpp_origin"]) == ([0.4, 0.4], "slide list")


def test_new_labels_need_no_new_tiles(run: Run) -> None:
    first = run.whole().record
    shards = {path: path.stat().st_mtime_ns for path in (run.store / "odd.tif" / "0").rglob("*")}
    run = replace(run, source=run.source.model_copy(update={"patient": "P7", "group": "north"}))
    second = run.whole().record
    assert second == first.model_copy(update={"patient": "P7", "group": "north"})
    assert {path: path.stat().st_mtime_ns for path in (run.store / "odd.tif" / "0").rglob("*")} == shards


# Slides that cannot be tiled


def test_a_slide_without_tissue_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    run = Run(write(tmp_path / "blank.tif", np.full((900, 1400, 3), 241, np.uint8)), tmp_path / "store")
    with pytest.raises(NoTissueError, match=r"No tissue was found on blank\.tif"):
        run.survey()
    assert not (run.store / "blank.tif").exists()


def test_a_slide_that_lost_its_tissue_no_longer_exists(tmp_path: Path) -> None:
    run = Run(write(tmp_path / "a.tif", paint(SMALL)), tmp_path / "store")
    run.whole()
    write(tmp_path / "a.tif", np.full((905, 1503, 3), 241, np.uint8))
    with pytest.raises(NoTissueError):
        run.survey()
    assert run.ids == []


def test_a_slide_that_is_not_he_is_never_complete(tmp_path: Path) -> None:
    brown = 255 * np.exp(np.log((paint(SMALL)[..., 1:2] + 1.0) / 256) * (0.27, 0.57, 0.78))
    run = Run(write(tmp_path / "dab.tif", brown.astype(np.uint8)), tmp_path / "store")
    with pytest.raises(StainError):
        run.whole()
    assert run.ids == []


def test_another_codec_tiles_again_and_stays_close(tmp_path: Path) -> None:
    run = Run(write(tmp_path / "a.tif", paint(SMALL)), tmp_path / "store")
    lossless = run.whole().read(Region(0, 0, *SMALL))
    again = replace(run, config=TilingConfig(codec="jpeg"))
    assert again.survey()["redone_because"] == "the settings changed"
    stored = again.whole()
    error = stored.read(Region(0, 0, *SMALL)).astype(float) - lossless
    assert stored.codec.name == "jpeg"
    assert 0 < np.abs(error).mean() < 3


def test_a_slide_without_a_resolution_is_refused(tmp_path: Path) -> None:
    run = Run(write(tmp_path / "a.tif", paint(Size(700, 500)), mpp=None), tmp_path / "store")
    with pytest.raises(MppError, match="mpp"):
        run.survey()


def test_a_source_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    run = Run(write(tmp_path / "a.tif", paint(SMALL)), tmp_path / "store")
    survey = run.survey()
    run.blocks(survey)
    write(tmp_path / "a.tif", paint(SMALL, seed=1))
    with pytest.raises(SlideError, match="no longer what its survey saw"):
        run.finish(survey)
    assert run.ids == []


def test_a_slide_that_lacks_a_block_is_never_complete(run: Run) -> None:
    survey = run.survey()
    run.blocks({**survey, "blocks": survey["blocks"][:1]})
    with pytest.raises(StoreError, match="1 of 2 shards are missing"):
        run.finish(survey)
    assert run.ids == []


def test_workers_of_tiling_never_import_torch() -> None:
    code = "import sys, wsi_stain.tiling.tasks; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# Real slides


@pytest.mark.parametrize("name", ["AT2_gastric_metaplasia.svs", "NanoZoomer_EO1_cropA.svs"])
def test_a_real_slide_is_tiled(tmp_path: Path, name: str) -> None:
    path = DATA / "slides" / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    (source,) = find_slides([path])
    run = Run(source, tmp_path / "store")
    survey = run.survey()
    block = BlockIndex(*survey["blocks"][-1])
    tile_block(BlockTask(source, run.store, run.config, block, survey["key"]))
    stored = StoredSlide(run.store / source.slide_id, _record(run))
    region = Region(block.col * 4096, block.row * 4096, 4096, 4096)
    with Slide(path) as slide:
        expected = slide.read(region)
    tiles = stored.kept[block.row * 16 :, block.col * 16 :][:16, :16]
    kept = np.zeros((16, 16), bool)
    kept[: tiles.shape[0], : tiles.shape[1]] = tiles
    assert np.array_equal(stored.read(region), np.where(kept.repeat(256, 0).repeat(256, 1)[..., None], expected, 255))


def _record(run: Run) -> Any:
    with Slide(run.source.path) as slide:
        return make_record(slide, run.source, run.config)


# A user's own mask


def test_a_changed_mask_makes_the_tiles_anew_and_a_missing_one_is_told_at_once(run: Run, tmp_path: Path) -> None:
    own = np.zeros((90, 470), np.uint8)
    own[20:60, 60:120] = 255
    path = tmp_path / "odd.png"
    Image.fromarray(own).save(path)
    run = replace(run, source=run.source.model_copy(update={"mask": path}))
    first = run.whole()
    assert first.tissue[~first.kept].max() == 0
    assert first.tissue.sum() == pytest.approx(own.mean() / 255 * SIZE.width * SIZE.height / TILE**2, rel=0.02)
    assert run.survey()["complete"]
    own[40:60] = 0
    Image.fromarray(own).save(path)
    survey = run.survey()
    assert (survey["complete"], survey["redone_because"]) == (False, "the settings changed")
    path.unlink()
    for task in (probe_slide, identify_slide, inspect_slide):
        with pytest.raises(SlideError, match=r"expected odd.png, odd.geojson, odd.json"):
            task(InspectTask(run.source, run.config))


def test_pale_tissue_that_a_mask_leaves_out_is_not_taken_for_glass(tmp_path: Path) -> None:
    pixels = paint(SMALL).copy()
    pixels[:, 900:] = np.random.default_rng(0).normal((226, 206, 221), 3, (SMALL.height, 603, 3)).round()
    source = write(tmp_path / "pale.tif", pixels)
    own = np.zeros((90, 150), np.uint8)
    own[20:60, 50:85] = 255
    Image.fromarray(own).save(tmp_path / "pale.png")
    masked = source.model_copy(update={"mask": tmp_path / "pale.png"})
    stain = Run(masked, tmp_path / "store").whole().record.stain
    assert stain is not None
    assert stain.white == pytest.approx(GLASS, abs=3)
