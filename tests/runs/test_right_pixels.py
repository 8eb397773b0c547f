"""What the store holds is what others see: OpenSlide at native resolution, an exact mean over areas when resampled."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms
from skimage.registration import phase_cross_correlation

from tests.support.slide_files import Jpeg, shrink, write_jpeg_slide
from tests.support.tiled_slides import SIZE, Run, paint
from wsi_stain.core.geometry import TILE, BlockIndex, Size, TileIndex, tiles_of
from wsi_stain.core.icc import srgb_profile
from wsi_stain.slides.listing.find import SlideSource, find_slides
from wsi_stain.slides.slide import Slide, SlideConfig
from wsi_stain.store import StoredSlide
from wsi_stain.tiling.block import BlockTask, tile_block
from wsi_stain.tiling.config import TilingConfig
from wsi_stain.tiling.record import make_record

TCGA = "formats/TCGA-CR-7395-01A-01-TS1.svs"
VARIANTS = [
    Jpeg((240, 240), "RGB", "444", shared_tables=True, aperio=True),
    Jpeg((256, 256), "YCBCR", "420"),
    Jpeg((1024, 1024), "YCBCR", "422"),
]


def write_painted_slide(path: Path, jpeg: Jpeg) -> SlideSource:
    write_jpeg_slide(path, [paint(SIZE), shrink(paint(SIZE), 4)], jpeg, mpp=0.5)
    return SlideSource(path=path, slide_id=path.name, relative=path.name)


def by_openslide(handle: openslide.OpenSlide, tile: TileIndex) -> NDArray[np.uint8]:
    """A tile of level 0, (256, 256, 3), white beyond the slide."""
    image = handle.read_region((tile.col * TILE, tile.row * TILE), 0, (TILE, TILE))
    return np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"))


def far_block(run: Run) -> tuple[StoredSlide, list[TileIndex]]:
    """A slide of which one block is tiled, and the places of its tiles: the last block that is well filled."""
    survey = run.survey()
    with Slide(run.source.path, run.config.slide) as slide:
        stored = StoredSlide(run.store / run.source.slide_id, make_record(slide, run.source, run.config))
    kept = stored.kept
    tiles = {block: [tile for tile in tiles_of(block, kept.shape) if kept[tile]] for block in blocks(survey)}
    most = max(map(len, tiles.values()))
    block = [block for block in tiles if len(tiles[block]) > most / 2][-1]
    tile_block(BlockTask(run.source, run.store, run.config, block, survey["key"]))
    return stored, tiles[block]


def blocks(survey: dict[str, Any]) -> list[BlockIndex]:
    return [BlockIndex(*block) for block in survey["blocks"]]


@pytest.mark.parametrize("jpeg", VARIANTS, ids=str)
def test_a_store_holds_what_openslide_shows(tmp_path: Path, jpeg: Jpeg) -> None:
    source = write_painted_slide(tmp_path / "a.tif", jpeg)
    stored = Run(source, tmp_path / "store").whole()
    places = [TileIndex(*tile) for tile in np.argwhere(stored.kept).tolist()]
    assert any(tile.row == 3 for tile in places) and any(tile.col == 18 for tile in places), "both far edges are kept"
    with openslide.OpenSlide(source.path) as handle:
        for tile in places:
            assert np.array_equal(stored.read_tile(tile), by_openslide(handle, tile))


@pytest.mark.parametrize(
    ("name", "mpp"),
    [("slides/AT2_gastric_metaplasia.svs", None), ("formats/CMU-1-Small-Region.svs", None), (TCGA, 0.25)],
)
def test_a_store_of_a_real_slide_holds_what_openslide_shows(
    tmp_path: Path, real_data: Path, name: str, mpp: float | None
) -> None:
    (source,) = find_slides([real_data / name])
    stored, tiles = far_block(Run(source, tmp_path / "store", TilingConfig(slide=SlideConfig(slide_mpp=mpp))))
    assert len(tiles) > 20
    with openslide.OpenSlide(source.path) as handle:
        for tile in tiles:
            assert np.array_equal(stored.read_tile(tile), by_openslide(handle, tile))


def average_tile(source: Path, tile: TileIndex, step: float) -> NDArray[np.float64]:
    """A tile whose pixels measure `step` pixels of level 0, (256, 256, 3): differences of the integral."""
    left, top, side = tile.col * TILE * step, tile.row * TILE * step, TILE * step
    x, y = int(left), int(top)
    with openslide.OpenSlide(source) as handle:
        pixels = np.asarray(handle.read_region((x, y), 0, (int(side) + 2, int(side) + 2)).convert("RGB"), float)
    for axis, first in ((0, top - y), (1, left - x)):
        integral = np.insert(np.cumsum(pixels, axis=axis), 0, 0.0, axis=axis)
        places = first + np.arange(TILE + 1) * step
        low = np.floor(places).astype(int)
        weight = np.expand_dims(places - low, (1, 2) if axis == 0 else (0, 2))
        at = integral.take(low, axis) * (1 - weight) + integral.take(low + 1, axis) * weight
        pixels = np.diff(at, axis=axis) / step
    return pixels


@pytest.mark.parametrize("step", [1.37, 2.0, 3.7, 4.6])
def test_a_resampled_store_is_in_place_to_half_a_pixel(tmp_path: Path, real_data: Path, step: float) -> None:
    (source,) = find_slides([real_data / "slides" / "AT2_gastric_metaplasia.svs"])
    with Slide(source.path) as slide:
        mpp = round(step * slide.mpp.x, 6)
        step = mpp / slide.mpp.x
        size = slide.size
    stored, tiles = far_block(Run(source, tmp_path / "store", TilingConfig(slide=SlideConfig(mpp=mpp))))
    whole = [tile for tile in tiles if fits(tile, step, size) and stored.tissue[tile] > 0.9]
    assert len(whole) > 3
    for tile in whole[-4:]:
        found, expected = stored.read_tile(tile).astype(float), average_tile(source.path, tile, step)
        shift, _, _ = phase_cross_correlation(expected[..., 1], found[..., 1], upsample_factor=20)
        assert np.abs(shift).max() < 0.5
        if step < 3.9:  # made from level 0, as the expectation is
            assert np.abs(found - expected).max() < 0.51


def fits(tile: TileIndex, step: float, size: Size) -> bool:
    """Whether a tile of a resampled frame lies within the slide."""
    return (tile.col + 1) * TILE * step < size.width - 2 and (tile.row + 1) * TILE * step < size.height - 2


def test_colours_are_converted_on_the_way_from_jpeg_tiles_as_from_openslide(tmp_path: Path) -> None:
    profile = srgb_profile().replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
    path = write_jpeg_slide(tmp_path / "a.tif", [paint(SIZE)], Jpeg((240, 240)), mpp=0.5, iccprofile=profile)
    source = SlideSource(path=path, slide_id="a.tif", relative="a.tif")
    kept, tiles = far_block(Run(source, tmp_path / "keep"))
    srgb, _ = far_block(Run(source, tmp_path / "srgb", TilingConfig(slide=SlideConfig(icc="srgb"))))
    transform = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), "RGB", "RGB"
    )
    with openslide.OpenSlide(path) as handle:
        for tile in tiles:
            shown = by_openslide(handle, tile)[: SIZE.height - tile.row * TILE, : SIZE.width - tile.col * TILE]
            area = (slice(0, shown.shape[0]), slice(0, shown.shape[1]))
            assert np.array_equal(kept.read_tile(tile)[area], shown)
            converted = ImageCms.applyTransform(Image.fromarray(shown), transform)
            assert converted is not None
            assert np.array_equal(srgb.read_tile(tile)[area], np.asarray(converted))
