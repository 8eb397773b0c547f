"""Nuclei kept: 1 where nothing changes, less with each nucleus lost or planted, the same whatever the stain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.draw import disk

from wsi_stain.core.geometry import Region
from wsi_stain.metrics.nuclei import find_source_nuclei
from wsi_stain.slides.slide import Slide

Tiles = NDArray[np.uint8]

MPP = 0.25
WHITE = np.array([242, 240, 243.0])
STAINS = np.array([(0.65, 0.70, 0.29), (0.10, 0.95, 0.25)])
NUCLEI = [(40, 50), (60, 180), (110, 110), (150, 40), (170, 200), (215, 90), (220, 160), (90, 230)]


def concentrations(nuclei: list[tuple[int, int]], seed: int = 0) -> NDArray[np.float64]:
    """H and E, (256, 256, 2): stroma with some grain, round nuclei of 5 um, glass at the lower edge."""
    rng = np.random.default_rng(seed)
    h, e = 0.15 + 0.02 * rng.standard_normal((256, 256)), 0.6 + 0.05 * rng.standard_normal((256, 256))
    for centre in nuclei:
        h[disk(centre, 10)] = 1.4 + 0.05 * rng.standard_normal(len(disk(centre, 10)[0]))
    found = np.stack([h, e], axis=-1).clip(0)
    found[245:] = 0
    return found


def tiles(*nuclei: list[tuple[int, int]], gains: tuple[float, float] = (1, 1), stains: object = STAINS) -> Tiles:
    od = np.stack([concentrations(places, seed) for seed, places in enumerate(nuclei)]) * gains @ np.asarray(stains)
    return np.asarray(np.rint((WHITE + 1) * np.exp(-od) - 1).clip(0, 255), np.uint8)


def nuclei_kept(after: Tiles, before: Tiles, mpp: float) -> float | None:
    nuclei = find_source_nuclei(before, mpp)
    return nuclei and nuclei.measure_kept(after)


def test_the_same_image_keeps_all() -> None:
    same = tiles(NUCLEI, NUCLEI[::2])
    assert nuclei_kept(same, same, MPP) == 1


def test_each_nucleus_that_is_erased_costs_its_share() -> None:
    before = tiles(NUCLEI, NUCLEI)
    kept = [nuclei_kept(tiles(NUCLEI[lost:], NUCLEI), before, MPP) for lost in range(4)]
    assert kept == sorted(kept, reverse=True)
    assert kept[1] < 0.99
    assert kept[3] < 0.9


def test_planted_nuclei_cost_as_well() -> None:
    before = tiles(NUCLEI[2:], NUCLEI[2:])
    assert nuclei_kept(tiles(NUCLEI, NUCLEI), before, MPP) < 0.95


def test_moved_nuclei_are_not_kept() -> None:
    moved = [(row, (col + 60) % 240) for row, col in NUCLEI]
    assert nuclei_kept(tiles(moved, moved), tiles(NUCLEI, NUCLEI), MPP) < 0.5


@pytest.mark.parametrize("gains", [(1.3, 0.7), (0.6, 1.2)], ids=["blue", "pink"])
def test_another_stain_keeps_them(gains: tuple[float, float]) -> None:
    other = np.array([(0.55, 0.78, 0.31), (0.05, 0.90, 0.42)])
    assert nuclei_kept(tiles(NUCLEI, NUCLEI, gains=gains, stains=other), tiles(NUCLEI, NUCLEI), MPP) > 0.98


@pytest.mark.parametrize("strength", [0.35, 0.25])
def test_a_pale_slide_keeps_them_all_and_not_its_darkest_alone(strength: float) -> None:
    """Their OD is below what stained tissue usually has; the output has the usual stain."""
    pale, usual = tiles(NUCLEI, NUCLEI, gains=(strength, strength)), tiles(NUCLEI, NUCLEI)
    found, expected = find_source_nuclei(pale, MPP), find_source_nuclei(usual, MPP)
    assert found is not None and expected is not None
    assert 0.9 < found.mask.sum() / expected.mask.sum() < 1.1
    assert nuclei_kept(usual, pale, MPP) > 0.98


def test_output_without_any_stain_keeps_nothing() -> None:
    before = tiles(NUCLEI)
    assert nuclei_kept(np.full_like(before, 240), before, MPP) == 0


@pytest.mark.parametrize("value", [240, 255, 0], ids=["glass", "white", "black"])
def test_where_there_is_no_tissue_there_is_nothing_to_keep(value: int) -> None:
    flat = np.full((2, 256, 256, 3), value, np.uint8)
    assert nuclei_kept(flat, flat, MPP) is None


@pytest.fixture(scope="module")
def real(real_data: Path) -> tuple[Tiles, float]:
    """Six tiles of a dark 40x slide."""
    with Slide(real_data / "slides" / "AT2_gastric_metaplasia.svs") as slide:
        places = [(x, y) for y in (4096, 6144) for x in (4096, 6144, 8192)]
        return np.stack([slide.read(Region(x, y, 256, 256)) for x, y in places]), slide.mpp.mean


def test_a_change_of_colour_alone_keeps_the_nuclei_of_a_real_slide(real: tuple[Tiles, float]) -> None:
    before, mpp = real
    od = -np.log((before.astype(float) + 1) / 251)
    warmer = (od * (0.6, 0.9, 0.75)).clip(0) ** 1.2
    after = np.asarray(np.rint(246 * np.exp(-warmer) - 1).clip(0, 255), np.uint8)
    assert np.abs(after.astype(int) - before).mean() > 10
    kept = nuclei_kept(after, before, mpp)
    assert kept is not None
    assert kept > 0.95


def test_half_of_the_tiles_of_a_real_slide_exchanged_is_noticed(real: tuple[Tiles, float]) -> None:
    before, mpp = real
    kept = nuclei_kept(before[[1, 0, 2, 3, 5, 4]], before, mpp)
    assert kept is not None
    assert kept < 0.8
