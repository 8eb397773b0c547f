"""Whole slides normalized by the classical methods: through the doors of Pix2Pix, to the reference's colours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import openslide
import pytest

from tests.support.commands import Run
from tests.support.made_checkpoint import write_untrained
from tests.support.made_store import paint_tissue, store_slide
from wsi_stain.core.errors import CheckpointError, ConfigError
from wsi_stain.core.geometry import Size
from wsi_stain.core.journal import file_digest, write_json
from wsi_stain.metrics.image import lab_wasserstein
from wsi_stain.normalizers.classical_reference import load_classical_reference, measure_classical_reference
from wsi_stain.store import TileStore
from wsi_stain.synthetic import SCANNERS, rescan, write_slide

METHODS = ("reinhard", "macenko", "vahadane")
SIZE = Size(900, 600)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The store of another laboratory, and that of the reference: different tissue."""
    root = tmp_path_factory.mktemp("stores")
    store_slide(root / "other.zarr", "a", rescan(paint_tissue(SIZE, 1), SCANNERS["pink"]))
    store_slide(root / "reference.zarr", "r", paint_tissue(SIZE, 2))
    return root / "other.zarr", root / "reference.zarr"


def pixels_of(pyramid: Path) -> np.ndarray:
    with openslide.OpenSlide(pyramid) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))


@pytest.mark.parametrize("method", METHODS)
def test_a_slide_comes_to_the_reference_and_again_the_same(
    method: str, stores: tuple[Path, Path], tmp_path: Path, wsi_stain: Run
) -> None:
    other, reference = stores
    command = ["normalize", other, "--method", method, "--reference", reference, "--workers", 0]
    for out in ("one", "two"):
        ended = wsi_stain(*command, "--out", tmp_path / out)
        assert ended.code == 0, ended.err
    one, two = (tmp_path / out / "slides" / "a.ome.tif" for out in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    made, target = pixels_of(one)[::4, ::4], paint_tissue(SIZE, 2)[::4, ::4]
    before = rescan(paint_tissue(SIZE, 1), SCANNERS["pink"])[::4, ::4]
    assert sum(lab_wasserstein(made, target)) < 0.5 * sum(lab_wasserstein(before, target))
    assert f">{method}<" in provenance(one)
    assert json.loads((tmp_path / "one" / "run.json").read_text())["config"]["normalize"]["method"] == method


def provenance(pyramid: Path) -> str:
    with openslide.OpenSlide(pyramid) as slide:
        return slide.properties["tiff.ImageDescription"]


def test_a_finished_slide_is_kept_and_another_method_redoes_it(
    stores: tuple[Path, Path], tmp_path: Path, wsi_stain: Run
) -> None:
    other, reference = stores
    command = ["normalize", other, "--reference", reference, "--workers", 0, "--out", tmp_path / "out"]
    pyramid = tmp_path / "out" / "slides" / "a.ome.tif"
    assert wsi_stain(*command, "--method", "macenko").code == 0
    first = pyramid.stat().st_mtime_ns
    assert wsi_stain(*command, "--method", "macenko").code == 0
    assert pyramid.stat().st_mtime_ns == first
    assert "made again" in wsi_stain(*command, "--method", "reinhard").out
    assert pyramid.stat().st_mtime_ns != first


def test_a_checkpoint_knows_enough_for_macenko_alone(stores: tuple[Path, Path], tmp_path: Path, wsi_stain: Run) -> None:
    checkpoint = write_untrained(tmp_path / "c.safetensors", mpp=2.0)  # its resolution does not matter
    command = ["normalize", stores[0], "--checkpoint", checkpoint, "--workers", 0, "--out", tmp_path / "out"]
    assert wsi_stain(*command, "--method", "macenko").code == 0
    assert (pixels_of(tmp_path / "out" / "slides" / "a.ome.tif")[-1, -1] > 60).all()
    refused = wsi_stain(*command, "--method", "reinhard")
    assert refused.code == 1
    assert "--reference" in refused.err


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        pytest.param(["--method", "macenko"], "--reference STORE", id="no reference"),
        pytest.param([], "--checkpoint FILE", id="no checkpoint"),
        pytest.param(["--method", "monet", "--reference", "REFERENCE"], "method", id="no such method"),
        pytest.param(["--reference", "REFERENCE"], "--checkpoint FILE", id="pix2pix from a store"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_remedy(
    arguments: list[str], remedy: str, stores: tuple[Path, Path], tmp_path: Path, wsi_stain: Run
) -> None:
    given = [str(stores[1]) if argument == "REFERENCE" else argument for argument in arguments]
    ended = wsi_stain("normalize", stores[0], "--out", tmp_path / "out", "--workers", 0, *given)
    assert ended.code == 1
    assert remedy in ended.err
    assert not (tmp_path / "out" / "slides").exists()


def test_run_takes_a_method_trains_nothing_and_is_verified(tmp_path: Path, wsi_stain: Run) -> None:
    write_slide(tmp_path / "ref.svs", paint_tissue(Size(1500, 1100), 2), 0.25, style="svs")
    write_slide(
        tmp_path / "slides" / "a.svs", rescan(paint_tissue(Size(1500, 1100), 1), SCANNERS["pink"]), 0.25, style="svs"
    )
    ended = wsi_stain(
        *("run", tmp_path / "slides", "--reference", tmp_path / "ref.svs", "--method", "reinhard"),
        *("--out", tmp_path / "out", "--workers", 0),
    )
    assert ended.code == 0, ended.err
    assert not (tmp_path / "out" / "training").exists()
    assert wsi_stain("verify", tmp_path / "out", "--workers", 0).code == 0


def test_a_style_that_changed_is_refused(stores: tuple[Path, Path], tmp_path: Path) -> None:
    store = TileStore(stores[1])
    style, path = measure_classical_reference("macenko", [store["r"]]), tmp_path / "style.json"
    write_json(path, style.model_dump(mode="json"))
    assert load_classical_reference(path, file_digest(path)) == style
    with pytest.raises(CheckpointError, match="changed"):
        load_classical_reference(path, "0" * 64)
    write_json(path, {"method": "macenko"})
    with pytest.raises(CheckpointError, match="does not describe"):
        load_classical_reference(path, file_digest(path))


def test_a_reference_needs_measured_stain(tmp_path: Path) -> None:
    slide = store_slide(tmp_path / "s.zarr", "a", paint_tissue(SIZE), measured=False)
    with pytest.raises(ConfigError, match="stain was measured"):
        measure_classical_reference("macenko", [slide])
