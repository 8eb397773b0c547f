"""Tasks do their work once, put every pixel in its place, and fade tissue into white without an outline."""

from __future__ import annotations

import pickle
import threading
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from tests.support.forked import Fork
from tests.support.identity import IdentityNormalizer
from tests.support.made_checkpoint import STATISTICS, WHITE, lively, write_untrained
from tests.support.made_store import paint_tissue, store_slide
from wsi_stain.core.errors import CheckpointError, StainError, StoreError
from wsi_stain.core.geometry import TILE, BlockIndex, Mpp, Region, Size, TileIndex, grid_shape
from wsi_stain.core.journal import describe_files, file_digest, remove_partials
from wsi_stain.formats.block_file import (
    BlockFile,
    JpegConfig,
    block_tiles,
    encode_jpeg,
    finish_block,
    halve,
    write_block,
)
from wsi_stain.formats.zarr_shard import ShardFile
from wsi_stain.normalize.block import BlockWorkers, NormalizedBlock, block_workers, normalize_block_pixels
from wsi_stain.normalize.preparation import (
    PartTask,
    PrepareTask,
    find_valid_sample,
    prepare_slide,
    sample_slide,
    sum_beliefs,
)
from wsi_stain.normalize.tasks import NormalizeTask, normalize_block
from wsi_stain.normalizers.background import fade_to_white, with_ring
from wsi_stain.normalizers.config import NormalizeConfig
from wsi_stain.normalizers.load import load_normalizer
from wsi_stain.store import SlideRecord, StoredSlide, TileStore
from wsi_stain.store.artifact import load_artifact, unpack_statistics
from wsi_stain.tissue.grid import TileGrid

Pixels = NDArray[np.uint8]
SIZE = Size(5003, 4301)
SLIDES = {"kept": STATISTICS, "unmeasured": None}


def picture() -> Pixels:
    """Every place looks different, smoothly enough for JPEG, and is darker than glass."""
    y, x = np.mgrid[: SIZE.height, : SIZE.width].astype(np.float32)
    planes = [120 + 60 * np.sin(x / 97) * np.cos(y / 71), 40 + x / 40, 30 + y / 40]
    return np.stack(planes, axis=-1).astype(np.uint8)


def kept_tiles() -> NDArray[np.bool_]:
    """A patch of tissue across the border between two blocks, and a lone tile in the corner of the slide."""
    kept = np.zeros(grid_shape(SIZE), bool)
    kept[3:7, 13:19] = True
    kept[16, 0] = True
    return kept


@dataclass(frozen=True)
class Place:
    """Where the shared store and checkpoint are."""

    store: Path
    checkpoint: Path
    digest: str

    def prepare(self, out: Path, mode: str = "generator", slide_id: str = "kept", key: str = "k") -> PrepareTask:
        return PrepareTask(
            slide=partial(StoredSlide, self.store / slide_id),
            checkpoint=self.checkpoint,
            digest=self.digest,
            normalize=NormalizeConfig.model_validate({"mode": mode, "stride_px": 512, "lut_tiles": 10, "lut_size": 9}),
            artifact=out / "artifact.npz",
            receipt=out / "prepare.json",
            key=key,
        )

    def normalize(self, out: Path, block: BlockIndex, mode: str = "generator", key: str = "k") -> NormalizeTask:
        prepare = self.prepare(out, mode)
        name = f"{block.row}-{block.col}"
        return NormalizeTask(
            slide=prepare.slide,
            block=block,
            checkpoint=self.checkpoint,
            digest=self.digest,
            normalize=prepare.normalize,
            artifact=prepare.artifact,
            out=out / f"{name}.block",
            receipt=out / f"{name}.json",
            key=key,
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("inference")
    store, pixels, kept = TileStore.create(root / "store"), picture(), kept_tiles()
    padded = np.full((17 * TILE, 20 * TILE, 3), 255, np.uint8)
    padded[: SIZE.height, : SIZE.width] = pixels
    for slide_id, stain in SLIDES.items():
        writer = store.writer(slide_id)
        grid = TileGrid(size=SIZE, tissue=kept.astype(np.float32), kept=kept)
        writer.begin(SIZE, np.zeros((9, 10, 3), np.uint8), np.ones((9, 10), bool), grid)
        blocks: dict[BlockIndex, dict[TileIndex, Pixels]] = {}
        for row, col in np.argwhere(kept):
            tile = padded[row * TILE : (row + 1) * TILE, col * TILE : (col + 1) * TILE]
            blocks.setdefault(BlockIndex(row // 16, col // 16), {})[TileIndex(int(row), int(col))] = tile
        receipts = [writer.write_shard(BlockIndex(*map(int, block)), tiles) for block, tiles in blocks.items()]
        record = SlideRecord(
            slide_id=slide_id,
            relative="a.svs",
            fingerprint={"size": 1, "digest": "0"},
            settings_key="0",
            size=SIZE,
            mpp=Mpp(0.5, 0.5),
            mpp_origin="openslide",
            stain=stain,
        )
        writer.complete(record, receipts)
    return Place(root / "store", write_untrained(root / "c.safetensors"), file_digest(root / "c.safetensors"))


@pytest.fixture(scope="module")
def slide(place: Place) -> StoredSlide:
    return TileStore(place.store)["kept"]


BLOCKS = [BlockIndex(0, 0), BlockIndex(0, 1), BlockIndex(1, 0)]


@pytest.mark.usefixtures("identity")
@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_identity_puts_every_pixel_in_its_place(place: Place, tmp_path: Path, block: BlockIndex) -> None:
    prepare_slide(place.prepare(tmp_path))
    receipt = normalize_block(place.normalize(tmp_path, block))
    assert receipt["tiles"] == {(0, 0): 12, (0, 1): 12, (1, 0): 1}[block]
    expected, kept = picture(), kept_tiles()
    ringed = np.pad(kept, 1, mode="edge")
    file = BlockFile(tmp_path / f"{block.row}-{block.col}.block")
    rows, cols = file.shape(0)
    assert (rows, cols) == (min(16, 17 - 16 * block.row), min(16, 20 - 16 * block.col))
    for row, col in np.ndindex(rows, cols):
        tile = TileIndex(16 * block.row + row, 16 * block.col + col)
        stream = file.tile(0, row, col)
        assert bool(stream) == kept[tile]
        if ringed[tile.row : tile.row + 3, tile.col : tile.col + 3].all():
            source = expected[tile.row * TILE :, tile.col * TILE :][:TILE, :TILE]
            found = imagecodecs.jpeg8_decode(stream)[: source.shape[0], : source.shape[1]]
            assert np.abs(found.astype(int) - source).max() <= 12


@pytest.mark.usefixtures("identity")
def test_lossless_shards_are_left_where_they_are_wanted_and_missing(place: Place, tmp_path: Path) -> None:
    """The block's file alone vouches for no shard: not where they were not wanted before, nor where one was lost."""
    prepare_slide(place.prepare(tmp_path))
    task = place.normalize(tmp_path, BlockIndex(0, 1))
    assert normalize_block(task)["shards"] == {}
    wanting = replace(task, zarr=tmp_path / "slide.ome.zarr.partial")
    receipt = normalize_block(wanting)
    assert receipt["shards"] == describe_files(tmp_path / "slide.ome.zarr.partial")
    assert sorted(receipt["shards"]) == [f"{level}/c/0/0/1" for level in range(4)]
    assert normalize_block(wanting) == receipt
    (tmp_path / "slide.ome.zarr.partial" / "2" / "c" / "0" / "0" / "1").unlink()
    assert normalize_block(wanting) == receipt
    assert describe_files(tmp_path / "slide.ome.zarr.partial") == receipt["shards"]
    assert normalize_block(task) == receipt, "who wants none is content with more"


@pytest.mark.usefixtures("identity")
def test_shards_hold_the_pixels_before_jpeg(place: Place, tmp_path: Path) -> None:
    prepare_slide(place.prepare(tmp_path))
    task = replace(place.normalize(tmp_path, BlockIndex(0, 0)), zarr=tmp_path / "zarr")
    normalize_block(task)
    expected, kept = picture(), with_ring(kept_tiles(), slice(0, 16), slice(0, 16))
    with ShardFile(tmp_path / "zarr" / "0" / "c" / "0" / "0" / "0") as file:
        index = file.read_index()
        (tissue,) = file.read_tiles([TileIndex(5, 14)], index)
        assert kept[5:8, 14:17].all()
        np.testing.assert_array_equal(tissue, expected[5 * TILE : 6 * TILE, 14 * TILE : 15 * TILE])
        (glass,) = file.read_tiles([TileIndex(0, 0)], index)
        assert (glass == WHITE).all()


def test_a_block_without_tissue_is_only_a_receipt(place: Place, tmp_path: Path) -> None:
    task = place.normalize(tmp_path, BlockIndex(1, 1))
    receipt = normalize_block(task)
    assert receipt["product"] is None
    assert receipt["tiles"] == 0
    assert normalize_block(task) == receipt
    assert [path.name for path in tmp_path.iterdir()] == ["1-1.json"]


@pytest.mark.parametrize("mode", ["generator", "guard", "lut"])
def test_every_mode_works_and_is_repeatable(place: Place, tmp_path: Path, mode: str) -> None:
    files = []
    for run in ("one", "two"):
        out = tmp_path / run
        receipt = prepare_slide(place.prepare(out, mode))
        assert receipt["white"] == list(WHITE)
        assert receipt["residual"] > 0
        block = normalize_block(place.normalize(out, BlockIndex(0, 1), mode))
        assert (block["hallucination"] is None) == (mode == "lut")
        files.append([(path.name, path.read_bytes()) for path in sorted(out.iterdir())])
    assert files[0] == files[1]


def test_parts_and_passes_by_many_tasks_give_what_one_task_does(place: Place, tmp_path: Path) -> None:
    checkpoint = lively(tmp_path / "c.safetensors", in_channels=2, downs=3, stain_passes=2)
    task = replace(
        place.prepare(tmp_path / "one", "lut"), checkpoint=tmp_path / "c.safetensors", digest=checkpoint.digest
    )
    whole, beliefs = prepare_slide(task), ()
    assert unpack_statistics(load_artifact(task.artifact)).vectors != STATISTICS.vectors, "refined"
    parts = []
    for part in range(task.normalize.sample_parts):
        files = {"artifact": tmp_path / f"{part}.npz", "receipt": tmp_path / f"{part}.json"}
        parts.append(PartTask(part=part, **vars(task) | files))
    for _ in range(2):
        sums = [sum_beliefs(replace(part, beliefs=beliefs))["beliefs"] for part in reversed(parts)]
        beliefs = *beliefs, tuple(reversed(sums))
    for part in reversed(parts):
        done = sample_slide(replace(part, beliefs=beliefs))
        assert find_valid_sample(part) == done == sample_slide(part), "not done again, with other statistics"
    samples, out = tuple(part.artifact for part in parts), tmp_path / "many"
    many = replace(task, samples=samples, artifact=out / "artifact.npz", receipt=out / "prepare.json")
    assert prepare_slide(many) == whole


@pytest.mark.usefixtures("identity")
def test_a_finished_task_is_not_done_again(place: Place, tmp_path: Path) -> None:
    task = place.normalize(tmp_path, BlockIndex(0, 1))
    preparing = place.prepare(tmp_path)
    gone = partial(StoredSlide, tmp_path / "gone")
    assert prepare_slide(preparing) == prepare_slide(replace(preparing, slide=gone))
    assert normalize_block(task) == normalize_block(replace(task, slide=gone))
    with pytest.raises(StoreError, match="gone"):
        normalize_block(replace(task, slide=gone, key="other"))
    task.out.unlink()
    normalize_block(task)
    assert task.out.exists()


def normalize_all(prepare: PrepareTask, tasks: list[NormalizeTask]) -> None:
    prepare_slide(prepare)
    for task in tasks:
        normalize_block(task)


@pytest.mark.parametrize("visit", [5, 6], ids=["the second block's file", "its receipt"])
def test_killed_among_the_blocks_and_done_again_gives_the_same_bytes(place: Place, tmp_path: Path, visit: int) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    prepare_slide(place.prepare(whole))  # which writes two files, as each block does
    for block in BLOCKS:
        normalize_block(place.normalize(whole, block))
    tasks = [place.normalize(out, block) for block in BLOCKS]
    killed = Fork(normalize_all, place.prepare(out), tasks, WSI_STAIN_FAILPOINT=f"before-rename:{visit}")
    assert killed.wait().code == -9
    first = tasks[0].out.stat().st_mtime_ns
    assert not tasks[2].out.exists()
    for task in tasks:
        normalize_block(task)
    remove_partials(out)
    assert tasks[0].out.stat().st_mtime_ns == first
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in whole.iterdir()
    }


@pytest.mark.parametrize("mode", ["generator", "guard", "lut"])
def test_threads_do_not_change_a_byte(place: Place, tmp_path: Path, mode: str) -> None:
    prepare_slide(place.prepare(tmp_path, mode))
    task = place.normalize(tmp_path, BlockIndex(0, 0), mode)
    receipt = normalize_block(task)
    normalize = task.normalize.model_copy(update={"threads": 3})
    threaded = replace(task, out=tmp_path / "threaded", receipt=tmp_path / "threaded.json", normalize=normalize)
    assert normalize_block(threaded) == receipt | {"product": receipt["product"] | {"name": "threaded"}}
    assert task.out.read_bytes() == threaded.out.read_bytes()


def make_block(slide: StoredSlide, block: BlockIndex) -> NormalizedBlock:
    """A block as the identity leaves it, faded into white."""
    with block_workers(1) as by:
        normalizer, config = IdentityNormalizer(WHITE), NormalizeConfig()
        return normalize_block_pixels(slide, block, normalizer, {}, config, JpegConfig(), by, keep_pixels=True)


def fade_block(slide: StoredSlide, block: BlockIndex) -> Pixels:
    return rgb_of(make_block(slide, block))


def rgb_of(made: NormalizedBlock) -> Pixels:
    assert made.pixels is not None
    return made.pixels[..., :3]


@pytest.mark.parametrize("block", [*BLOCKS, BlockIndex(1, 1)], ids=str)
def test_the_next_level_of_all_bands_is_that_of_the_block(
    slide: StoredSlide, tmp_path: Path, block: BlockIndex
) -> None:
    made = make_block(slide, block)
    pixels = np.ascontiguousarray(rgb_of(made))
    np.testing.assert_array_equal(made.half[..., :3], halve(pixels))
    size = Size(pixels.shape[1], pixels.shape[0])
    kept, out = np.ones(grid_shape(size), bool), tmp_path / "halved"
    write_block(tmp_path / "whole", pixels, kept, JpegConfig())
    streams = [encode_jpeg(tile, 90) for tile in block_tiles(pixels, kept).values()]
    finish_block(out, size, kept, JpegConfig(), streams, made.half)
    assert out.read_bytes() == (tmp_path / "whole").read_bytes()


def test_blocks_meet_without_a_step(slide: StoredSlide) -> None:
    sides = [fade_block(slide, block).astype(int) for block in BLOCKS[:2]]
    across = np.abs(sides[0][:, -1] - sides[1][:, 0])
    within = np.abs(np.diff(sides[0][:, -9:], axis=1)).max()
    assert across.max() <= within + 1


def test_no_outline_shows_around_kept_tiles(slide: StoredSlide) -> None:
    pixels = fade_block(slide, BlockIndex(0, 0))
    white = np.array(WHITE)
    assert (pixels[3 * TILE - 1, 13 * TILE :] == white).all()
    assert np.abs(pixels[3 * TILE, 13 * TILE :].astype(int) - white).max() <= 1
    assert np.abs(pixels[3 * TILE :, 13 * TILE][: 4 * TILE].astype(int) - white).max() <= 1
    assert (pixels[: 3 * TILE] == white).all()


@pytest.mark.parametrize("mode", ["generator", "guard", "lut"])
def test_generated_tissue_meets_glass_within_one_grey_level(tmp_path: Path, mode: str) -> None:
    """A generator that paints pale tissue dark, right up to the last kept tile: the worst case for an outline."""
    kept = np.zeros((6, 7), np.float32)
    kept[1:5, 1:5] = kept[2, 5] = kept[4, 5] = 1
    kept[2, 2] = 0
    pale = (255 - (255 - paint_tissue(Size(7 * TILE, 6 * TILE), seed=5).astype(int)) // 8).astype(np.uint8)
    stored = store_slide(tmp_path / "store", "pale", pale, kept, mpp=0.5, measured=False)
    checkpoint = lively(tmp_path / "c.safetensors")
    normalize = NormalizeConfig.model_validate({"mode": mode, "stride_px": 512, "lut_tiles": 10, "lut_size": 9})
    normalizer = load_normalizer(normalize, tmp_path / "c.safetensors", "cpu", checkpoint.digest)
    artifact = normalizer.prepare(stored, STATISTICS)
    with block_workers(1) as by:
        job = stored, BlockIndex(0, 0), normalizer, artifact, normalize, JpegConfig(), by
        made = rgb_of(normalize_block_pixels(*job, keep_pixels=True)).astype(int)
    window = stored.read(Region(0, 0, *stored.size).expand(normalizer.halo))
    bare = normalizer.apply(window, stored.kept, artifact).astype(int)
    assert np.abs(bare[: 5 * TILE, 5 * TILE - 1][TILE:] - WHITE).max() > 5, "without fading there would be an outline"
    for axis, (pixels, tiles) in enumerate(((made, stored.kept), (made.swapaxes(0, 1), stored.kept.T))):
        for line in range(1, len(tiles)):
            border = np.repeat(tiles[line - 1] != tiles[line], TILE)
            step = np.abs(pixels[line * TILE] - pixels[line * TILE - 1])[border]
            assert step.max(initial=0) <= 1, (axis, line)


def test_the_edge_of_the_slide_is_no_border() -> None:
    pixels = np.full((2 * TILE - 56, TILE, 3), 100, np.uint8)
    fade_to_white(pixels, with_ring(np.ones((2, 1), bool), slice(0, 2), slice(0, 1)), WHITE)
    assert (pixels == 100).all()


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=4)))
def test_weights_are_continuous_between_all_tiles(kept: NDArray[np.bool_]) -> None:
    rows, cols = kept.shape
    pixels = np.zeros((rows * TILE, cols * TILE, 3), np.uint8)
    fade_to_white(pixels, with_ring(kept, slice(0, rows), slice(0, cols)), (254, 254, 254))
    steps = [np.abs(np.diff(pixels.astype(int), axis=axis)).max(initial=0) for axis in (0, 1)]
    assert max(steps) <= 2
    for row, col in np.argwhere(~kept):
        assert (pixels[row * TILE : (row + 1) * TILE, col * TILE : (col + 1) * TILE] == 254).all()


def test_a_slide_without_stain_statistics_is_refused(place: Place, tmp_path: Path) -> None:
    with pytest.raises(StainError, match="not measured"):
        prepare_slide(place.prepare(tmp_path, slide_id="unmeasured"))


def test_a_changed_checkpoint_is_refused(place: Place, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="changed since"):
        prepare_slide(replace(place.prepare(tmp_path), digest="0" * 64))


def test_tasks_travel_between_processes(place: Place, tmp_path: Path) -> None:
    for task in (place.prepare(tmp_path), place.normalize(tmp_path, BlockIndex(0, 1))):
        travelled = pickle.loads(pickle.dumps(task))
        with travelled.slide() as slide:
            assert slide.slide_id == "kept"
        assert replace(travelled, slide=task.slide) == task
        assert len(pickle.dumps(task)) < 2000


def test_a_process_keeps_its_threads_and_drops_those_of_a_task_that_failed() -> None:
    def who(workers: BlockWorkers) -> set[int]:
        return {workers.band_workers.submit(threading.get_ident).result() for _ in range(4)}

    with block_workers(2) as first, block_workers(2) as beside:
        assert first is not beside and not who(first) & who(beside)
    with block_workers(2) as again:
        assert again in (first, beside)
        assert who(again) <= who(first) | who(beside)
    begun, ended = threading.Event(), threading.Event()
    with pytest.raises(OSError, match="read"), block_workers(2) as failing:
        failing.band_workers.submit(lambda: (begun.set(), time.sleep(0.1), ended.set()))
        begun.wait()
        raise OSError("read")
    assert ended.is_set(), "what was under way is waited for"
    with block_workers(2) as one, block_workers(2) as other:
        assert failing not in (one, other)
