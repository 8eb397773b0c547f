"""The hallucination map: planted nuclei stand out, a change of the whole slide's colours does not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support.made_store import WHITE, paint_tissue
from wsi_stain.core.geometry import TILE, BlockIndex, Size
from wsi_stain.metrics.hallucination import hallucination, join_hallucination_maps, map_png, pack_map
from wsi_stain.stain.colour_bins import ColourPairs
from wsi_stain.stain.colour_table import Table
from wsi_stain.stain.table_fit import fit_table

Pixels = NDArray[np.uint8]
SHAPE = (4, 5)
SIZE = Size(5 * TILE, 4 * TILE - 77)


@pytest.fixture(scope="module")
def source() -> Pixels:
    return paint_tissue(SIZE, seed=2)


def add_contrast(pixels: Pixels) -> Pixels:
    """Another tone curve, for the whole slide alike."""
    return np.rint(255 * (pixels / 255.0) ** 1.6).astype(np.uint8)


def fit_pair(source: Pixels, output: Pixels) -> Table:
    pairs = ColourPairs()
    pairs.add(source.reshape(-1, 3), output.reshape(-1, 3))
    return fit_table(pairs, WHITE, tuple(add_contrast(np.array(WHITE))))  # type: ignore[arg-type]


def map_hallucination(source: Pixels, output: Pixels, table: Table) -> NDArray[np.uint8]:
    return hallucination(source, output, np.ones(SHAPE, bool), table)


def plant(pixels: Pixels, row: int, col: int, nuclei: int = 6) -> None:
    """Put round nuclei of 18 px into a tile."""
    y, x = np.mgrid[:TILE, :TILE]
    tile = pixels[row * TILE : (row + 1) * TILE, col * TILE : (col + 1) * TILE]
    for place in range(nuclei):
        disc = np.hypot(y - 40 - 30 * place, x - 60 - 61 * (place % 3)) < 9
        tile[disc] = (85, 60, 130)


def test_planted_nuclei_stand_out_and_a_change_of_contrast_does_not(source: Pixels) -> None:
    output = add_contrast(source)
    table = fit_pair(source, output)
    calm = map_hallucination(source, output, table)
    assert calm.max() <= 5, "half a CIEDE2000"
    plant(output, 2, 3)
    found = map_hallucination(source, output, table)
    assert found[2, 3] >= 60
    found[2, 3] = calm[2, 3]
    np.testing.assert_array_equal(found, calm)


def test_lost_nuclei_show(source: Pixels) -> None:
    """What is missing is as bad as what is invented."""
    with_nuclei, output = source.copy(), add_contrast(source)
    plant(with_nuclei, 1, 1)
    assert map_hallucination(with_nuclei, output, fit_pair(source, output))[1, 1] >= 60


def test_grain_that_the_generator_smooths_away_counts_less_than_six_nuclei(source: Pixels) -> None:
    grain, output = np.random.default_rng(0).normal(0, 6, source.shape), add_contrast(source)
    noisy = np.clip(source + grain, 0, 255).astype(np.uint8)
    assert map_hallucination(noisy, output, fit_pair(noisy, output)).max() <= 20


def test_tiles_that_are_not_kept_are_nothing(source: Pixels) -> None:
    kept = np.zeros(SHAPE, bool)
    table = fit_pair(source, add_contrast(source))
    black = np.zeros_like(source)
    assert not hallucination(source, black, kept, table).any()
    kept[3, 4] = True
    assert np.argwhere(hallucination(source, black, kept, table)).tolist() == [[3, 4]]


def test_a_slide_s_last_row_of_pixels_does_not_speak_for_a_tile(source: Pixels) -> None:
    """Beyond its edge the generator sees glass, and errs there by a few pixels; a tile may have little else."""
    source, output = source[: 3 * TILE + 40], add_contrast(source)[: 3 * TILE + 40]
    output[-8:] = 0
    table = fit_pair(source, add_contrast(source))
    assert map_hallucination(source, output, table).max() <= 5


def test_blocks_take_their_places_in_the_map() -> None:
    part = np.arange(1, 21, dtype=np.uint8).reshape(SHAPE)
    whole = join_hallucination_maps({BlockIndex(1, 2): pack_map(part)}, (16 + SHAPE[0], 32 + SHAPE[1]))
    np.testing.assert_array_equal(whole[16:, 32:], part)
    assert not whole[:16].any() and not whole[:, :32].any()
    picture = Image.open(io.BytesIO(map_png(whole)))
    assert (picture.mode, picture.format) == ("L", "PNG")
    np.testing.assert_array_equal(np.asarray(picture), whole)
