"""The sample that a slide's stain is measured on: rich and sharp tiles, no glass, the same each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from tests.support.tiled_slides import Run, paint, write
from wsi_stain.core.geometry import Size, TileIndex
from wsi_stain.stain.statistics import stain_remarks
from wsi_stain.store.stain_sample import sample_tiles, stained_pixels

GLASS = (240.0, 238.0, 242.0)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99), st.floats(0, 1))
def test_the_richest_tiles_are_sampled(rows: int, cols: int, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    kept = rng.random((rows, cols)) < share
    kept[0, 0] = True
    tissue = rng.random((rows, cols), np.float32) * kept
    sample, rich = sample_tiles(kept, tissue), int((tissue >= 0.25).sum())
    assert len(sample) == (min(rich, 256) if rich >= 16 else min(int(kept.sum()), 16))
    assert len(set(sample)) == len(sample)
    assert all(kept[tile] for tile in sample)
    left_out = {TileIndex(*place) for place in np.argwhere(kept).tolist()} - set(sample)
    if rich < 16 and left_out:
        assert max(tissue[tile] for tile in left_out) <= min(tissue[tile] for tile in sample)


def test_the_order_depends_on_places_alone() -> None:
    kept, tissue = np.ones((9, 7), bool), np.linspace(0.3, 1, 63, dtype=np.float32).reshape(9, 7)
    assert sample_tiles(kept, tissue) == sample_tiles(kept, tissue[::-1, ::-1])
    assert sample_tiles(kept, tissue) != sorted(sample_tiles(kept, tissue))


TISSUE = np.ones((256, 256), bool)


def tissue_tile(seed: int = 0) -> NDArray[np.uint8]:
    """Eosin and hematoxylin pixels, (256, 256, 3)."""
    stains = np.array([(200, 120, 170), (120, 80, 150)], np.uint8)
    return stains[np.random.default_rng(seed).integers(0, 2, (256, 256))]


@pytest.mark.parametrize("odd", [GLASS, (255, 255, 255)], ids=str)
def test_glass_is_left_out(odd: tuple[int, int, int]) -> None:
    tile = tissue_tile()
    tile[:128] = odd
    sample = stained_pixels(tile, TISSUE, GLASS, 1000)
    assert 400 < len(sample) <= 1000
    assert {tuple(pixel) for pixel in sample.tolist()} == {(200, 120, 170), (120, 80, 150)}


@pytest.mark.parametrize(("stained", "count", "expected"), [(256, 1000, 1000), (3, 1000, 768), (0, 1000, 0)])
def test_a_tile_gives_what_it_has(stained: int, count: int, expected: int) -> None:
    tile = tissue_tile()
    tile[stained:] = 255
    assert stained_pixels(tile, TISSUE, GLASS, count).shape == (expected, 3)


def test_what_is_no_tissue_is_left_out() -> None:
    tile, tissue = tissue_tile(), np.arange(256) < 128
    tile[:, 128:] = (150, 90, 150)
    sample = stained_pixels(tile, TISSUE & tissue, GLASS, 1000)
    assert {tuple(pixel) for pixel in sample.tolist()} == {(200, 120, 170), (120, 80, 150)}


def test_the_sample_covers_the_whole_tile() -> None:
    tile = tissue_tile()
    tile[..., 2] = np.arange(90, 218, 0.5).astype(np.uint8)[:, None]
    rows = stained_pixels(tile, TISSUE, GLASS, 256)[:, 2]
    assert np.array_equal(rows, np.sort(rows))
    assert len(np.unique(rows)) == 128


def test_stain_is_measured_on_sharp_tiles_and_a_blurred_slide_says_so(tmp_path: Path) -> None:
    sharp = paint(Size(2047, 901))
    soft = gaussian_filter(sharp, (4, 4, 0))
    partly = np.where(np.arange(sharp.shape[1])[:, None] < 900, soft, sharp)
    stains = {}
    for name, pixels in {"sharp": sharp, "partly": partly, "soft": soft}.items():
        stains[name] = Run(write(tmp_path / f"{name}.tif", pixels), tmp_path / name).whole().require_stain()
    assert stains["sharp"].blurred < 0.1 < stains["partly"].blurred < 0.5
    assert stains["partly"].h_nuclei == pytest.approx(stains["sharp"].h_nuclei, rel=0.1)
    assert stains["soft"].h_nuclei < 0.75 * stains["sharp"].h_nuclei
    assert stains["soft"].blurred > 0.9
    assert any("out of focus" in remark for remark in stain_remarks(stains["soft"]))
    assert stain_remarks(stains["sharp"]) == []
