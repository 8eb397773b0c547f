"""Blended passes, for generators that see too far: one picture whatever the cut, without a step where passes meet."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.support.made_checkpoint import STATISTICS, WHITE, lively
from tests.support.made_store import paint_tissue
from wsi_stain.core.geometry import TILE, Region, Size
from wsi_stain.normalizers.generator import GeneratorNormalizer, GuardNormalizer
from wsi_stain.normalizers.predictor import GeneratorPredictor
from wsi_stain.normalizers.windows import Windows
from wsi_stain.store.artifact import STATISTICS as STATISTICS_ENTRY
from wsi_stain.store.artifact import pack_statistics

Pixels = NDArray[np.uint8]
SIZE = Size(1200, 900)
ARTIFACT = {STATISTICS_ENTRY: pack_statistics(STATISTICS)}


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> GeneratorPredictor:
    """The paper's depth, eight downs, with few channels."""
    path = tmp_path_factory.mktemp("checkpoint") / "c.safetensors"
    return GeneratorPredictor(lively(path, spread=0.25, downs=8, ngf=2), precision="float32")


@pytest.fixture(scope="module")
def slide() -> Pixels:
    return paint_tissue(SIZE, seed=8)


def read(slide: Pixels, region: Region) -> Pixels:
    """Glass beyond the slide."""
    pixels = np.full((region.height, region.width, 3), 255, np.uint8)
    left, top = max(region.x, 0), max(region.y, 0)
    found = slide[top : region.y + region.height, left : region.x + region.width]
    pixels[top - region.y :, left - region.x :][: found.shape[0], : found.shape[1]] = found
    return pixels


def by_blocks(normalizer: GeneratorNormalizer, slide: Pixels, side: int) -> Pixels:
    made = np.zeros_like(slide)
    for y in range(0, SIZE.height, side):
        for x in range(0, SIZE.width, side):
            region = Region(x, y, min(side, SIZE.width - x), min(side, SIZE.height - y))
            needed = np.ones((-(-region.height // TILE), -(-region.width // TILE)), bool)
            part = normalizer.apply(read(slide, region.expand(normalizer.halo)), needed, ARTIFACT)
            made[y : y + region.height, x : x + region.width] = part
    return made


@pytest.mark.parametrize(
    "guard", [pytest.param(False, id="generator"), pytest.param(True, id="guard", marks=pytest.mark.slow)]
)
def test_blocks_of_any_size_give_the_very_same_pixels(
    predictor: GeneratorPredictor, slide: Pixels, guard: bool
) -> None:
    normalizer = (
        GuardNormalizer(predictor, WHITE, 512, radius=16) if guard else GeneratorNormalizer(predictor, WHITE, 512)
    )
    whole = by_blocks(normalizer, slide, 2048)
    assert whole.std() > 5
    np.testing.assert_array_equal(by_blocks(normalizer, slide, 512), whole)
    np.testing.assert_array_equal(by_blocks(normalizer, slide, 1024), whole)


def test_passes_that_disagree_fade_into_each_other() -> None:
    """Each pass is 40 grey levels away from its neighbours; side by side that is a step, blended none."""
    needed, largest = np.ones((8, 8), bool), {}
    for overlap in (0, 128):
        windows = Windows(512, overlap, 64)
        made = [
            (corner, np.full((512 + 2 * overlap, 512 + 2 * overlap, 3), 100 + 40 * (sum(corner) // 512 % 2), np.uint8))
            for corner in windows.corners(needed)
        ]
        join = windows.join(made, (8 * TILE, 8 * TILE), WHITE).astype(int)
        largest[overlap] = max(np.abs(np.diff(join, axis=axis)).max() for axis in (0, 1))
        assert (join.min(), join.max()) == (100, 140)
    assert largest == {0: 40, 128: 1}


def test_a_large_core_is_exact_even_at_that_depth(predictor: GeneratorPredictor, slide: Pixels) -> None:
    normalizer = GeneratorNormalizer(predictor, WHITE, 1536)
    assert normalizer._windows.overlap == 0 and normalizer.halo == 512
    whole = predictor.predict(read(slide, Region(0, 0, 1536, 1536).expand(768)), STATISTICS)
    found = by_blocks(normalizer, slide, 1536)
    unlike = np.abs(
        found - (whole + 0.5).clamp(0, 255).to(torch.uint8).numpy()[: SIZE.height, : SIZE.width].astype(int)
    )
    assert unlike.max() <= 1 and (unlike > 0).mean() < 1e-3


@pytest.mark.parametrize("stride_px", [256, 512, 1024])
def test_weights_of_all_passes_sum_to_one(stride_px: int) -> None:
    windows, needed = Windows(stride_px, 128, 64), np.ones((4, 5), bool)
    made = [
        (corner, np.full((stride_px + 256, stride_px + 256, 3), 200, np.uint8)) for corner in windows.corners(needed)
    ]
    join = windows.join(made, (4 * TILE, 5 * TILE - 30), WHITE)
    assert (join == 200).all()


def test_a_needed_tile_gets_all_its_passes_and_others_are_left_out() -> None:
    windows, needed = Windows(512, 128, 64), np.zeros((16, 16), bool)
    needed[5, 5] = True  # 1280 to 1536 px: in the core at 1024, and within reach of the next
    assert windows.corners(needed) == [(1024, 1024), (1024, 1536), (1536, 1024), (1536, 1536)]


def test_of_side_by_side_results_only_what_holds_needed_tiles_is_made() -> None:
    needed = np.zeros((6, 8), bool)
    needed[1, 2] = needed[2, 3] = needed[4, 4] = True
    windows = Windows(4 * TILE, 0, 64)
    assert windows.corners(needed) == [(0, 0), (4 * TILE, 4 * TILE)]
    assert windows.find_needed(needed, [(0, 0)]) == (slice(TILE, 3 * TILE), slice(2 * TILE, 4 * TILE))
    both = windows.find_needed(needed, windows.corners(needed))
    assert both == (slice(0, 3 * TILE), slice(0, 4 * TILE)), "a batch has one shape"
    blended = Windows(4 * TILE, 128, 64).find_needed(needed, [(0, 0)])
    assert blended == (slice(0, 4 * TILE + 256), slice(0, 4 * TILE + 256))
