"""Laboratories of the benchmark of quality: each shows a slide whose truth is known, measured as its condition says."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.made_store import paint_tissue, store_slide
from wsi_stain.core.geometry import Region, Size
from wsi_stain.store import StoredSlide

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from laboratories import CONDITIONS, Case, composed_stains, list_cases, show_slide
from slide_parts import StatisticsAlone, apply_to_block

PIXELS = paint_tissue(Size(2048, 1024))


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> StoredSlide:
    return store_slide(tmp_path_factory.mktemp("laboratories"), "reference", PIXELS)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two scanners: paler by a gamma, and without much blue."""
    folder = tmp_path_factory.mktemp("tables")
    grid = np.stack(np.meshgrid(*[np.linspace(0, 255, 17, dtype=np.float32)] * 3, indexing="ij"), axis=-1)
    paths = [folder / "paler.npz", folder / "yellower.npz"]
    for path, table in zip(paths, (255 * (grid / 255) ** 0.6, grid * (1.0, 1.0, 0.8)), strict=True):
        np.savez(path, table=table.astype(np.float32))
    return paths


def test_every_condition_is_listed_once(tables: list[Path]) -> None:
    listed = list_cases(("real", "other", "same"), CONDITIONS, tables)
    assert len({case.name for case in listed}) == len(listed)
    real = [case for case in listed if case.family == "real"]
    assert {case.condition for case in real} == set(CONDITIONS) - {"composition"}
    assert len(real) == 2 * (len(CONDITIONS) - 1)
    assert [case.condition for case in list_cases(("same",), ("composition",), tables)] == ["composition"]


@pytest.mark.parametrize("condition", [name for name in CONDITIONS if name != "composition"])
def test_real_scanners_show_the_slide_and_keep_its_truth(
    slide: StoredSlide, tables: list[Path], condition: str
) -> None:
    case = Case("real", 0, condition, tables[0])
    judged = show_slide(case, slide, 1)
    (first,) = judged.blocks
    truth = PIXELS[:, first.col * 256 :]
    assert (judged.truth[0] == slide.read(Region(first.col * 256, 0, 1024, 1024))).all()
    assert (judged.truth[0][: len(truth)] == truth).all()
    before = judged.before[0][: len(truth), : truth.shape[1]]
    plain = show_slide(Case("real", 0, "measured", tables[0]), slide, 1)
    measured = plain.stain
    if condition == "sharpness":
        bends = [np.abs(np.diff(image.astype(float), n=2, axis=1)).mean() for image in (before, plain.before[0])]
        assert bends[0] < 0.7 * bends[1]
    else:
        assert np.abs(before - 255 * (truth / 255.0) ** 0.6).mean() < 1
    ratios = np.log([judged.stain.h_nuclei / measured.h_nuclei, judged.stain.e_stroma / measured.e_stroma])
    if condition == "levels off":
        np.testing.assert_allclose(ratios, [0.25, 0.25])
    if condition == "white off":
        assert 0 < np.abs(np.subtract(judged.stain.white, measured.white)).max() <= 5
    if condition in ("shifted", "few nuclei", "few tiles"):
        assert (judged.stain == measured) is False
        assert np.abs(ratios).max() < 0.25


def test_two_halves_are_measured_as_two_stains(slide: StoredSlide) -> None:
    rich, poor = composed_stains(Case("same", 0, "composition"), slide)
    assert rich != poor
    assert rich.h_nuclei == pytest.approx(poor.h_nuclei, rel=0.2)


def test_statistics_alone_bring_a_scanner_back(slide: StoredSlide, tables: list[Path]) -> None:
    judged = show_slide(Case("real", 0, "measured", tables[0]), slide, 1)
    normalizer = StatisticsAlone(slide.require_stain())
    made = apply_to_block(normalizer, judged.slide, judged.blocks[0], normalizer.prepare(judged.slide, judged.stain))
    truth = judged.truth[0].astype(float)
    assert np.abs(made - truth).mean() < 0.5 * np.abs(judged.before[0] - truth).mean()
    own = normalizer.prepare(judged.slide, slide.require_stain())
    block = np.ascontiguousarray(PIXELS[:256, :256])
    assert np.abs(normalizer.apply(block, np.ones((1, 1), bool), own).astype(float) - block).mean() < 1
