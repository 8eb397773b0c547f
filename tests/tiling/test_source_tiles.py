"""Tiles of the slide's file that are kept as they are: the same pixels, and the very bytes of the file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from tests.support.slide_files import Jpeg, encode_tiles, shrink, write_jpeg_slide
from tests.support.tiled_slides import SMALL, Run, paint
from wsi_stain.core.geometry import TILE, Region, TileIndex
from wsi_stain.formats.zarr_jpeg import ZarrJpeg
from wsi_stain.formats.zarr_shard import CODECS
from wsi_stain.slides.levels import own_pixels
from wsi_stain.slides.listing.find import SlideSource
from wsi_stain.slides.slide import SlideConfig
from wsi_stain.store import StoredSlide
from wsi_stain.tiling.config import TilingConfig
from wsi_stain.tiling.inspect import InspectTask, inspect_slide

pytest.importorskip("simplejpeg")
zarr.registry.register_codec("imagecodecs_jpeg", ZarrJpeg)  # a fresh installation brings it as a plugin

FRAME = Region(0, 0, *SMALL)
CODED = Jpeg((TILE, TILE), "YCBCR", "420")
LOSSLESS = TilingConfig(codec="lossless", max_holes=1)


def write(path: Path, jpeg: Jpeg = CODED, **options: Any) -> Run:
    """A painted slide of JPEG tiles, with odd tiles at both far edges, and how it is tiled by default."""
    pixels = paint(SMALL)
    write_jpeg_slide(path, [pixels, shrink(pixels, 4)], jpeg, mpp=0.5, **options)
    source = SlideSource(path=path, slide_id=path.name, relative=path.name)
    return Run(source, path.parent / "store", TilingConfig(max_holes=1))


def facts_of(stored: StoredSlide) -> dict[str, Any]:
    record = stored.record.model_dump()
    return {name: record[name] for name in record if name not in ("settings_key", "settings")}


@pytest.mark.parametrize(
    "jpeg",
    [
        CODED,
        Jpeg((TILE, TILE), "RGB", "444", shared_tables=True, aperio=True),
        Jpeg((TILE, TILE), "YCBCR", "422", shared_tables=True),
    ],
    ids=str,
)
def test_the_store_shows_what_a_lossless_one_shows(tmp_path: Path, jpeg: Jpeg) -> None:
    run = write(tmp_path / "a.tif", jpeg)
    stored = run.whole()
    expected = replace(run, store=tmp_path / "lossless", config=LOSSLESS).whole()
    assert (stored.codec.name, expected.codec.name) == ("source", "lossless")
    assert stored.maps() == expected.maps()
    for name in stored.maps():
        assert np.array_equal(stored.map(name), expected.map(name), equal_nan=name in ("blur", "pen"))
    beyond = FRAME.expand(40)
    assert np.array_equal(stored.read(beyond), expected.read(beyond))
    assert np.array_equal(stored.read_tiles(stored.tile_indices()), expected.read_tiles(stored.tile_indices()))
    assert facts_of(stored) == facts_of(expected)
    image = zarr.open_group(stored.path, mode="r")["0"]
    assert np.array_equal(image[:].transpose(1, 2, 0), stored.read(FRAME))


def test_the_tiles_are_the_files_own(tmp_path: Path) -> None:
    run = write(tmp_path / "a.tif")
    stored, tiles = run.whole(), encode_tiles(paint(SMALL), CODED)
    shard = (stored.path / "0/c/0/0/0").read_bytes()
    columns = stored.kept.shape[1]
    assert stored.kept.any()
    for number, tile in enumerate(tiles):
        scan = tile[tile.index(b"\xff\xda") :]
        assert (scan in shard) == bool(stored.kept[divmod(number, columns)])
    assert len(shard) < 1.1 * sum(len(tile) for number, tile in enumerate(tiles) if stored.kept.flat[number]) + 4200


@pytest.mark.parametrize("spoil", [lambda tile: b"", lambda tile: tile[: len(tile) // 2]], ids=["lost", "cut"])
def test_what_the_file_lacks_is_stored_as_it_is_shown(tmp_path: Path, spoil: Any) -> None:
    tile = TileIndex(1, 3)
    columns = -(-SMALL.width // TILE)
    number = tile.row * columns + tile.col
    content = spoil(encode_tiles(paint(SMALL), CODED)[number])
    run = write(tmp_path / "a.tif", spoilt={(0, number): content})
    stored = run.whole()
    expected = replace(run, store=tmp_path / "lossless", config=LOSSLESS).whole()
    assert stored.codec.name == "source"
    assert np.argwhere(stored.map("holes")).tolist() == np.argwhere(expected.map("holes")).tolist() == [list(tile)]
    assert np.array_equal(stored.read(FRAME), expected.read(FRAME))


def test_other_tiles_are_stored_lossless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write(tmp_path / "a.tif")
    assert replace(run, config=TilingConfig(slide=SlideConfig(mpp=0.7))).whole().codec.name == "lossless"
    assert replace(run, config=TilingConfig(codec="jpeg")).whole().codec.name == "jpeg"
    small = write(tmp_path / "b.tif", Jpeg((128, 128), "YCBCR", "420"))
    assert small.whole().codec.name == "lossless"
    monkeypatch.setattr(own_pixels, "simplejpeg", None)
    without = replace(run, store=tmp_path / "without").whole()
    assert without.codec.name == "lossless"


def test_a_worker_without_the_decoder_stores_the_same_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write(tmp_path / "a.tif")
    expected = run.whole().read(FRAME)
    run = replace(run, store=tmp_path / "other")
    survey = run.survey()
    monkeypatch.setattr(own_pixels, "simplejpeg", None)
    run.blocks(survey)
    run.finish(survey)
    assert run.stored.codec.name == "source"
    assert np.array_equal(run.stored.read(FRAME), expected)


def test_converted_colours_are_stored_lossless(tmp_path: Path) -> None:
    from wsi_stain.core.icc import srgb_profile

    run = write(tmp_path / "a.tif", iccprofile=srgb_profile())
    assert run.whole().codec.name == "source"
    assert replace(run, config=TilingConfig(slide=SlideConfig(icc="srgb"))).whole().codec.name == "lossless"


def test_pixels_without_a_file_are_stored_exactly() -> None:
    codec, pixels = CODECS["source"], np.random.default_rng(0).integers(0, 256, (TILE, TILE, 3), np.uint8)
    assert np.array_equal(codec.decode(codec.encode(pixels)), pixels)


def test_a_look_tells_the_smaller_size(tmp_path: Path) -> None:
    run = write(tmp_path / "a.tif")
    look = inspect_slide(InspectTask(run.source, run.config))
    lossless = inspect_slide(InspectTask(run.source, LOSSLESS))
    assert 0 < look["bytes"] < lossless["bytes"] / 5
