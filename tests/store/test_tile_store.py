"""The tile store: what is written reads back pixel for pixel, here and with two independent zarr readers."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.files_below import contents
from tests.support.made_store import paint_tissue, store_slide
from wsi_stain.core.errors import StoreError
from wsi_stain.core.geometry import TILE, BlockIndex, Mpp, Region, Size, TileIndex, grid_shape, tiles_of
from wsi_stain.store import SlideRecord, SlideWriter, StoredSlide, TileStore
from wsi_stain.tissue.grid import TileGrid

SIZE = Size(4500, 8300)
"""Two block columns and three block rows, the last ones partial; odd tiles at the edges."""


@dataclass(frozen=True)
class WrittenSlide:
    """A complete slide in a store, and the truth about it."""

    store: TileStore
    truth: NDArray[np.uint8]
    grid: TileGrid

    @property
    def slide(self) -> StoredSlide:
        return self.store["odd"]


def record(**changes: Any) -> SlideRecord:
    known: dict[str, Any] = {
        "slide_id": "odd",
        "relative": "a/odd.svs",
        "fingerprint": {"size": 5, "digest": "ab"},
        "settings_key": "s",
        "size": SIZE,
        "mpp": Mpp(0.25, 0.26),
        "mpp_origin": "openslide",
    }
    return SlideRecord(**(known | changes))


def make_grid(size: Size, kept: NDArray[np.bool_]) -> TileGrid:
    return TileGrid(size=size, tissue=kept.astype(np.float32) * 0.5, kept=kept)


def write_slide(
    writer: SlideWriter, truth: NDArray[np.uint8], grid: TileGrid, complete: bool = True
) -> list[dict[str, Any]]:
    """Write `truth` (whose size is a multiple of the tile) where the grid keeps tiles."""
    thumbnail, mask = np.ascontiguousarray(truth[::64, ::64]), np.zeros(truth[::64, ::64].shape[:2], bool)
    writer.begin(grid.size, thumbnail, mask, grid)
    receipts = []
    for block in sorted({BlockIndex(int(r) // 16, int(c) // 16) for r, c in np.argwhere(grid.kept)}):
        tiles = {tile: tile_of(truth, tile) for tile in tiles_of(block, grid.kept.shape) if grid.kept[tile]}
        receipts.append(writer.write_shard(block, tiles, "key"))
    if complete:
        writer.complete(record(size=grid.size), receipts)
    return receipts


def tile_of(truth: NDArray[np.uint8], tile: TileIndex) -> NDArray[np.uint8]:
    return truth[tile.row * TILE : (tile.row + 1) * TILE, tile.col * TILE : (tile.col + 1) * TILE]


def make_truth(size: Size, kept: NDArray[np.bool_], seed: int = 0) -> NDArray[np.uint8]:
    """Random pixels in kept tiles, 255 elsewhere and beyond the slide's edge; whole tiles."""
    rows, cols = kept.shape
    pixels = np.random.default_rng(seed).integers(0, 255, (rows * TILE, cols * TILE, 3), np.uint8)
    pixels[~kept.repeat(TILE, 0).repeat(TILE, 1)] = 255
    pixels[size.height :] = 255
    pixels[:, size.width :] = 255
    return pixels


@pytest.fixture(scope="module")
def written_slide(tmp_path_factory: pytest.TempPathFactory) -> WrittenSlide:
    kept = np.random.default_rng(1).random(grid_shape(SIZE)) < 0.15
    kept[-1, -1] = kept[-1, 3] = kept[0, 0] = kept[15, 16] = True
    kept[16:32, :16] = False  # a block without tiles has no shard
    truth, grid = make_truth(SIZE, kept), make_grid(SIZE, kept)
    store = TileStore.create(tmp_path_factory.mktemp("made") / "store")
    write_slide(store.writer("odd"), truth, grid)
    return WrittenSlide(store, truth, grid)


def cut_truth(truth: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    return truth[: size.height, : size.width]


def test_the_whole_slide_reads_back(written_slide: WrittenSlide) -> None:
    pixels = written_slide.slide.read(Region(0, 0, *SIZE))
    assert pixels.shape == (SIZE.height, SIZE.width, 3)
    assert np.array_equal(pixels, cut_truth(written_slide.truth, SIZE))


def test_zarr_python_reads_the_same_pixels(written_slide: WrittenSlide) -> None:
    image = zarr.open_group(written_slide.slide.path, mode="r")["0"]
    assert isinstance(image, zarr.Array)
    assert (image.shape, image.chunks, image.shards) == ((3, 8300, 4500), (3, 256, 256), (3, 4096, 4096))
    assert np.array_equal(np.asarray(image[:]).transpose(1, 2, 0), cut_truth(written_slide.truth, SIZE))


def test_tensorstore_reads_the_same_pixels(written_slide: WrittenSlide) -> None:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(written_slide.slide.path / "0")}}
    image = tensorstore.open(spec, read=True).result()
    assert image.fill_value == 255
    assert np.array_equal(image.read().result().transpose(1, 2, 0), cut_truth(written_slide.truth, SIZE))


@pytest.mark.parametrize("name", ["maps/kept", "maps/tissue", "thumbnail", "mask"])
def test_zarr_python_reads_the_small_arrays(written_slide: WrittenSlide, name: str) -> None:
    ours = getattr(written_slide.slide, name.split("/")[-1])
    theirs = zarr.open_group(written_slide.slide.path, mode="r")[name]
    assert isinstance(theirs, zarr.Array)
    assert theirs.dtype == ours.dtype
    assert np.array_equal(np.asarray(theirs[:]), ours)


def test_zarr_python_finds_only_what_the_format_names(written_slide: WrittenSlide) -> None:
    """It warns of every file that is no part of a hierarchy, and warnings are errors here."""
    names = {name for name, _ in zarr.open_group(written_slide.store.path, mode="r").members(max_depth=None)}
    below = {f"odd/{name}" for name in ("0", "maps", "maps/kept", "maps/tissue", "thumbnail", "mask")}
    assert names == {"odd"} | below


def test_the_image_has_ngff_metadata(written_slide: WrittenSlide) -> None:
    ome: Any = zarr.open_group(written_slide.slide.path, mode="r").attrs["ome"]
    (multiscale,) = ome["multiscales"]
    assert ome["version"] == "0.5"
    assert [axis["name"] for axis in multiscale["axes"]] == ["c", "y", "x"]
    assert [axis.get("unit") for axis in multiscale["axes"]] == [None, "micrometer", "micrometer"]
    (transformation,) = multiscale["datasets"][0]["coordinateTransformations"]
    assert transformation == {"type": "scale", "scale": [1.0, 0.26, 0.25]}
    assert [channel["color"] for channel in ome["omero"]["channels"]] == ["FF0000", "00FF00", "0000FF"]


def test_maps_and_record_read_back(written_slide: WrittenSlide) -> None:
    slide = written_slide.slide
    assert np.array_equal(slide.kept, written_slide.grid.kept)
    assert np.array_equal(slide.tissue, written_slide.grid.tissue)
    assert slide.tissue.dtype == np.float32
    assert slide.record == record()
    assert (slide.size, slide.mpp) == (SIZE, Mpp(0.25, 0.26))


@settings(max_examples=60, deadline=None)
@example(x=SIZE.width + 1, y=1309, width=2, height=484)
@given(
    x=st.integers(-700, SIZE.width + 300),
    y=st.integers(-700, SIZE.height + 300),
    width=st.integers(1, 900),
    height=st.integers(1, 700),
)
def test_any_region_reads_as_a_cut_of_the_slide(
    written_slide: WrittenSlide, x: int, y: int, width: int, height: int
) -> None:
    pad = 1500
    padded = np.pad(cut_truth(written_slide.truth, SIZE), ((pad, pad), (pad, pad), (0, 0)), constant_values=255)
    expected = padded[y + pad : y + pad + height, x + pad : x + pad + width]
    assert np.array_equal(written_slide.slide.read(Region(x, y, width, height)), expected)


@pytest.mark.parametrize("where", [(0, 0), (15, 16), (-1, -1)], ids=["first", "over the block border", "last"])
def test_a_tile_is_always_whole(written_slide: WrittenSlide, where: tuple[int, int]) -> None:
    rows, cols = written_slide.grid.kept.shape
    tile = TileIndex(where[0] % rows, where[1] % cols)
    assert np.array_equal(written_slide.slide.read_tile(tile), tile_of(written_slide.truth, tile))


def test_threads_and_pickles_share_a_slide(written_slide: WrittenSlide) -> None:
    slide = pickle.loads(pickle.dumps(written_slide.slide))
    places = [TileIndex(int(row), int(col)) for row, col in np.argwhere(written_slide.grid.kept)] * 3
    with ThreadPoolExecutor(8) as pool:
        for tile, pixels in zip(places, pool.map(slide.read_tile, places), strict=True):
            assert np.array_equal(pixels, tile_of(written_slide.truth, tile))


@settings(max_examples=15, deadline=None)
@given(width=st.integers(1, 1300), height=st.integers(1, 800), seed=st.integers(0, 99))
def test_any_size_makes_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, width: int, height: int, seed: int
) -> None:
    size = Size(width, height)
    kept = np.random.default_rng(seed).random(grid_shape(size)) < 0.6
    truth = make_truth(size, kept, seed)
    store = TileStore.create(tmp_path_factory.mktemp("any") / "store")
    write_slide(store.writer("odd"), truth, make_grid(size, kept))
    image = zarr.open_group(store["odd"].path, mode="r")["0"]
    assert isinstance(image, zarr.Array)
    assert np.array_equal(store["odd"].read(Region(0, 0, *size)), cut_truth(truth, size))
    assert np.array_equal(np.asarray(image[:]).transpose(1, 2, 0), cut_truth(truth, size))


# Tiles as JPEG


@pytest.fixture(scope="module")
def compressed_slide(tmp_path_factory: pytest.TempPathFactory) -> StoredSlide:
    return store_slide(tmp_path_factory.mktemp("jpeg"), "a", paint_tissue(PAINTED), TISSUE, codec="jpeg")


PAINTED = Size(1500, 700)
TISSUE = np.array([[1, 0, 1, 1, 0, 0.5], [0, 0, 0, 0, 1, 1], [0.1, 0, 1, 0, 0, 1]], np.float32)


def test_jpeg_tiles_are_close_and_glass_is_exact(compressed_slide: StoredSlide) -> None:
    truth, pixels = paint_tissue(PAINTED), compressed_slide.read(Region(0, 0, *PAINTED))
    inside = (TISSUE > 0).repeat(TILE, 0).repeat(TILE, 1)[: PAINTED.height, : PAINTED.width]
    assert np.all(pixels[~inside] == 255)
    error = pixels[inside].astype(float) - truth[inside]
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 38
    beyond = compressed_slide.read(Region(PAINTED.width - 3, 0, 10, 300))
    assert np.all(beyond[:, 3:] == 255), "beyond the slide nothing rings"


def test_jpeg_tiles_are_small(compressed_slide: StoredSlide, tmp_path: Path) -> None:
    lossless = store_slide(tmp_path, "a", paint_tissue(PAINTED), TISSUE)
    small, large = ((Path(str(slide.path)) / "0/c/0/0/0").stat().st_size for slide in (compressed_slide, lossless))
    assert small < large / 3


def test_zarr_python_reads_the_jpeg_tiles(compressed_slide: StoredSlide) -> None:
    image = zarr.open_group(compressed_slide.path, mode="r")["0"]
    assert isinstance(image, zarr.Array)
    assert np.array_equal(np.asarray(image[:]).transpose(1, 2, 0), compressed_slide.read(Region(0, 0, *PAINTED)))


def test_a_damaged_jpeg_tile_is_said(tmp_path: Path) -> None:
    slide = store_slide(tmp_path, "a", paint_tissue(PAINTED), codec="jpeg")
    flip(tmp_path / "a/0/c/0/0/0", 700)
    with pytest.raises(StoreError, match="row 0, column 0: the checksum"):
        slide.read_tile(TileIndex(0, 0))


def test_an_unknown_compression_is_refused(tmp_path: Path) -> None:
    slide = store_slide(tmp_path, "a", paint_tissue(PAINTED))
    described = tmp_path / "a/0/zarr.json"
    described.write_text(described.read_text().replace('"lz4"', '"zstd"'))
    with pytest.raises(StoreError, match="no compression of tiles known here"):
        slide.read_tile(TileIndex(0, 0))


def test_equal_pixels_make_equal_bytes(tmp_path: Path, written_slide: WrittenSlide) -> None:
    other = TileStore.create(tmp_path / "again")
    write_slide(other.writer("odd"), written_slide.truth, written_slide.grid)
    assert contents(other.path) == contents(written_slide.store.path)


# What does not exist for readers


@pytest.fixture
def small(tmp_path: Path) -> WrittenSlide:
    size = Size(700, 300)
    kept = np.array([[True, False, True], [False, True, True]])
    store = TileStore.create(tmp_path / "store")
    written_slide = WrittenSlide(store, make_truth(size, kept), make_grid(size, kept))
    write_slide(store.writer("odd"), written_slide.truth, written_slide.grid)
    return written_slide


def test_a_slide_without_its_mark_does_not_exist(small: WrittenSlide) -> None:
    write_slide(small.store.writer("half"), small.truth, small.grid, complete=False)
    assert small.store.slide_ids() == ["odd"]
    with pytest.raises(StoreError, match="no complete slide"):
        small.store["half"]


def test_a_slide_being_made_again_does_not_exist(small: WrittenSlide) -> None:
    write_slide(small.store.writer("odd"), small.truth, small.grid, complete=False)
    assert small.store.slide_ids() == []


def test_a_slide_that_lacks_a_shard_is_never_complete(small: WrittenSlide) -> None:
    writer = small.store.writer("odd")
    write_slide(writer, small.truth, small.grid, complete=False)
    with pytest.raises(StoreError, match="lacks 1 shards"):
        writer.complete(record(size=small.grid.size), [])
    assert small.store.slide_ids() == []


def test_the_mark_folds_receipts_in_any_order(written_slide: WrittenSlide, tmp_path: Path) -> None:
    writer = TileStore.create(tmp_path / "s").writer("odd")
    receipts = write_slide(writer, written_slide.truth, written_slide.grid, complete=False)
    writer.complete(record(), reversed(receipts))
    theirs, ours = (json.loads((path / "zarr.json").read_text()) for path in (written_slide.slide.path, writer.path))
    assert ours == theirs
    assert ours["attributes"]["wsi_stain"]["shards"]["count"] == len(receipts) == 5


def test_a_shard_leaves_a_receipt_until_the_slide_is_complete(small: WrittenSlide) -> None:
    writer, block = small.store.writer("odd"), BlockIndex(0, 0)
    (receipt,) = write_slide(writer, small.truth, small.grid, complete=False)
    assert writer.valid_shard(block, "key") == receipt
    assert writer.valid_shard(block, "another key") is None
    (writer.path / "0/c/0/0/0").unlink()
    assert writer.valid_shard(block, "key") is None
    write_slide(writer, small.truth, small.grid)
    assert not [path for path in writer.path.rglob("*") if path.name.startswith(".")]


def test_dropped_tiles_are_gone_and_may_be_dropped_again(small: WrittenSlide) -> None:
    for _ in range(2):
        small.store.remove_slide("odd")
    assert names_in(small.store.path) == ["zarr.json"]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Stores and slides that cannot be used


def test_a_store_opens_again(small: WrittenSlide) -> None:
    assert TileStore.create(small.store.path).slide_ids() == TileStore(small.store.path).slide_ids() == ["odd"]


@pytest.mark.parametrize(
    ("open_store", "files", "found"),
    [
        (TileStore, {}, "found none"),
        (TileStore, {"zarr.json": "{"}, "found none"),
        (TileStore.create, {"zarr.json": '{"attributes": {}}'}, "found none"),
        (TileStore.create, {"zarr.json": '{"attributes": {"format": 2, "tile": 256}}'}, "found format 2"),
        (TileStore.create, {"notes.txt": "mine"}, "not a tile store"),
    ],
    ids=["absent", "torn", "another group", "another format", "other files"],
)
def test_a_foreign_store_is_refused(
    tmp_path: Path, open_store: Callable[[Path], TileStore], files: dict[str, str], found: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(StoreError, match=found):
        open_store(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


@pytest.mark.parametrize("left", [None, "", '{"attributes": {"form'], ids=["lost", "empty", "torn"])
def test_the_stores_own_metadata_is_written_again(small: WrittenSlide, left: str | None) -> None:
    metadata = small.store.path / "zarr.json"
    before = metadata.read_bytes()
    metadata.unlink()
    if left is not None:
        metadata.write_text(left)
    assert TileStore.create(small.store.path).slide_ids() == ["odd"]
    assert metadata.read_bytes() == before


def test_torn_metadata_beside_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_text("{")
    (tmp_path / "other").mkdir()
    with pytest.raises(StoreError, match="not a tile store"):
        TileStore.create(tmp_path)
    assert (tmp_path / "zarr.json").read_text() == "{"


def test_a_store_may_be_made_in_a_leased_directory(tmp_path: Path) -> None:
    (tmp_path / ".lease").touch()
    assert TileStore.create(tmp_path).slide_ids() == []


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "/etc", "../odd"])
def test_an_unsafe_name_is_refused(small: WrittenSlide, name: str) -> None:
    with pytest.raises(StoreError, match="no name of a slide"):
        small.store.writer(name)
    with pytest.raises(StoreError, match="no name of a slide"):
        small.store[name]


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)


def damaged_record(slide: Path) -> None:
    metadata = json.loads((slide / "zarr.json").read_text())
    del metadata["attributes"]["wsi_stain"]["record"]["size"]
    (slide / "zarr.json").write_text(json.dumps(metadata))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda slide: flip(slide / "0/c/0/0/0", -1), "damaged in its index"),
        (lambda slide: flip(slide / "0/c/0/0/0", -100), "damaged in its index"),
        (lambda slide: flip(slide / "0/c/0/0/0", 5), "row 0, column 0: the checksum"),
        (lambda slide: flip(slide / "0/c/0/0/0", 1000), "row 0, column 0: the checksum"),
        (lambda slide: os.truncate(slide / "0/c/0/0/0", 5000), "damaged in its index"),
        (lambda slide: os.truncate(slide / "0/c/0/0/0", 3), "damaged in its index"),
        (lambda slide: (slide / "0/c/0/0/0").unlink(), "cannot be read"),
        (lambda slide: (slide / "maps/kept/zarr.json").unlink(), "missing or damaged"),
        (lambda slide: os.truncate(slide / "maps/kept/c/0/0", 9), "missing or damaged"),
        (damaged_record, "record of the slide .* is damaged"),
    ],
    ids=["crc", "index", "header", "chunk", "cut", "stub", "gone", "no map", "map cut", "record"],
)
def test_damage_is_said_not_shown(small: WrittenSlide, damage: Callable[[Path], None], message: str) -> None:
    damage(small.store.path / "odd")
    with pytest.raises(StoreError, match=message) as caught:
        small.slide.read(Region(0, 0, 700, 300))
    assert caught.value.remedy


@pytest.mark.parametrize("cut", [lambda size: 0, lambda size: size // 2, lambda size: size - 2])
def test_a_torn_file_shows_whichever_it_is(small: WrittenSlide, cut: Callable[[int], int]) -> None:
    small.store.writer("odd").write_table("sources", "a,b\n1,2\n")
    folder = small.store.path / "odd"
    small.slide.check_whole()
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent != folder]
    assert len(files) == 14
    for path in files:
        content = path.read_bytes()
        os.truncate(path, cut(len(content)))
        with pytest.raises(StoreError, match=r"damaged|describes no compression"):
            small.store["odd"].check_whole()
        path.write_bytes(content)


@pytest.mark.parametrize("name", ["maps/kept", "maps/tissue", "thumbnail", "mask"])
def test_a_lost_folder_shows_whichever_it_is(small: WrittenSlide, name: str) -> None:
    folder = small.store.path / "odd"
    small.slide.check_whole()
    shutil.rmtree(folder / name)
    with pytest.raises(StoreError, match=rf"missing or damaged|lacks {name}"):
        small.store["odd"].check_whole()


def test_a_tile_that_the_shard_lacks_is_an_error_not_glass(small: WrittenSlide) -> None:
    writer = small.store.writer("odd")
    receipt = writer.write_shard(BlockIndex(0, 0), {TileIndex(0, 0): tile_of(small.truth, TileIndex(0, 0))})
    writer.complete(record(size=small.grid.size), [receipt])
    with pytest.raises(StoreError, match="lacks the tile at row 0, column 2"):
        small.slide.read_tile(TileIndex(0, 2))


def test_the_key_depends_on_source_and_settings() -> None:
    keys = {
        record().key,
        record(settings_key="other").key,
        record(fingerprint={"size": 6, "digest": "ab"}).key,
        record(patient="P1", slide_id="renamed").key,
    }
    assert len(keys) == 3
