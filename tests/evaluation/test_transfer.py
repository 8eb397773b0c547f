"""`evaluate transfer`: a classifier that a change of laboratory breaks, and that normalization mends."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pipelines.evaluate.shown_patches import keep_common_slides
from pipelines.evaluate.transfer import OWN, split
from tests.support.commands import Run
from tests.support.made_checkpoint import write_untrained
from tests.support.made_store import paint_tissue, store_slide
from tests.support.patch_files import cut_patches, import_source, save
from wsi_stain.core.errors import ConfigError
from wsi_stain.core.geometry import Size
from wsi_stain.core.journal import file_digest
from wsi_stain.datasets.images import find_folders
from wsi_stain.evaluation.auc import auc, compare_methods
from wsi_stain.evaluation.classifier import ClassifierConfig, classify, make_network, train_classifier
from wsi_stain.evaluation.labelled import PIXELS, list_patches
from wsi_stain.store import TileStore
from wsi_stain.store.artifact import load_artifact
from wsi_stain.synthetic import LABORATORIES, render_tissue, stain_tissue

SIDE = 48


def laboratory(root: Path, name: str, slides: int, first_seed: int, gains: list[float]) -> Path:
    """An imported store: in each slide half of the patches have twice as much hematoxylin, label `tumour`."""
    for number in range(slides):
        tissue = render_tissue(Size(SIDE * 10, SIDE * 8), 1.0, first_seed + number)
        known = LABORATORIES[name]
        gain = gains[number % len(gains)]
        stained = known.model_copy(update={"hematoxylin_gain": known.hematoxylin_gain * gain})
        dense = tissue * np.array([2.0, 1.0], np.float32)
        for label, concentrations in (("normal", tissue), ("tumour", dense)):
            half = np.s_[:, : SIDE * 5] if label == "normal" else np.s_[:, SIDE * 5 :]
            pixels = stain_tissue(np.ascontiguousarray(concentrations[half]), stained, number)
            for place, patch in enumerate(cut_patches(pixels, SIDE)):
                save(root / name / f"s{number}" / label / f"{place:03}.png", patch)
    for source in find_folders(root / name, labelled=True):
        import_source(source, root / f"{name}.zarr")
    return root / f"{name}.zarr"


@pytest.mark.slow
def test_another_laboratory_breaks_the_classifier_and_normalization_mends_it(tmp_path: Path, wsi_stain: Run) -> None:
    train = laboratory(tmp_path, "reference", 6, 100, [1.0])
    test = laboratory(tmp_path, "other", 4, 200, [0.5, 1.0, 1.8])
    ended = wsi_stain(
        *("evaluate", "transfer", train, test, "--out", tmp_path / "out", "--workers", 0, "--seeds", 1),
        *("--side", 32, "--epochs", 6, "--baseline", "reinhard", "--baseline", "macenko"),
    )
    assert ended.code == 0, ended.out + ended.err
    with open(tmp_path / "out" / "transfer.csv", newline="", encoding="utf-8") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert list(rows) == [OWN, "untouched", "reinhard", "macenko"]
    area = {name: float(row["auc"]) for name, row in rows.items()}
    assert area[OWN] > 0.85
    assert area["untouched"] < area[OWN] - 0.1
    assert area["macenko"] > area["untouched"] + 0.05
    assert float(rows["macenko"]["low"]) <= area["macenko"] <= float(rows["macenko"]["high"])
    record = json.loads((tmp_path / "out" / "transfer.json").read_text())
    assert record["positive"] == "tumour" and record["test"]["groups"] == 4
    assert (tmp_path / "out" / "transfer.png").exists()


def write_painted_store(root: Path, name: str, slides: int) -> Path:
    """Labelled slides at 1 um per px, whose labels have nothing to do with what they show."""
    for number in range(slides):
        for label in ("a", "b"):
            for place, patch in enumerate(cut_patches(paint_tissue(Size(400, 200), number), 64)):
                save(root / name / f"s{number}" / label / f"{place}.png", patch)
    for source in find_folders(root / name, labelled=True):
        import_source(source, root / f"{name}.zarr")
    return root / f"{name}.zarr"


def test_a_checkpoint_is_compared_in_each_mode(tmp_path: Path, wsi_stain: Run) -> None:
    train, test = write_painted_store(tmp_path, "train", 3), write_painted_store(tmp_path, "test", 2)
    out = tmp_path / "out"
    ended = wsi_stain(
        *("evaluate", "transfer", train, test, "--out", out, "--workers", 0, "--seeds", 1, "--epochs", 1),
        *(
            "--side",
            32,
            "--baseline",
            "macenko",
            "--checkpoint",
            write_untrained(tmp_path / "made.safetensors", 1.0, 12),
        ),
        *("--mode", "lut", "--mode", "generator", "--mode", "guard"),
    )
    assert ended.code == 0, ended.out + ended.err
    modes = [f"wsi-stain {mode}" for mode in ("lut", "generator", "guard")]
    with open(out / "transfer.csv", newline="", encoding="utf-8") as file:
        assert [row["method"] for row in csv.DictReader(file)] == [OWN, "untouched", "macenko", *modes]
    shown = [
        load_artifact(out / "work" / "patches" / "test" / name.replace(" ", "-") / "test__s0.npz")[PIXELS]
        for name in ("untouched", "macenko", *modes)
    ]
    assert len({pixels.tobytes() for pixels in shown}) == len(shown), "a method shows what another does"
    record = json.loads((out / "transfer.json").read_text())
    assert (record["train"]["store"], record["test"]["store"]) == ("train.zarr", "test.zarr")
    assert record["checkpoint"]["sha256"] == file_digest(tmp_path / "made.safetensors")
    assert [(slide["side"], slide["slide"]) for slide in record["slides"]] == [
        *(("train", f"train__s{number}") for number in range(3)),
        *(("test", f"test__s{number}") for number in range(2)),
    ]
    assert {(slide["patches"], slide["positive"]) for slide in record["slides"]} == {(36, 18)}
    assert (out / "transfer.png").exists()


def test_slides_that_no_two_methods_share_are_told(tmp_path: Path) -> None:
    slides = [store_slide(tmp_path / "plain.zarr", name, paint_tissue(Size(300, 300))) for name in "ab"]
    both = {slide.slide_id: tmp_path for slide in slides}
    one, other = ({name: tmp_path} for name in both)
    assert keep_common_slides(slides, {"untouched": both, "macenko": one}) == slides[:1]
    with pytest.raises(ConfigError, match="None of the 2 slides to test on is shown by all of untouched, macenko, m"):
        keep_common_slides(slides, {"untouched": both, "macenko": one, "m": other})
    assert keep_common_slides(slides, {"untouched": {}}) == []  # without labels: told where patches are loaded


def test_a_checkpoint_of_another_resolution_leaves_the_other_rows(tmp_path: Path, wsi_stain: Run) -> None:
    train, test = write_painted_store(tmp_path, "train", 2), write_painted_store(tmp_path, "test", 2)
    ended = wsi_stain(
        *("evaluate", "transfer", train, test, "--out", tmp_path / "out", "--workers", 0, "--seeds", 1, "--epochs", 1),
        *("--side", 32, "--baseline", "macenko", "--checkpoint", write_untrained(tmp_path / "made.safetensors", 0.5)),
        *("--mode", "generator"),
    )
    assert ended.code == 3, ended.out + ended.err
    assert "test__s0 (wsi-stain generator): left out" in ended.out and "0.5 um/px" in ended.out
    assert "wsi-stain generator: no row" in ended.out
    with open(tmp_path / "out" / "transfer.csv", newline="", encoding="utf-8") as file:
        assert [row["method"] for row in csv.DictReader(file)] == [OWN, "untouched", "macenko"]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """One labelled slide, which is too few."""
    for label in ("a", "b"):
        for place, patch in enumerate(cut_patches(paint_tissue(Size(400, 200)), 64)):
            save(tmp_path / "patches" / label / f"{place}.png", patch)
    (source,) = find_folders(tmp_path / "patches", labelled=True)
    import_source(source, tmp_path / "labelled.zarr")
    return tmp_path / "labelled.zarr"


def test_what_cannot_be_learnt_is_refused_with_a_remedy(store: Path, tmp_path: Path, wsi_stain: Run) -> None:
    command = ["evaluate", "transfer", store, store, "--out", tmp_path / "out", "--workers", 0]
    quick = ["--baseline", "macenko", "--epochs", 1]
    one = wsi_stain(*command, *quick)
    assert one.code == 1 and "cannot be split" in one.err
    label = wsi_stain(*command, *quick, "--positive", "c")
    assert label.code == 1 and "label c" in label.err
    network = wsi_stain(*command, "--backbone", "vgg9000")
    assert network.code == 1 and "resnet18" in network.err
    store_slide(tmp_path / "plain.zarr", "x", paint_tissue(Size(300, 300)))
    plain = wsi_stain("evaluate", "transfer", tmp_path / "plain.zarr", store, *command[4:], *quick)
    assert plain.code == 1 and "wsi-stain import" in plain.err


def test_labels_are_of_patches_or_of_the_slide(store: Path, tmp_path: Path) -> None:
    slides = TileStore(store)
    patches = list_patches(slides[slides.slide_ids()[0]])
    assert len(patches) == 36 and {patch.label for patch in patches} == {"a", "b"}
    (plain, *_) = list_patches(store_slide(tmp_path / "plain.zarr", "x", paint_tissue(Size(300, 300))))
    assert (plain.label, plain.name) == ("", "0,0")


def test_the_area_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.random(200) < 0.3, rng.integers(0, 20, 200).astype(float)  # with ties
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
    assert np.isnan(auc(np.ones(5, bool), scores[:5]))


def test_intervals_are_by_group() -> None:
    """A hundred patches of two slides are two witnesses, those of a hundred slides a hundred."""
    rng = np.random.default_rng(1)
    labels = np.tile([True, False], 100)
    scores = labels + rng.normal(0, 1, 200) + np.repeat(rng.normal(0, 1, 4), 50) * labels
    four, many = ([str(number // size) for number in range(200)] for size in (50, 2))
    wide, narrow = (compare_methods(labels, groups, {"m": [scores]})["m"] for groups in (four, many))
    assert wide.high - wide.low > narrow.high - narrow.low > 0
    assert narrow.low < narrow.auc < narrow.high
    assert compare_methods(labels, many, {"m": [scores]})["m"] == narrow or np.isnan(narrow.seed_sd)


def test_one_group_says_nothing_of_others() -> None:
    labels, scores = np.tile([True, False], 10), np.random.default_rng(0).random(20)
    alone = compare_methods(labels, ["s"] * 20, {"m": [scores]})["m"]
    assert np.isfinite(alone.auc) and np.isnan([alone.low, alone.high, alone.gain_low, alone.gain_high]).all()


def test_gains_are_against_the_first_method() -> None:
    labels = np.tile([True, False], 50)
    groups = [str(number // 2) for number in range(100)]
    rng = np.random.default_rng(2)
    found = compare_methods(labels, groups, {"untouched": [rng.random(100)], "perfect": [labels.astype(float)]})
    assert found["perfect"].auc == 1 and found["perfect"].gain_low > 0.2
    assert (found["untouched"].gain_low, found["untouched"].gain_high) == (0, 0)


def test_no_slide_is_on_both_sides_of_a_split() -> None:
    groups = np.repeat([f"s{number}" for number in range(8)], 10)
    wanted = np.tile([True, False], 40)
    apart = split(groups, wanted, 3)
    assert not set(groups[apart]) & set(groups[~apart])
    assert len(set(groups[apart])) == 2
    assert (split(groups, wanted, 3) == apart).all()
    with pytest.raises(ConfigError, match="cannot be split"):
        split(groups[:10], wanted[:10], 0)


def test_a_classifier_learns_and_the_same_seed_gives_the_same_one() -> None:
    rng = np.random.default_rng(0)
    patches = rng.integers(100, 156, (48, 32, 32, 3), dtype=np.uint8)
    labels = np.tile([True, False], 24)
    patches[labels, :, :, 0] += 60
    config = ClassifierConfig(side=32, epochs=4, batch=8)
    one, two = (classify(train_classifier(patches, labels, config, 5), patches) for _ in range(2))
    assert auc(labels, one) > 0.95
    assert (one == two).all()
    with pytest.raises(ConfigError, match="no network"):
        make_network("nonsense")
