"""`evaluate robustness` on cohorts of pixels whose truth is known, and on ready features."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipelines.evaluate.cohort_features import Tables
from tests.support.centres import DARK, OTHER, PALE, REFERENCE, add_centre, write_encoder
from tests.support.commands import Ended, Run
from wsi_stain.core.errors import ConfigError
from wsi_stain.synthetic import Laboratory

CROWDED, SPARSE = ["crowded"], ["sparse"]
A, B = CROWDED * 7 + SPARSE * 3, CROWDED * 3 + SPARSE * 7
"""The labels of two centres' slides: biology is told within each, and goes with the centre."""


def read_verdicts(out: Path) -> dict[str, str]:
    with open(out / "verdict.csv", newline="", encoding="utf-8") as file:
        return {row["method"]: row["verdict"] for row in csv.DictReader(file)}


def judge_cohort(
    root: Path, wsi_stain: Run, centres: dict[str, tuple[Laboratory, list[str]]], method: str = "reinhard"
) -> tuple[Ended, str]:
    """Judge a method on a store of slides with their site and label."""
    for seed, (site, (laboratory, labels)) in enumerate(centres.items(), 1):
        add_centre(root / "cohort.zarr", site, laboratory, labels, 100 * seed)
    ended = wsi_stain(
        *("evaluate", "robustness", root / "cohort.zarr", "--out", root / "out", "--workers", 0),
        *("--encoder", write_encoder(root / "encoder.onnx"), "--side", 256, "--baseline", method),
    )
    assert ended.code == 0, ended.out + ended.err
    return ended, read_verdicts(root / "out")[method]


def test_a_stain_that_hides_biology_is_helped(tmp_path: Path, wsi_stain: Run) -> None:
    ended, verdict = judge_cohort(tmp_path, wsi_stain, {"a": (REFERENCE, A), "b": (OTHER, B)})
    assert verdict == "helps"
    assert "reinhard: helps: the robustness index rises by" in ended.out
    record = json.loads((tmp_path / "out" / "robustness.json").read_text())
    before, after = (record["methods"][name] for name in ("untouched", "reinhard"))
    assert after["robustness"]["value"] > record["robustness_by_chance"] > before["robustness"]["value"]
    assert after["transfer"]["change_low"] > 0 and after["biology"]["change"] >= 0
    assert record["groups"] == {"a": 10, "b": 10} and record["biology_within_centres"]
    assert record["encoder"] == "encoder.onnx" and len(record["reference"]) == 10
    assert (tmp_path / "out" / "robustness.png").exists()


def test_centres_of_one_stain_need_nothing(tmp_path: Path, wsi_stain: Run) -> None:
    ended, verdict = judge_cohort(tmp_path, wsi_stain, {"a": (REFERENCE, A), "b": (REFERENCE, B)})
    assert verdict == "makes no difference", ended.out


def test_biology_that_is_the_stain_is_harmed(tmp_path: Path, wsi_stain: Run) -> None:
    centres = {"a": (DARK, ["dark"] * 12), "b": (PALE, ["pale"] * 12)}
    ended, verdict = judge_cohort(tmp_path, wsi_stain, centres)
    assert verdict == "harms", ended.out
    assert "biology and centre cannot be told apart" in ended.out


def test_four_slides_of_a_centre_tell_nothing(tmp_path: Path, wsi_stain: Run) -> None:
    ended, verdict = judge_cohort(tmp_path, wsi_stain, {"a": (REFERENCE, A), "b": (OTHER, CROWDED * 2 + SPARSE * 2)})
    assert verdict == "too few slides to tell"
    assert "b has 4" in ended.out


def make_features(shift: float, seed: int = 0) -> dict[str, np.ndarray]:
    """Features of two centres of six slides with 8 patches; the first number is biology, the second the centre."""
    rng = np.random.default_rng(seed)
    slide = np.repeat(np.arange(12), 8)
    label, centre = np.tile([0, 1], 48), slide % 2
    features = rng.normal(0, 0.3, (96, 6)) + 2
    features[:, 0] += label
    features[:, 1] += shift * centre
    return {
        "features": features.astype(np.float32),
        "slide": np.array([f"s{number}" for number in slide]),
        "site": np.array(["here", "there"])[centre],
        "label": np.array(["benign", "tumour"])[label],
    }


def write_hdf5(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            if array.dtype.kind == "U":
                file.create_dataset(name, data=array.astype(object), dtype=h5py.string_dtype())
            else:
                file.create_dataset(name, data=array)
    return path


def write_list(path: Path, rows: list[dict[str, object]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_ready_features_in_one_file(tmp_path: Path, wsi_stain: Run) -> None:
    before, after = make_features(4.0), make_features(0.0)
    raw = write_hdf5(tmp_path / "raw.h5", before)
    np.savez(tmp_path / "mended.npz", **after)
    command = ("evaluate", "robustness", "--workers", 0, "--out", tmp_path / "out", "--features", f"untouched={raw}")
    ended = wsi_stain(*command, "--features", f"mended={tmp_path / 'mended.npz'}", "--neighbours", 10)
    assert ended.code == 0, ended.err
    assert read_verdicts(tmp_path / "out") == {"mended": "helps"}
    again = (tmp_path / "out" / "robustness.csv").read_bytes()
    assert wsi_stain(*command, "--features", f"mended={tmp_path / 'mended.npz'}", "--neighbours", 10).code == 0
    assert (tmp_path / "out" / "robustness.csv").read_bytes() == again
    swapped = wsi_stain(*command[:-1], f"untouched={tmp_path / 'mended.npz'}", "--features", f"spoilt={raw}")
    assert swapped.code == 0 and read_verdicts(tmp_path / "out")["spoilt"] != "helps"


def test_ready_features_a_file_a_slide_as_extractors_write_them(tmp_path: Path, wsi_stain: Run) -> None:
    for name, shift in (("raw", 4.0), ("mended", 0.0)):
        arrays = make_features(shift)
        for number in range(12):
            own = np.repeat(arrays["slide"] == f"s{number}", 1)
            feats = arrays["features"][own][None]  # one slide of (1, n, d), as some write them
            write_hdf5(tmp_path / name / f"s{number}.h5", {"feats": feats, "coords": np.zeros((8, 2))})
    rows: list[dict[str, object]] = [
        {"slide": f"s{number}.svs", "site": ("here", "there")[number % 2], "label": ("x", "y")[number // 2 % 2]}
        for number in range(12)
    ]
    listed = write_list(tmp_path / "list.csv", rows)
    command = ("evaluate", "robustness", "--workers", 0, "--out", tmp_path / "out", "--list", listed)
    features = [f"--features={name}={tmp_path / name}" for name in ("raw", "mended")]
    ended = wsi_stain(*command, *features)
    assert ended.code == 0, ended.err
    assert "there: 6" in ended.out
    (tmp_path / "mended" / "s3.h5").unlink()
    missing = wsi_stain(*command, *features)
    assert missing.code == 1 and "s3.svs" in missing.err


def test_ready_features_as_pathorob_writes_them(tmp_path: Path, wsi_stain: Run) -> None:
    arrays = make_features(4.0)
    rows: list[dict[str, object]] = [
        {
            "subset": "ID",
            "slide_id": arrays["slide"][index],
            "patch_id": index,
            "biological_class": arrays["label"][index],
            "medical_center": arrays["site"][index],
        }
        for index in range(96)
    ]
    for site in ("here", "there"):
        entries = {
            f"{row['slide_id']}-{row['patch_id']}": arrays["features"][index]
            for index, row in enumerate(rows)
            if row["medical_center"] == site
        }
        (tmp_path / "features").mkdir(exist_ok=True)
        np.savez(tmp_path / "features" / f"{site}.npz", **entries)
    listed = write_list(tmp_path / "list.csv", [*rows, {**rows[0], "subset": "OOD", "patch_id": "unknown"}])
    ended = wsi_stain(
        *("evaluate", "robustness", "--workers", 0, "--out", tmp_path / "out", "--list", listed),
        f"--features=raw={tmp_path / 'features'}",
    )
    assert ended.code == 0, ended.err
    assert json.loads((tmp_path / "out" / "robustness.json").read_text())["patches"] == 96


def test_features_that_cannot_be_used_are_refused_with_a_remedy(tmp_path: Path, wsi_stain: Run) -> None:
    good = write_hdf5(tmp_path / "good.h5", make_features(1.0))
    arrays = make_features(1.0)
    pickled = {**arrays, "label": arrays["label"].astype(object)}
    np.savez(tmp_path / "pickled.npz", **pickled)
    np.savez(tmp_path / "short.npz", **{name: array[:90] for name, array in arrays.items()})
    np.savez(tmp_path / "one.npz", **{**arrays, "site": np.full(96, "here")})
    np.savez(tmp_path / "nan.npz", **{**arrays, "features": np.full((96, 6), np.nan)})
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    (tmp_path / "model.pt").write_bytes(b"x")
    faults = {
        "pickled.npz": "pickle",
        "one.npz": "one centre",
        "nan.npz": "no numbers",
        "other.npz": "no array features",
        "model.pt": "not loaded",
    }
    for name, said in faults.items():
        with pytest.raises(ConfigError, match=said):
            Tables({"x": tmp_path / name}, None).read()
    with pytest.raises(ConfigError, match="same patches"):
        Tables({"untouched": good, "x": tmp_path / "short.npz"}, None).read()
    gone = wsi_stain("evaluate", "robustness", "--out", tmp_path / "out", "--features", f"x={tmp_path / 'gone.npz'}")
    assert gone.code == 1 and "names no file" in gone.err
    neither = wsi_stain("evaluate", "robustness", "--out", tmp_path / "out")
    assert neither.code == 1 and "Give STORE, or --features" in neither.err
