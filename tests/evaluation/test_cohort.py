"""`evaluate cohort` on slides of several simulated laboratories, and on what a run made of them."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.commands import Run
from tests.support.made_store import WHITE, paint_tissue, store_slide
from wsi_stain.core.geometry import Size
from wsi_stain.evaluation.cohort import find_strata, summarize
from wsi_stain.metrics.nuclei import nuclei_mask
from wsi_stain.metrics.seams import SeamScore
from wsi_stain.results.finished import load_finished, save_finished
from wsi_stain.synthetic import SCANNERS, rescan, write_slide

SIZE = Size(800, 800)
QUICK = ("--baseline", "reinhard", "--baseline", "macenko")
"""Without Vahadane's method, for speed."""


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The store of a cohort of three laboratories, and that of the reference."""
    root = tmp_path_factory.mktemp("stores")
    for seed, (name, scanner) in enumerate(SCANNERS.items()):
        store_slide(root / "cohort.zarr", name, rescan(paint_tissue(SIZE, seed), scanner))
    store_slide(root / "reference.zarr", "r", paint_tissue(SIZE, 9))
    return root / "cohort.zarr", root / "reference.zarr"


def rows_of(out: Path) -> dict[str, dict[str, float]]:
    with open(out / "cohort.csv", newline="", encoding="utf-8") as file:
        return {
            row.pop("method"): {name: float(cell or "nan") for name, cell in row.items()}
            for row in csv.DictReader(file)
        }


def test_methods_make_a_cohort_alike(stores: tuple[Path, Path], tmp_path: Path, wsi_stain: Run) -> None:
    command = ["evaluate", "cohort", stores[0], "--reference", stores[1], "--workers", 0, *QUICK]
    assert wsi_stain(*command, "--out", tmp_path / "out").code == 0
    rows = rows_of(tmp_path / "out")
    assert list(rows) == ["untouched", "reinhard", "macenko"]
    before = rows["untouched"]
    for name in ("reinhard", "macenko"):
        after = rows[name]
        assert after["nmi_sd"] < before["nmi_sd"] and after["nmi_cv"] < before["nmi_cv"]
        for stratum in ("tissue", "nuclei", "stroma"):
            assert after[f"lab_wasserstein_{stratum}"] < 0.6 * before[f"lab_wasserstein_{stratum}"]
        assert 0 < after["nuclei_kept"] <= 1
    assert rows["macenko"]["angle_hematoxylin"] < 0.5 * before["angle_hematoxylin"]
    assert rows["macenko"]["angle_eosin"] < 0.5 * before["angle_eosin"]
    assert len(json.loads((tmp_path / "out" / "cohort.json").read_text())["slides"]) == 3
    with Image.open(tmp_path / "out" / "cohort.png") as figure:
        assert np.asarray(figure.convert("L")).std() > 10


def test_without_a_reference_only_likeness_is_told(stores: tuple[Path, Path], tmp_path: Path, wsi_stain: Run) -> None:
    ended = wsi_stain("evaluate", "cohort", stores[0], "--out", tmp_path / "out", "--workers", 0)
    assert ended.code == 0
    assert "--reference" in ended.out
    (row,) = rows_of(tmp_path / "out").values()
    assert row["nmi_sd"] > 0
    assert np.isnan(row["lab_wasserstein_tissue"])
    assert "Lab-W" not in ended.out


@pytest.mark.slow
@pytest.mark.parametrize("tiles_kept", [False, True])
def test_a_finished_run_is_judged_from_its_sources(tiles_kept: bool, tmp_path: Path, wsi_stain: Run) -> None:
    slides, reference = tmp_path / "slides", tmp_path / "ref.svs"
    write_slide(reference, paint_tissue(SIZE, 9), 0.25, style="svs")
    write_slide(slides / "a.svs", rescan(paint_tissue(SIZE, 1), SCANNERS["pink"]), 0.25, style="svs")
    run = ["run", slides, "--reference", reference, "--method", "macenko", "--out", tmp_path / "out", "--workers", 0]
    assert wsi_stain(*run, *(["--keep-tiles"] if tiles_kept else [])).code == 0
    if tiles_kept:
        (slides / "a.svs").rename(tmp_path / "gone.svs")
    finished = load_finished(next((tmp_path / "out" / "work" / "slides").iterdir()))
    assert finished is not None
    row = finished.row.model_copy(update={"seam": SeamScore(score=1.01, low=0.9, high=1.1)})  # a small slide has none
    save_finished(next((tmp_path / "out" / "work" / "slides").iterdir()), replace(finished, row=row))
    command = ["evaluate", "cohort", tmp_path / "out", "--workers", 0, "--baseline", "macenko"]
    ended = wsi_stain(*command, "--out", tmp_path / "found")
    assert ended.code == 0, ended.out + ended.err
    rows = rows_of(tmp_path / "found")
    assert list(rows) == ["untouched", "macenko", "normalized"]
    made, again = rows["normalized"], rows["macenko"]
    assert made["lab_wasserstein_tissue"] == pytest.approx(again["lab_wasserstein_tissue"], abs=0.5)
    assert made["seam"] == 1.01
    assert np.isnan(again["seam"])
    if not tiles_kept:
        (slides / "a.svs").unlink()
        refused = wsi_stain(*command, "--out", tmp_path / "again")
        assert refused.code == 1
        assert "is gone" in refused.out


def test_what_is_neither_run_nor_store_is_refused(tmp_path: Path, wsi_stain: Run) -> None:
    (tmp_path / "empty").mkdir()
    ended = wsi_stain("evaluate", "cohort", tmp_path / "empty", "--out", tmp_path / "out", "--workers", 0)
    assert ended.code == 1
    assert "neither" in ended.err and "wsi-stain tile" in ended.err


def test_strata_are_apart_and_are_tissue() -> None:
    tiles = np.stack([paint_tissue(Size(256, 256), seed) for seed in range(4)])
    strata = find_strata(tiles, WHITE, 0.25, nuclei_mask(tiles, 0.25))
    assert not (strata["nuclei"] & strata["stroma"]).any()
    assert not ((strata["nuclei"] | strata["stroma"]) & ~strata["tissue"]).any()
    nuclei, stroma = (tiles[strata[name]].mean(axis=0) for name in ("nuclei", "stroma"))
    assert nuclei[0] < stroma[0] - 40  # hematoxylin absorbs red
    assert 0.02 < strata["nuclei"].mean() < 0.5


def test_means_are_over_the_slides_that_have_a_score() -> None:
    receipts = [
        {"scores": {"untouched": {"nmi": 0.5, "angle_eosin": 2.0}}},
        {"scores": {"untouched": {"nmi": 0.7}}},
    ]
    row = summarize(receipts)["untouched"]
    assert row["nmi"] == pytest.approx(0.6)
    assert row["angle_eosin"] == 2
    assert row["nmi_sd"] == pytest.approx(0.1 * 2**0.5)
    assert np.isnan(row["seam"])
