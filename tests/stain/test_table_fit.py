"""The table follows what it saw, stays sane where it saw nothing, and is applied exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

from wsi_stain.stain.colour_bins import ColourPairs
from wsi_stain.stain.colour_table import apply_table, look_up, refine_table
from wsi_stain.stain.table_fit import chain_tables, fit_table

Pixels = NDArray[np.uint8]
WHITE, WANTED_WHITE = (231.0, 236.0, 240.0), (245.0, 243.0, 246.0)
STAINS = np.array([[0.65, 0.70, 0.29], [0.27, 0.57, 0.78]])
OTHER_STAINS = np.array([[0.55, 0.78, 0.30], [0.15, 0.80, 0.58]])


def tissue(count: int, stains: NDArray[np.float64], white: tuple[float, ...], seed: int = 0) -> Pixels:
    """Colours of tissue: the same hematoxylin and eosin for the same seed, whatever the stain."""
    rng = np.random.default_rng(seed)
    amounts = rng.gamma([1.5, 2.0], [0.5, 0.3], (count, 2))
    return np.round(np.asarray(white) * np.exp(-amounts @ stains)).astype(np.uint8)


def pairs_of(source: Pixels, wanted: Pixels) -> ColourPairs:
    pairs = ColourPairs()
    pairs.add(source, wanted)
    return pairs


def fall_along_gray(table: NDArray[np.float32]) -> float:
    """How far the luminance falls below what it had reached, grey levels."""
    gray = np.repeat(np.linspace(0, 255, 256)[:, None], 3, axis=1)
    luminance = look_up(table, gray) @ np.array([0.299, 0.587, 0.114])
    return float((np.maximum.accumulate(luminance) - luminance).max())


@pytest.fixture(scope="module")
def fitted_table() -> NDArray[np.float32]:
    source, wanted = tissue(40_000, STAINS, WHITE), tissue(40_000, OTHER_STAINS, WANTED_WHITE)
    return fit_table(pairs_of(source, wanted), WHITE, WANTED_WHITE)


@pytest.mark.parametrize("size", [5, 17, 33])
def test_pillow_applies_what_an_independent_interpolator_says(size: int) -> None:
    rng = np.random.default_rng(size)
    nodes = np.stack(np.meshgrid(*[np.linspace(0, 255, size)] * 3, indexing="ij"), axis=-1)[..., [2, 0, 1]]
    table = np.clip(nodes + rng.uniform(-25, 25, nodes.shape), 0, 255).astype(np.float32)
    pixels = rng.integers(0, 256, (601, 37, 3), dtype=np.uint8)
    axis = np.linspace(0, 255, size)
    expected = RegularGridInterpolator((axis, axis, axis), table)(pixels)
    np.testing.assert_allclose(look_up(table, pixels.reshape(-1, 3)).reshape(pixels.shape), expected, atol=1e-2)
    np.testing.assert_allclose(apply_table(table, pixels), expected, atol=0.6)


def test_a_change_of_stain_is_learned(fitted_table: NDArray[np.float32]) -> None:
    source, wanted = tissue(5_000, STAINS, WHITE, seed=1), tissue(5_000, OTHER_STAINS, WANTED_WHITE, seed=1)
    before = np.abs(source.astype(float) - wanted).mean()
    after = np.abs(look_up(fitted_table, source) - wanted).mean()
    assert before > 12
    assert after < 1.0


def test_a_bend_that_no_matrix_explains_is_learned() -> None:
    source = tissue(40_000, STAINS, WHITE)
    wanted = np.round(255 * (source / 255.0) ** 1.6).astype(np.uint8)
    table = fit_table(pairs_of(source, wanted), WHITE, tuple(255 * (np.array(WHITE) / 255) ** 1.6))  # type: ignore[arg-type]
    assert np.abs(look_up(table, source) - wanted).mean() < 1.0


@given(
    st.tuples(*[st.floats(180, 255)] * 3),
    st.tuples(*[st.floats(180, 255)] * 3),
    st.sampled_from([9, 17]),
)
@settings(deadline=None, max_examples=25)
def test_white_falls_on_the_wanted_white(
    white: tuple[float, float, float], wanted: tuple[float, float, float], size: int
) -> None:
    pairs = pairs_of(tissue(2_000, STAINS, white), tissue(2_000, OTHER_STAINS, wanted))
    found = look_up(fit_table(pairs, white, wanted, size), np.array([white]))[0]
    np.testing.assert_allclose(found, wanted, atol=0.5)


def test_nothing_seen_is_the_plain_change_of_white() -> None:
    table = fit_table(ColourPairs(), (200.0, 200.0, 200.0), (220.0, 220.0, 220.0))
    colours = np.array([[200, 200, 200], [100, 100, 100], [0, 0, 0], [30, 150, 90]])
    np.testing.assert_allclose(look_up(table, colours), colours * 1.1, atol=1.5)


@pytest.mark.parametrize(
    "colour",
    [(20, 160, 60), (30, 40, 190), (200, 20, 20), (0, 255, 0), (0, 0, 255), (255, 0, 0), (10, 200, 200)],
    ids=["green pen", "blue pen", "blood", "green", "blue", "red", "cyan"],
)
def test_colours_never_seen_keep_their_hue(fitted_table: NDArray[np.float32], colour: tuple[int, int, int]) -> None:
    found = look_up(fitted_table, np.array([colour]))[0]
    assert ((found >= 0) & (found <= 255)).all()
    hue = np.array(colour) - np.mean(colour)
    new_hue = found - found.mean()
    cosine = hue @ new_hue / np.linalg.norm(hue) / np.linalg.norm(new_hue)
    assert cosine > np.cos(np.radians(35)), (colour, found)


@pytest.mark.parametrize("seed", range(3))
def test_luminance_never_falls_along_gray_even_when_the_pairs_say_so(seed: int) -> None:
    rng = np.random.default_rng(seed)
    level = rng.integers(60, 200, 20_000)
    source = np.clip(level[:, None] + rng.integers(-3, 4, (20_000, 3)), 0, 255).astype(np.uint8)
    wanted = np.repeat((260 - level)[:, None], 3, axis=1).astype(np.uint8)
    table = fit_table(pairs_of(source, wanted), WHITE, WANTED_WHITE)
    assert fall_along_gray(table) < 0.6


def test_luminance_rises_along_gray_on_noisy_glass() -> None:
    rng = np.random.default_rng(0)
    glass = np.clip(rng.normal(WHITE, 4, (50_000, 3)), 0, 255).astype(np.uint8)
    source = np.vstack([tissue(20_000, STAINS, WHITE), glass])
    flat = np.full_like(glass, np.round(WANTED_WHITE))
    wanted = np.vstack([tissue(20_000, OTHER_STAINS, WANTED_WHITE), flat])
    table = fit_table(pairs_of(source, wanted), WHITE, WANTED_WHITE)
    assert fall_along_gray(table) < 0.6
    np.testing.assert_allclose(look_up(table, np.array([WHITE]))[0], WANTED_WHITE, atol=0.5)


def test_the_order_of_the_pairs_is_nothing() -> None:
    source, wanted = tissue(9_000, STAINS, WHITE), tissue(9_000, OTHER_STAINS, WANTED_WHITE)
    shuffled = ColourPairs()
    for part in np.array_split(np.random.default_rng(3).permutation(9_000), 7):
        shuffled.add(source[part], wanted[part])
    for one, other in zip(pairs_of(source, wanted).means(), shuffled.means(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_common_colour_does_not_drown_its_rare_neighbour() -> None:
    common, rare = np.array([[180, 120, 170]], np.uint8), np.array([[164, 104, 154]], np.uint8)
    pairs = pairs_of(tissue(2_000, STAINS, WHITE), tissue(2_000, STAINS, WHITE))
    pairs.add(common.repeat(1_000_000, axis=0), common.repeat(1_000_000, axis=0))
    pairs.add(rare.repeat(1_000, axis=0), (rare + 20).repeat(1_000, axis=0))
    table = fit_table(pairs, WHITE, WHITE)
    assert look_up(table, rare)[0].mean() > rare.mean() + 10


def test_apply_takes_parts_of_larger_arrays_and_leaves_its_input(fitted_table: NDArray[np.float32]) -> None:
    whole = np.random.default_rng(0).integers(0, 256, (700, 90, 3), dtype=np.uint8)
    before = whole.copy()
    part = apply_table(fitted_table, whole[13:650, 5:70])
    np.testing.assert_array_equal(part, apply_table(fitted_table, whole)[13:650, 5:70])
    np.testing.assert_array_equal(whole, before)


def test_a_refined_table_gives_the_same_colours() -> None:
    table = np.random.default_rng(3).uniform(0, 255, (5, 5, 5, 3)).astype(np.float32)
    finer, colours = refine_table(table), np.random.default_rng(4).uniform(0, 255, (500, 3))
    assert finer.shape == (9, 9, 9, 3)
    np.testing.assert_allclose(look_up(finer, colours), look_up(table, colours), atol=1e-3)


def test_chained_tables_are_one_after_the_other(fitted_table: NDArray[np.float32]) -> None:
    back = pairs_of(tissue(9_000, OTHER_STAINS, WANTED_WHITE), tissue(9_000, STAINS, WANTED_WHITE))
    second, colours = fit_table(back, WANTED_WHITE, WANTED_WHITE), tissue(2_000, STAINS, WHITE)
    both = chain_tables(fitted_table, second, WHITE, WANTED_WHITE)
    assert both.shape == fitted_table.shape
    np.testing.assert_allclose(look_up(both, np.array([WHITE]))[0], WANTED_WHITE, atol=0.5)
    first = look_up(fitted_table, colours)
    expected = look_up(second, first)
    assert np.abs(look_up(both, colours) - expected).mean() < 0.2 * np.abs(first - expected).mean()
    assert fall_along_gray(both) < 0.6
