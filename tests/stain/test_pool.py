"""Slides of one group take one stain: the same whatever the order, and whichever way they are normalized."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from tests.support.commands import Run
from tests.support.made_checkpoint import STATISTICS, write_untrained
from tests.support.tiled_slides import SMALL, paint, write
from wsi_stain.core.journal import describe_files
from wsi_stain.stain.pool import disagreement, pool_by_group, pool_stains
from wsi_stain.stain.statistics import StainStatistics

PALE = STATISTICS.model_copy(
    update={"white": (250.0, 249.0, 251.0), "h_nuclei": 0.3, "vectors": ((0.55, 0.72, 0.42), (0.1, 0.95, 0.3))}
)
STAINS = {"dark": STATISTICS, "pale": PALE, "alone": PALE, "none": STATISTICS}
GROUPS = {"dark": "A", "pale": "A", "alone": "B", "none": None}


@pytest.fixture(scope="module")
def pooled_stains() -> dict[str, StainStatistics]:
    return pool_by_group(STAINS, GROUPS)


def test_levels_are_geometric_means_and_glass_stays_its_own(pooled_stains: dict[str, StainStatistics]) -> None:
    assert set(pooled_stains) == {"dark", "pale"}
    for name, found in pooled_stains.items():
        assert found.white == STAINS[name].white
        assert found.h_nuclei == pytest.approx((1.2 * 0.3) ** 0.5)
        assert found.e_stroma == pytest.approx(STATISTICS.e_stroma)
        assert found.pixels == 20_000
        assert np.linalg.norm(found.vectors, axis=1) == pytest.approx(1)
        middle = np.add(STATISTICS.vectors, PALE.vectors)
        assert np.cross(found.vectors, middle) == pytest.approx(0, abs=1e-9)


def test_a_stain_that_is_hardly_there_hardly_counts() -> None:
    weak = PALE.model_copy(update={"evidence": (0.0, 1.0), "white": STATISTICS.white})
    stain = pool_stains([STATISTICS, weak])
    assert stain.h_nuclei == pytest.approx(STATISTICS.h_nuclei, rel=0.01)
    assert stain.e_stroma == pytest.approx((STATISTICS.e_stroma * PALE.e_stroma) ** 0.5)
    assert stain.evidence == (1.0, 1.0)
    assert stain.slides == 2


def test_a_slide_unlike_its_group_is_named() -> None:
    group = pool_stains([STATISTICS, PALE])
    assert disagreement(group, group) == ""
    assert disagreement(PALE, group) == "unlike its group: its hematoxylin is 0.50 times the group's"
    turned = STATISTICS.model_copy(update={"vectors": (STATISTICS.vectors[0], (0.4, 0.9, 0.1))})
    assert "its eosin vector is" in disagreement(turned, STATISTICS)


def test_the_order_of_slides_does_not_matter(pooled_stains: dict[str, StainStatistics]) -> None:
    for names in itertools.permutations(STAINS):
        assert pool_by_group({name: STAINS[name] for name in names}, GROUPS) == pooled_stains


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Slides a and b of one group, b paler, and c of none; a list with the groups and one without."""
    for name, strength in (("a", 1.0), ("b", 0.4), ("c", 0.8)):
        pixels = 255 * (paint(SMALL, seed=ord(name)) / 255.0) ** strength
        write(tmp_path / f"{name}.tif", pixels.round().astype(np.uint8))
    (tmp_path / "grouped.csv").write_text("slide,group\na.tif,A\nb.tif,A\nc.tif,\n")
    (tmp_path / "plain.csv").write_text("slide\na.tif\nb.tif\nc.tif\n")
    write_untrained(tmp_path / "c.safetensors")
    return tmp_path


def products(out: Path) -> dict[str, str]:
    return {name: str(made["sha256"]) for name, made in describe_files(out / "slides").items()}


def test_a_run_pools_by_group_once_and_so_do_the_steps(cohort: Path, wsi_stain: Run) -> None:
    options = ("--checkpoint", cohort / "c.safetensors", "-j", 0)
    plain, grouped, steps = cohort / "plain", cohort / "grouped", cohort / "steps"
    assert wsi_stain("run", cohort / "plain.csv", "--out", plain, *options).code == 0
    told = wsi_stain("run", cohort / "grouped.csv", "--out", grouped, *options)
    assert "the 2 slides of the group A together" in told.out + told.err
    assert "unlike its group: its hematoxylin is" in (grouped / "summary.csv").read_text()
    assert "unlike its group" not in (plain / "summary.csv").read_text()
    found = products(grouped)
    assert {name for name, digest in products(plain).items() if digest != found[name]} == {"a.ome.tif", "b.ome.tif"}

    times = {path: path.stat().st_mtime_ns for path in (grouped / "slides").iterdir()}
    again = wsi_stain("run", cohort / "grouped.csv", "--out", grouped, *options)
    assert again.code == 0 and "made again" not in again.out + again.err
    assert {path: path.stat().st_mtime_ns for path in (grouped / "slides").iterdir()} == times

    assert wsi_stain("tile", cohort / "grouped.csv", "--store", cohort / "store", "-j", 0).code == 0
    assert wsi_stain("normalize", cohort / "store", "--out", steps, *options).code == 0
    assert products(steps) == found
