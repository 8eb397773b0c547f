"""Which tiles train, which are held out, and what the batches hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.made_store import paint_tissue, store_slide
from wsi_stain.core.errors import TrainingError
from wsi_stain.core.geometry import TILE, Size, TileIndex, grid_shape
from wsi_stain.store import StoredSlide, TileStore
from wsi_stain.training.samples import (
    Sample,
    TilePixels,
    TileRef,
    check_resolution,
    draw_samples,
    load_batches,
    read_shrunk,
    split_tiles,
    thin_out,
    tissue_tiles,
)

SIZE = Size(2700, 1100)  # 5 x 11 tiles; the last row and column are cut
ROWS, COLS = grid_shape(SIZE)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> StoredSlide:
    tissue = np.ones((ROWS, COLS), np.float32)
    tissue[0] = 0.2
    tissue[1, :2] = 0
    return store_slide(tmp_path_factory.mktemp("dataset"), "a", paint_tissue(SIZE), tissue)


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> list[StoredSlide]:
    root = tmp_path_factory.mktemp("slides")
    return [store_slide(root, f"s{i}", paint_tissue(Size(600, 800), i)) for i in range(4)]


def test_only_whole_tiles_with_enough_tissue(slide: StoredSlide) -> None:
    found = {ref.tile for ref in tissue_tiles([slide], 0.5)}
    assert found == {
        TileIndex(row, col) for row in range(1, 4) for col in range(10) if (row, col) not in {(1, 0), (1, 1)}
    }


def test_inked_and_blurred_tiles_are_left_out_where_that_is_known(tmp_path: Path) -> None:
    slide = store_slide(tmp_path, "marked", paint_tissue(Size(600, 800)))
    everything = {ref.tile for ref in tissue_tiles([slide], 0.5, max_pen=0.1, min_blur=50)}
    assert everything == {TileIndex(row, col) for row in range(3) for col in range(2)}
    writer = TileStore(tmp_path).writer("marked")
    pen, blur = np.zeros((4, 3), np.float32), np.full((4, 3), 200, np.float32)
    pen[0, 0], pen[0, 1], blur[2, 1] = 0.11, 0.1, 49
    writer.write_map("pen", pen)
    writer.write_map("blur", blur)
    assert {ref.tile for ref in tissue_tiles([slide], 0.5, max_pen=0.1, min_blur=50)} == everything - {(0, 0), (2, 1)}
    assert {ref.tile for ref in tissue_tiles([slide], 0.5)} == everything
    with pytest.raises(TrainingError, match="blur of at least 300"):
        tissue_tiles([slide], 0.5, min_blur=300)


def test_nothing_to_train_on_is_refused(slide: StoredSlide) -> None:
    with pytest.raises(TrainingError, match="best has 100%"):
        tissue_tiles([slide], 1.1)


@pytest.mark.parametrize("others", [[0.25, 0.28], [0.25, 0.26, 0.22]])
def test_similar_resolutions_train_together(tmp_path: Path, others: list[float]) -> None:
    check_resolution(
        [store_slide(tmp_path, f"s{i}", paint_tissue(Size(300, 300)), mpp=mpp) for i, mpp in enumerate(others)][:2]
    )


def test_mixed_resolutions_are_refused(tmp_path: Path) -> None:
    mixed = [store_slide(tmp_path, f"s{i}", paint_tissue(Size(300, 300)), mpp=mpp) for i, mpp in enumerate([0.5, 0.25])]
    with pytest.raises(TrainingError, match=r"s1 has 0.25.*s0 has 0.5.*--mpp 0.5"):
        check_resolution(mixed)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_one_slide_is_split_by_region_with_a_guard(slide: StoredSlide, share: float) -> None:
    tiles = tissue_tiles([slide], 0.5)
    split = split_tiles(tiles, [slide], share)
    gap = min(ref.tile.col for ref in split.held_out) - max(ref.tile.col for ref in split.training)
    assert gap >= 2
    assert set(split.training) | set(split.held_out) < set(tiles)
    assert 0.5 * share < len(split.held_out) / len(tiles) < 1.5 * share + 0.1


def test_both_of_two_slides_are_split(slides: list[StoredSlide]) -> None:
    tiles = tissue_tiles(slides[:2], 0.5)
    split = split_tiles(tiles, slides[:2], 0.3)
    assert {ref.slide for ref in split.held_out} == {ref.slide for ref in split.training} == {0, 1}


def test_many_slides_are_split_by_slide(slides: list[StoredSlide]) -> None:
    split = split_tiles(tissue_tiles(slides, 0.5), slides, 0.2)
    held, kept = {ref.slide for ref in split.held_out}, {ref.slide for ref in split.training}
    assert len(held) == 1
    assert held | kept == {0, 1, 2, 3}
    assert not held & kept


def relabel(slide: StoredSlide, **labels: str) -> StoredSlide:
    return StoredSlide(slide.path, slide.record.model_copy(update=labels))


def test_slides_of_one_patient_stay_together(slides: list[StoredSlide]) -> None:
    owned = [relabel(slide, patient="a" if index < 2 else str(index)) for index, slide in enumerate(slides)]
    for share in (0.2, 0.5, 0.9):
        split = split_tiles(tissue_tiles(owned, 0.5), owned, share)
        held, kept = {ref.slide for ref in split.held_out}, {ref.slide for ref in split.training}
        assert held
        assert kept
        assert not held & kept
        assert ({0, 1} & held) in (set(), {0, 1})


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_what_a_slide_list_sets_aside_is_held_out(slides: list[StoredSlide], share: float) -> None:
    listed = [relabel(slide, split="val" if index == 2 else "train") for index, slide in enumerate(slides)]
    split = split_tiles(tissue_tiles(listed, 0.5), listed, share)
    assert {ref.slide for ref in split.held_out} == {2}
    assert {ref.slide for ref in split.training} == {0, 1, 3}


def test_too_little_tissue_holds_nothing_out(slide: StoredSlide) -> None:
    tiles = [TileRef(0, TileIndex(1, 3)), TileRef(0, TileIndex(1, 4))]
    assert split_tiles(tiles, [slide], 0.3) == (tiles, [])


def test_thinning_is_scattered_and_nested(slide: StoredSlide) -> None:
    tiles = tissue_tiles([slide], 0.5)
    few, more = thin_out(tiles, [slide], 6), thin_out(tiles, [slide], 12)
    assert len(few) == 6
    assert set(few) < set(more) < set(tiles)
    assert len({ref.tile.col for ref in few}) > 3
    assert thin_out(tiles, [slide], 1000) == tiles


@pytest.mark.parametrize(("tiles", "count", "crop"), [(7, 30, 96), (50, 20, 256)])
def test_samples_use_every_tile_equally_often(tiles: int, count: int, crop: int) -> None:
    samples = draw_samples(np.random.default_rng(1), [range(tiles)], count, crop)
    times = np.bincount([sample.tile for sample in samples], minlength=tiles)
    assert len(samples) == count
    assert times.max() - times.min() <= 1
    assert max(max(sample.row, sample.col) for sample in samples) <= TILE - crop


def test_slides_count_equally_whatever_their_size() -> None:
    samples = draw_samples(np.random.default_rng(3), [range(100), [100, 101], range(102, 110)], 61, 96)
    times = np.bincount([sample.tile for sample in samples], minlength=110)
    of_slides = [times[:100].sum(), times[100:102].sum(), times[102:].sum()]
    assert sorted(of_slides) == [20, 20, 21]
    assert times[:100].max() == 1
    assert times[100:102].min() >= 10


@pytest.mark.parametrize("cache", [0, 100], ids=["read when needed", "held"])
def test_batches_hold_the_crops_in_order(slide: StoredSlide, cache: int) -> None:
    tiles = tissue_tiles([slide], 0.5)
    samples = draw_samples(np.random.default_rng(2), [range(len(tiles))], 21, 96)
    batches = list(load_batches(TilePixels([slide], tiles, cache), samples, 4, 96, lambda batch: batch))
    assert [len(batch.samples) for batch in batches] == [4, 4, 4, 4, 4, 1]
    assert [sample for batch in batches for sample in batch.samples] == samples
    whole = paint_tissue(SIZE)
    for batch in batches:
        for sample, crop in zip(batch.samples, batch.pixels.numpy(), strict=True):
            tile = tiles[sample.tile].tile
            y, x = tile.row * TILE + sample.row, tile.col * TILE + sample.col
            expected = np.rot90(whole[y : y + 96, x : x + 96], sample.turn % 4)
            assert np.array_equal(crop, expected[:, ::-1] if sample.turn >= 4 else expected)


def test_the_eight_orientations_differ(slide: StoredSlide) -> None:
    source = TilePixels([slide], tissue_tiles([slide], 0.5), 100)
    samples = [Sample(tile=3, row=0, col=9, turn=turn, lab=0.0, jitter=0) for turn in range(8)]
    (batch,) = load_batches(source, samples, 8, 128, lambda batch: batch)
    assert len({crop.tobytes() for crop in batch.pixels.numpy()}) == 8


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_shrunk_tiles_are_means_around_their_middle(slide: StoredSlide, factor: int) -> None:
    tile = TileIndex(1, 3)
    side, margin = TILE * factor, TILE * (factor - 1) // 2
    whole = np.pad(paint_tissue(SIZE), ((1024, 1024), (1024, 1024), (0, 0)), constant_values=255)
    top, left = tile.row * TILE + 1024 - margin, tile.col * TILE + 1024 - margin
    around = np.where(slide_mask(slide)[..., None], whole, 255)[top : top + side, left : left + side]
    means = around.reshape(TILE, factor, TILE, factor, 3).mean(axis=(1, 3))
    np.testing.assert_array_equal(read_shrunk(slide, tile, factor), np.floor(means + 0.5))


def slide_mask(slide: StoredSlide) -> NDArray[np.bool_]:
    """Pixels of the store's tiles, with 1024 px around the slide."""
    kept = np.kron(slide.kept, np.ones((TILE, TILE), bool))[: SIZE.height, : SIZE.width]
    return np.pad(kept, 1024)


@pytest.mark.parametrize(("shrink", "band"), [(1, 2), (2, 2), (4, 4)])
def test_what_is_seen_of_held_out_tiles_is_never_trained_on(slide: StoredSlide, shrink: int, band: int) -> None:
    split = split_tiles(tissue_tiles([slide], 0.1), [slide], 0.3, shrink)
    assert min(ref.tile.col for ref in split.held_out) - max(ref.tile.col for ref in split.training) == band
