"""The store as a notebook user meets it: a dictionary of slides, maps, batches, cards; NGFF for everyone else."""

from __future__ import annotations

import base64
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaozarrs
import zarr
from numpy.typing import NDArray
from ome_zarr_models.v05 import Image as NgffImage
from PIL import Image

from tests.support.made_store import paint_tissue, store_slide
from wsi_stain.core.errors import StoreError
from wsi_stain.core.geometry import TILE, Size, TileIndex, grid_shape
from wsi_stain.store import SlideRecord, StoredSlide, TileStore
from wsi_stain.tissue.grid import TileGrid

SIZE = Size(4500, 700)
"""Two blocks; odd tiles at both far edges."""
ROWS, COLS = grid_shape(SIZE)


def shares() -> NDArray[np.float32]:
    tissue = np.linspace(0, 1, ROWS * COLS, dtype=np.float32).reshape(ROWS, COLS)
    tissue[1, ::2] = 0
    return tissue


def whole_tiles() -> NDArray[np.uint8]:
    """(rows, cols, 256, 256, 3): what each tile must read as."""
    pixels = np.full((ROWS * TILE, COLS * TILE, 3), 255, np.uint8)
    pixels[: SIZE.height, : SIZE.width] = paint_tissue(SIZE)
    tiles = pixels.reshape(ROWS, TILE, COLS, TILE, 3).swapaxes(1, 2).copy()
    tiles[shares() == 0] = 255
    return tiles


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TileStore:
    root = tmp_path_factory.mktemp("api") / "store"
    store, pixels, tissue = TileStore.create(root), paint_tissue(SIZE), shares()
    writer, grid = store.writer("wide"), TileGrid(SIZE, tissue, tissue > 0)
    writer.begin(SIZE, pixels[::32, ::32].copy(), np.ones((22, 141), bool), grid)
    writer.write_map("label", (tissue > 0.5).astype(np.int16))
    truth = whole_tiles()
    receipts = []
    for block in grid.blocks():
        places = [TileIndex(int(row), int(col)) for row, col in np.argwhere(grid.kept) if col // 16 == block.col]
        receipts.append(writer.write_shard(block, {place: truth[place] for place in places}))
    writer.complete(
        SlideRecord(
            slide_id="wide",
            relative="<b>wide</b>.svs",
            fingerprint={},
            settings_key="",
            size=SIZE,
            mpp=(0.25, 0.25),
            mpp_origin="list",
            patient="<script>alert(1)</script>",
        ),
        receipts,
    )
    store_slide(root, "small", paint_tissue(Size(300, 200)), codec="jpeg")
    return TileStore(root)


@pytest.fixture(scope="module")
def slide(store: TileStore) -> StoredSlide:
    return store["wide"]


def test_a_store_is_a_dictionary_of_slides(store: TileStore) -> None:
    assert (len(store), list(store), store.slide_ids()) == (2, ["small", "wide"], ["small", "wide"])
    assert "wide" in store
    assert all(name not in store for name in ("none", "", "..", "../store", 3))
    assert {slide_id: store[slide_id].slide_id for slide_id in store} == {"small": "small", "wide": "wide"}


def test_maps_have_names_and_values(slide: StoredSlide) -> None:
    assert slide.maps() == ["kept", "label", "tissue"]
    assert np.array_equal(slide.map("label"), shares() > 0.5)
    assert np.array_equal(slide.map("tissue"), slide.tissue)
    with pytest.raises(StoreError, match="maps/none is missing"):
        slide.map("none")


@pytest.mark.parametrize("threads", [1, 3, 16])
def test_tiles_in_batches_come_in_the_order_asked_for(slide: StoredSlide, threads: int) -> None:
    rng = np.random.default_rng(threads)
    tiles = [TileIndex(int(row), int(col)) for row, col in rng.integers((0, 0), (ROWS, COLS), (90, 2))]
    tiles += [TileIndex(-1, 0), TileIndex(0, COLS), TileIndex(ROWS, 3), tiles[0]]
    truth = whole_tiles()
    batch = slide.read_tiles(tiles, threads)
    assert (batch.shape, batch.dtype) == ((94, TILE, TILE, 3), np.uint8)
    for tile, pixels in zip(tiles, batch, strict=True):
        inside = 0 <= tile.row < ROWS and 0 <= tile.col < COLS
        assert np.array_equal(pixels, truth[tile] if inside else np.full_like(pixels, 255)), tile


def test_no_tiles_make_an_empty_batch(slide: StoredSlide) -> None:
    assert slide.read_tiles([]).shape == (0, TILE, TILE, 3)


def test_a_damaged_tile_stops_the_batch(slide: StoredSlide, tmp_path: Path) -> None:
    shutil.copytree(str(slide.path), tmp_path / "wide")
    shard = tmp_path / "wide/0/c/0/0/1"
    shard.write_bytes(b"\xff" + shard.read_bytes()[1:])
    with pytest.raises(StoreError, match="0/c/0/0/1 is damaged at the tile at row 0, column 16"):
        StoredSlide(tmp_path / "wide").read_tiles(slide.tile_indices())


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0, 1.1])
def test_tiles_above_a_share_of_tissue(slide: StoredSlide, share: float) -> None:
    expected = [(row, col) for row in range(ROWS) for col in range(COLS) if shares()[row, col] >= max(share, 1e-9)]
    found = dict(slide.tiles(min_tissue=share))
    assert list(found) == slide.tile_indices(share) == expected
    truth = whole_tiles()
    assert all(np.array_equal(pixels, truth[tile]) for tile, pixels in found.items())


def test_cards_show_thumbnails_and_escape_text(store: TileStore, slide: StoredSlide) -> None:
    for card, pictures in ((slide._repr_html_(), 1), (store._repr_html_(), 2)):
        assert "<script>" not in card
        assert "&lt;script&gt;" in card
        assert "4500 x 700 px" in card
        found = re.findall(r"data:image/jpeg;base64,([^\"]+)", card)
        assert len(found) == pictures
        for picture in found:
            assert Image.open(io.BytesIO(base64.b64decode(picture))).width > 5
    assert "wide" in repr(slide)
    assert str(store.path) in repr(store)


def test_a_card_of_a_store_with_a_damaged_slide(store: TileStore, tmp_path: Path) -> None:
    shutil.copytree(str(store.path), tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy/wide/thumbnail")
    card = TileStore(tmp_path / "copy")._repr_html_()
    assert "thumbnail is missing or damaged" in card
    assert "300 x 200 px" in card


def test_an_empty_store_has_a_card(tmp_path: Path) -> None:
    assert "0 slides" in TileStore.create(tmp_path)._repr_html_()


@pytest.mark.parametrize("slide_id", ["wide", "small"])
def test_each_slide_is_a_valid_ngff_image(store: TileStore, slide_id: str) -> None:
    path = str(store[slide_id].path)
    yaozarrs.validate_zarr_store(path)
    (multiscale,) = NgffImage.from_zarr(zarr.open_group(path, mode="r")).ome_attributes.multiscales
    assert [axis.name for axis in multiscale.axes] == ["c", "y", "x"]
    (scale,) = multiscale.datasets[0].coordinateTransformations
    assert list(scale.scale) == [1.0, 0.25, 0.25]


def test_every_array_of_a_slide_opens_with_zarr(store: TileStore) -> None:
    for slide_id in store:
        group = zarr.open_group(store[slide_id].path, mode="r")
        assert {"0", "maps", "thumbnail", "mask"} <= set(group.keys())
        for name in store[slide_id].maps():
            assert np.array_equal(np.asarray(group[f"maps/{name}"]), store[slide_id].map(name))
