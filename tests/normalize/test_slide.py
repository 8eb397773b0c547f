"""Normalized while read: the pixels of a run's blocks, behind OpenSlide's own interface."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from openslide import AbstractSlide, OpenSlide
from openslide.deepzoom import DeepZoomGenerator
from PIL import Image
from scipy import ndimage

from tests.support.made_checkpoint import WHITE, write_untrained
from tests.support.tiled_slides import SIZE, SMALL, Run, paint, write
from wsi_stain import NormalizedSlide, normalized_tiles
from wsi_stain.core.errors import CheckpointError, SlideError, StainError
from wsi_stain.core.geometry import TILE, BlockIndex, Mpp, Size
from wsi_stain.core.journal import file_digest
from wsi_stain.formats.block_file import JpegConfig
from wsi_stain.normalize.block import block_workers, normalize_block_pixels
from wsi_stain.normalize.preparation import PrepareTask, prepare_slide
from wsi_stain.normalize.region import RegionNormalizer
from wsi_stain.normalizers.background import fade_to_white, fade_weights
from wsi_stain.normalizers.config import Mode, NormalizeConfig
from wsi_stain.normalizers.load import load_normalizer
from wsi_stain.slides.slide import SlideConfig
from wsi_stain.store import StoredSlide
from wsi_stain.store.artifact import load_artifact
from wsi_stain.tiling.config import TilingConfig

Pixels = NDArray[np.uint8]
FAST = {"stride_px": 512, "lut_tiles": 10, "lut_size": 9, "precision": "float32"}


def settings(mode: Mode) -> NormalizeConfig:
    return NormalizeConfig.model_validate({"mode": mode, **FAST})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of two blocks, its tile store, and a checkpoint."""
    root = tmp_path_factory.mktemp("normalized")
    Run(write(root / "a.tif", paint(SIZE)), root / "store").whole()
    write_untrained(root / "c.safetensors", mpp=0.5, gain=12)
    return root


@pytest.fixture(scope="module")
def stored_slide(root: Path) -> StoredSlide:
    return StoredSlide(root / "store" / "a.tif")


def of_run(root: Path, stored_slide: StoredSlide, config: NormalizeConfig) -> Pixels:
    """The whole slide as a run's tasks make it, before JPEG."""
    checkpoint = root / "c.safetensors"
    place = root / f"{config.mode}.npz"
    prepare_slide(
        PrepareTask(
            slide=stored_slide.opener,
            checkpoint=checkpoint,
            digest=file_digest(checkpoint),
            normalize=config,
            artifact=place,
            receipt=root / f"{config.mode}.json",
            key="k",
        )
    )
    whole = np.empty((SIZE.height, SIZE.width, 3), np.uint8)
    normalizer = load_normalizer(config, checkpoint)
    whole[:] = normalizer.white
    for col in range(2):
        block = BlockIndex(0, col)
        with block_workers(1) as by:
            job = stored_slide, block, normalizer, load_artifact(place), config, JpegConfig(), by
            pixels = normalize_block_pixels(*job, keep_pixels=True).pixels
        assert pixels is not None
        whole[:, col * 4096 :][:, : pixels.shape[1]] = pixels[..., :3]
    return whole


@pytest.fixture(scope="module", params=["lut", "generator"])
def pair(
    request: pytest.FixtureRequest, root: Path, stored_slide: StoredSlide
) -> Iterator[tuple[NormalizedSlide, Pixels]]:
    config = settings(request.param)
    with NormalizedSlide(root / "a.tif", root / "c.safetensors", config) as slide:
        yield slide, of_run(root, stored_slide, config)


def test_level_0_has_the_pixels_of_the_blocks(pair: tuple[NormalizedSlide, Pixels]) -> None:
    slide, whole = pair
    image = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))
    assert (image[..., 3] == 255).all()
    assert np.array_equal(image[..., :3], whole)
    assert len(np.unique(whole.reshape(-1, 3), axis=0)) > 1000


def test_regions_are_cut_from_it_and_transparent_outside(pair: tuple[NormalizedSlide, Pixels]) -> None:
    slide, whole = pair
    for x, y, width, height in [(900, 300, 300, 200), (1000, 1, 1100, 77), (4090, 500, 700, 600), (-50, -20, 200, 100)]:
        image = np.asarray(slide.read_region((x, y), 0, (width, height)))
        padded = np.zeros((2 * SIZE.height, 2 * SIZE.width, 4), np.uint8)
        padded[100 : 100 + SIZE.height, 100 : 100 + SIZE.width] = np.dstack([whole, np.full(whole.shape[:2], 255)])
        expected = padded[100 + y :, 100 + x :][:height, :width]
        assert np.array_equal(image[..., 3], expected[..., 3])
        assert np.array_equal(image[image[..., 3] > 0], expected[image[..., 3] > 0])


def test_coarser_levels_look_like_it(slide: NormalizedSlide) -> None:
    whole = slide.read_region((0, 0), 0, slide.dimensions).convert("RGB")
    small = np.asarray(slide.read_region((0, 0), 3, slide.level_dimensions[3]))
    full = np.asarray(whole.resize((588, 113), Image.Resampling.BOX)).astype(float)
    assert np.abs(small[..., :3] - full).mean() < 4
    glass = ~np.kron(ndimage.binary_dilation(slide._slide.kept), np.ones((32, 32), bool))[:113, :588]
    assert glass.any() and (small[glass][:, :3] == WHITE).all()
    assert (small[..., 3] == 255).all()
    part = np.asarray(slide.read_region((1600, 160), 3, (50, 40)))
    assert np.array_equal(part, small[20:60, 200:250])


@pytest.fixture(scope="module")
def slide(root: Path) -> Iterator[NormalizedSlide]:
    with NormalizedSlide(root / "a.tif", str(root / "c.safetensors"), settings("lut")) as slide:
        yield slide


def test_it_is_an_openslide(slide: NormalizedSlide) -> None:
    assert isinstance(slide, AbstractSlide)
    assert slide.dimensions == slide.level_dimensions[0] == SIZE
    assert slide.level_downsamples[:3] == (1, 2, 4)
    assert [slide.get_best_level_for_downsample(by) for by in (0.5, 1, 3.9, 4, 1e6)] == [0, 0, 1, 2, 5]
    assert slide.properties["openslide.mpp-x"] == "0.5"
    assert slide.properties["openslide.background-color"] == "F5F3F6"
    with OpenSlide(slide._slide.source.path) as raw:
        first = {name: value for name, value in raw.properties.items() if re.match(r"openslide.level\[0\].[^t]", name)}
    assert len(first) == 3 and first.items() <= slide.properties.items(), "width, height and downsample"
    for level, (width, height) in enumerate(slide.level_dimensions):
        assert slide.properties[f"openslide.level[{level}].width"] == str(width)
        assert slide.properties[f"openslide.level[{level}].height"] == str(height)
    assert slide.properties["openslide.level-count"] == str(slide.level_count)
    assert slide.associated_images == {}
    assert slide.get_thumbnail((300, 300)).size == (300, 58)
    assert NormalizedSlide.detect_format(slide._slide.source.path) == "generic-tiff"
    for level, size in [(-1, (1, 1)), (6, (1, 1)), (0, (-1, 5))]:
        with pytest.raises(ValueError, match="Expected a level below 6"):
            slide.read_region((0, 0), level, size)


def test_deep_zoom_shows_it(slide: NormalizedSlide) -> None:
    zoom = DeepZoomGenerator(slide, tile_size=254, overlap=1)
    tile = np.asarray(zoom.get_tile(zoom.level_count - 1, (4, 1)))
    expected = np.asarray(slide.read_region((4 * 254 - 1, 253), 0, (256, 256)))[..., :3]
    assert np.array_equal(tile, expected)
    coarse = zoom.get_tile(zoom.level_count - 4, (0, 0))
    assert coarse.size == (255, 113)


def test_threads_may_share_it(slide: NormalizedSlide) -> None:
    places = [(x, y) for x in range(0, 4400, 700) for y in (0, 500)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda place: slide.read_region(place, 0, (300, 300)).tobytes(), places))
    assert found == [slide.read_region(place, 0, (300, 300)).tobytes() for place in places]


def test_it_has_a_card(slide: NormalizedSlide) -> None:
    card = slide._repr_html_()
    assert "4703 x 901 px" in card and "lut of c.safetensors" in card
    (picture,) = re.findall(r"base64,([^\"]+)", card)
    assert Image.open(io.BytesIO(base64.b64decode(picture))).width > 100


@pytest.mark.parametrize("mode", ["lut", "generator"])
def test_tiles_are_those_of_the_blocks_but_for_the_fading(root: Path, stored_slide: StoredSlide, mode: Mode) -> None:
    config = settings(mode)
    tiles = dict(normalized_tiles(stored_slide, root / "c.safetensors", config))
    assert sorted(tiles) == stored_slide.tile_indices()
    whole = of_run(root, stored_slide, config)
    inner = [
        tile
        for tile in tiles
        if np.pad(stored_slide.kept, 1, mode="edge")[tile.row : tile.row + 3, tile.col : tile.col + 3].all()
    ]
    assert inner and len(inner) < len(tiles)
    for tile in inner:
        expected = whole[tile.row * TILE :, tile.col * TILE :][:TILE, :TILE]
        assert np.array_equal(tiles[tile][: expected.shape[0], : expected.shape[1]], expected)
    rich = dict(normalized_tiles(stored_slide, root / "c.safetensors", config, min_tissue=0.5))
    assert sorted(rich) == stored_slide.tile_indices(0.5) and len(rich) < len(tiles)
    assert all(np.array_equal(pixels, tiles[tile]) for tile, pixels in rich.items())


@pytest.mark.usefixtures("identity")
def test_cells_of_any_core_lie_as_in_a_block(root: Path, stored_slide: StoredSlide) -> None:
    for stride_px, side in [(256, 1024), (768, 4096), (2048, 2048), (3072, 4096)]:
        assert (
            RegionNormalizer(stored_slide, root / "c.safetensors", NormalizeConfig(stride_px=stride_px))._side == side
        )


def test_what_does_not_fit_is_refused(root: Path, tmp_path: Path) -> None:
    small = write(tmp_path / "b.tif", paint(SMALL), mpp=0.25).path
    with pytest.raises(CheckpointError, match=r"works at 0\.5 um/px"):
        NormalizedSlide(small, root / "c.safetensors", "lut")
    with pytest.raises(CheckpointError, match="ICC policy keep, asked for is srgb"):
        NormalizedSlide(small, root / "c.safetensors", tiling=TilingConfig(slide=SlideConfig(icc="srgb")))
    with pytest.raises(SlideError):
        NormalizedSlide(tmp_path / "none.svs", root / "c.safetensors")


def test_a_slide_may_be_resampled(root: Path, tmp_path: Path) -> None:
    fine = write(tmp_path / "b.tif", paint(SMALL), mpp=0.25).path
    config = TilingConfig(slide=SlideConfig(mpp=0.5))
    with NormalizedSlide(fine, root / "c.safetensors", settings("lut"), tiling=config) as slide:
        assert slide.dimensions == Size(752, 453)
        assert Mpp(*(float(slide.properties[f"openslide.mpp-{axis}"]) for axis in "xy")) == Mpp(0.5, 0.5)
        assert slide.read_region((0, 0), 0, (100, 100)).size == (100, 100)


def test_a_slide_whose_stain_was_not_measured_says_so(root: Path, stored_slide: StoredSlide) -> None:
    bare = StoredSlide(stored_slide.path, stored_slide.record.model_copy(update={"stain": None}))
    with pytest.raises(StainError, match="was not measured"):
        next(normalized_tiles(bare, root / "c.safetensors", "lut"))


def test_coarser_levels_fade_as_level_0_does() -> None:
    kept = np.random.default_rng(0).random((5, 7)) > 0.3
    pixels = np.zeros((5 * TILE, 7 * TILE, 3), np.uint8)
    fade_to_white(pixels, np.pad(kept, 1, mode="edge"), (200, 200, 200))
    rows, cols = ((np.arange(count * TILE) + 0.5) / TILE for count in kept.shape)
    weights = fade_weights(kept, rows, cols)
    assert np.abs(200 * (1 - weights) - pixels[..., 0]).max() <= 0.501
    beyond = fade_weights(kept, np.array([-3.0, 0.5, 9.0]), np.array([0.5]))
    assert beyond.shape == (3, 1) and beyond[0] == fade_weights(kept, np.zeros(1), np.array([0.5]))
