"""The commands `wsi-stain import idc|pcam|images`, from the command line to a store that can be trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.commands import Run
from tests.support.files_below import digests
from tests.support.patch_files import cut_patches, idc_patient, pcam_split, save, tissue
from wsi_stain.store import TileStore
from wsi_stain.training.samples import check_resolution, split_tiles, tissue_tiles

TINY = """
training:
  template: gray
  generator: {downs: 3, ngf: 8, in_channels: 1}
  ndf: 8
  images: 32
  epochs: 1
  batch: 8
  crop: 64
  laboratories: 2
  min_tissue: 0.2
  validation_tiles: 2
  calibration_images: 16
  correction_labs: 2
  panels: 1
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small set of each layout."""
    root = tmp_path_factory.mktemp("data")
    for number, patient in enumerate(("101", "102", "103")):
        idc_patient(root / "idc", patient, tissue(seed=number))
    patches = cut_patches(tissue(1200, 800, seed=5), 96)
    pcam_split(root, "train", patches, [number % 2 for number in range(96)], [f"s{n % 3}" for n in range(96)])
    pcam_split(root, "test", patches[:40], None, None)
    for number, patch in enumerate(cut_patches(tissue(900, 700, seed=7), 100)):
        save(root / "images" / ("stroma", "tumour")[number % 2] / f"{number}.png", patch)
    return root


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY)
    return path


def test_idc_is_imported_and_trained_on(wsi_stain: Run, data: Path, config: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    ended = wsi_stain("import", "idc", data / "idc", "--store", store, "--mpp", 1, "-j", 0)
    assert ended.code == 0, ended.err
    assert "3 of 3 slides imported" in ended.out
    assert "420 patches, 0 refused" in ended.out
    slides = [TileStore(store)[slide_id] for slide_id in TileStore(store).slide_ids()]
    assert [slide.record.patient for slide in slides] == ["101", "102", "103"]
    check_resolution(slides)
    training, held_out = split_tiles(tissue_tiles(slides, 0.5), slides, 0.3)
    assert training
    assert held_out
    assert not {ref.slide for ref in training} & {ref.slide for ref in held_out}
    ended = wsi_stain("train", store, "--out", tmp_path / "training", "--config", config)
    assert ended.code == 0, ended.err
    assert (tmp_path / "training" / "checkpoint.safetensors").exists()


def test_the_documented_lines_read_patches_back(
    wsi_stain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    idc_patient(tmp_path / "idc", "10253", tissue())
    assert wsi_stain("import", "idc", tmp_path / "idc", "-s", tmp_path / "patches.zarr", "--mpp", 1, "-j", 0).code == 0
    text = (Path(__file__).parent.parent.parent / "docs" / "imports.md").read_text(encoding="utf-8")
    code = text.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(code, found)
    np.testing.assert_array_equal(found["pixels"], tissue()[-50:, -50:])
    assert found["patch"].label == "0"


def test_pcam_is_imported_by_slide_at_its_known_resolution(wsi_stain: Run, data: Path, tmp_path: Path) -> None:
    files = sorted(data.glob("*.h5"))
    assert len(files) == 3, "labels are named like patches by a glob, and must do no harm"
    ended = wsi_stain("import", "pcam", *files, "--store", tmp_path, "-j", 0)
    assert ended.code == 0, ended.err
    store = TileStore(tmp_path)
    assert store.slide_ids() == ["test", "train__s0", "train__s1", "train__s2"]
    assert store["train__s1"].mpp == (0.972, 0.972)
    assert store["train__s1"].record.mpp_origin == "as published for PCam"
    assert store["test"].record.split == "test"


def test_workers_make_the_same_bytes(wsi_stain: Run, data: Path, tmp_path: Path) -> None:
    for name, workers in (("serial", 0), ("parallel", 2)):
        assert wsi_stain("import", "idc", data / "idc", "-s", tmp_path / name, "--mpp", 1, "-j", workers).code == 0
    assert digests(tmp_path / "serial") == digests(tmp_path / "parallel")


def test_images_are_imported_with_labels_or_without(wsi_stain: Run, data: Path, tmp_path: Path) -> None:
    assert wsi_stain("import", "images", data / "images", "--store", tmp_path, "--mpp", 1, "-j", 0).code == 0
    ended = wsi_stain("import", "images", data / "images", "--store", tmp_path, "--mpp", 1, "-j", 0, "--no-labels")
    assert ended.code == 0, ended.err
    assert TileStore(tmp_path).slide_ids() == ["images", "images__stroma", "images__tumour"]


def test_a_dry_run_shows_the_slides_and_writes_nothing(wsi_stain: Run, data: Path, tmp_path: Path) -> None:
    ended = wsi_stain("import", "images", data / "images", "-s", tmp_path / "store", "--mpp", 1, "-j", 0, "--dry-run")
    assert ended.code == 0, ended.err
    assert "stroma: 32, tumour: 31" in ended.out
    assert "1024 x 1024" in ended.out
    assert not (tmp_path / "store").exists()


def test_what_is_wrong_is_told_by_file_and_again_on_a_rerun(wsi_stain: Run, tmp_path: Path) -> None:
    idc_patient(tmp_path / "idc", "9", tissue())
    save(tmp_path / "idc/8/0/8_idx5_x1_y1_class0.png", tissue()[:50, :50])
    (tmp_path / "idc" / "notes").mkdir()
    (tmp_path / "idc/9/0/9_idx5_x9_class0.png").write_bytes(b"")
    for _ in range(2):
        ended = wsi_stain("import", "idc", tmp_path / "idc", "--store", tmp_path / "store", "--mpp", 0.25, "-j", 0)
        assert ended.code == 3, ended.err
        assert "9: 0/9_idx5_x9_class0.png: the name is not like 9_idx5_x1001_y1101_class0.png" in ended.out
        assert "notes: passed over" in ended.out
        assert "warning: --mpp 0.25 is finer than these patches are" in ended.out
        assert "8: Only " in ended.out, "one patch of glass has no stain"
        assert "1 of 2 slides imported" in ended.out
    assert TileStore(tmp_path / "store").slide_ids() == ["9"]


def test_a_slide_that_replaces_another_is_told(wsi_stain: Run, data: Path, tmp_path: Path) -> None:
    for mpp in (1, 2):
        ended = wsi_stain("import", "idc", data / "idc", "--store", tmp_path / "store", "--mpp", mpp, "-j", 0)
        assert ended.out.count("replaced a slide made of other patches or with other settings") == (
            3 if mpp == 2 else 0
        )


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        pytest.param(["idc", "{data}/idc"], 2, "Missing option '--mpp'", id="no mpp"),
        pytest.param(["idc", "{data}/idc", "--mpp", "50"], 1, "--mpp is 50, expected 0.05 to 5.0", id="absurd mpp"),
        pytest.param(["idc", "{data}/images", "--mpp", "1"], 1, "No patients found", id="no patients"),
        pytest.param(["idc", "{data}/none", "--mpp", "1"], 2, "does not exist", id="no directory"),
        pytest.param(["images", "{empty}", "--mpp", "1"], 1, "No patches found", id="no images"),
        pytest.param(["pcam", "{data}/absent_x.h5"], 1, "No patches found; absent_x.h5:", id="no file"),
        pytest.param(["images", "{glass}", "--mpp", "1"], 1, "None of the 1 slides could be imported", id="all fail"),
    ],
)
def test_commands_that_cannot_go_on(
    wsi_stain: Run, data: Path, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    (tmp_path / "empty").mkdir()
    save(tmp_path / "glass" / "a.png", tissue()[:50, :50])
    places = {"data": data, "empty": tmp_path / "empty", "glass": tmp_path / "glass"}
    ended = wsi_stain("import", *(part.format(**places) for part in arguments), "-s", tmp_path / "store", "-j", 0)
    assert ended.code == code, ended.err
    assert said in ended.err.replace("\n", "")
    if code == 1:
        assert "remedy:" in ended.err


def test_pcam_without_its_labels_says_so(tmp_path: Path, wsi_stain: Run) -> None:
    path = pcam_split(tmp_path, "train", cut_patches(tissue(), 96)[:6], None, None)
    ended = wsi_stain("import", "pcam", path, "-s", tmp_path / "patches.zarr", "-j", 0)
    assert ended.code == 0, ended.err
    assert "camelyonpatch_level_2_split_train_y.h5 is not there: its patches are imported without labels" in ended.out
