"""Training end to end on a painted slide: it learns, it repeats, it refuses what cannot work."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from tests.support.made_store import paint_tissue, store_slide
from wsi_stain.core.errors import InterruptedTrainingError, TrainingError
from wsi_stain.core.geometry import Size, TileIndex
from wsi_stain.pix2pix.checkpoint import Checkpoint
from wsi_stain.pix2pix.step import PendingLosses, Pix2Pix
from wsi_stain.store import StoredSlide
from wsi_stain.training import loop
from wsi_stain.training.config import TrainingConfig
from wsi_stain.training.contract import training_fingerprint
from wsi_stain.training.data import TrainingData
from wsi_stain.training.log import score_generator
from wsi_stain.training.loop import TrainingProgress, train
from wsi_stain.training.samples import read_shrunk

SCORES = ("psnr", "ssim", "ciede2000")


def tiny(**changes: Any) -> TrainingConfig:
    fields: dict[str, Any] = {
        "generator": {"downs": 3, "ngf": 4},
        "ndf": 4,
        "images": 24,
        "epochs": 2,
        "batch": 4,
        "crop": 64,
        "lr": 2e-3,
        "laboratories": 4,
        "correction_labs": 2,
        "validation_share": 0.3,
        "validation_tiles": 3,
        "calibration_images": 16,
        "panels": 2,
        "threads": 1,
        "precision": "float32",
        "stain_passes": 1,
    }
    return TrainingConfig.model_validate({**fields, **changes})


def table(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "metrics.csv").read_text().splitlines()))


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> StoredSlide:
    return store_slide(tmp_path_factory.mktemp("training"), "reference", paint_tissue(Size(1900, 700)))


def test_leaves_a_checkpoint_scores_and_panels(slide: StoredSlide, tmp_path: Path) -> None:
    seen: list[TrainingProgress] = []
    path = train(tiny(), [slide], tmp_path, seen.append)
    loaded = Checkpoint.load(path)
    assert loaded.contract.template.reference == slide.record.stain
    assert (loaded.contract.mpp, loaded.contract.stain_passes) == (pytest.approx(0.25), 1)
    assert loaded.correction is not None
    assert Checkpoint.load(tmp_path / "last.safetensors").correction is None
    assert loaded.contract.training_fingerprint == training_fingerprint(tiny(), [slide])
    assert [each.step for each in seen] == list(range(1, 13))
    assert {each.steps for each in seen} == {12}
    assert seen[6].epoch == 2
    rows = table(tmp_path)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(float(rows[0][f"{kind}_{name}"]) for kind in ("clean", "perturbed", "untouched") for name in SCORES)
    panel = np.asarray(Image.open(tmp_path / "panels" / "epoch_002.png"))
    assert panel.shape == (2 * 260 + 4, 3 * 260 + 4, 3)
    assert np.array_equal(panel[4:260, 4:260, 0], panel[4:260, 4:260, 2])  # the template is gray


@pytest.mark.parametrize(
    ("shrink", "mpp", "expected"), [("auto", 0.25, 2), ("auto", 0.44, 1), ("auto", 0.12, 4), (1, 0.25, 1)]
)
def test_pixels_are_shrunk_to_half_a_micrometre(shrink: Any, mpp: float, expected: int) -> None:
    assert tiny(shrink=shrink).shrink_at(mpp) == expected


def test_a_training_on_shrunk_pixels_promises_so(slide: StoredSlide, tmp_path: Path) -> None:
    config = tiny(shrink="auto", images=320)
    loaded = Checkpoint.load(train(config, [slide], tmp_path))
    assert (loaded.contract.shrink, loaded.contract.mpp) == (2, pytest.approx(0.25))
    data = TrainingData(config, [slide], torch.device("cpu"), loaded.contract.template, 2)
    tile = data.held_out[0].pixels.numpy()
    assert tile.shape == (256, 256, 3)
    assert any(
        np.array_equal(tile, read_shrunk(slide, place, 2)) for place in map(TileIndex._make, np.argwhere(slide.kept))
    )
    last = table(tmp_path)[-1]
    assert float(last["perturbed_ciede2000"]) < 0.9 * float(last["untouched_ciede2000"])


@pytest.mark.parametrize("template", ["gray", "he"])
def test_learns_the_colours(slide: StoredSlide, tmp_path: Path, template: str) -> None:
    channels = 1 if template == "gray" else 2
    config = tiny(images=320, template=template, panels=0, generator={"downs": 3, "ngf": 8, "in_channels": channels})
    train(config, [slide], tmp_path)
    last = table(tmp_path)[-1]
    assert float(last["perturbed_ciede2000"]) < 0.8 * float(last["untouched_ciede2000"])
    assert not (tmp_path / "panels").exists()


def test_scores_are_those_of_the_saved_checkpoint(slide: StoredSlide, tmp_path: Path) -> None:
    """Eval mode is the trained mode, for averaged weights too: the file gives what training measured."""
    config = tiny(ema=0.9, images=80)
    loaded = Checkpoint.load(train(config, [slide], tmp_path))
    held_out = TrainingData(config, [slide], torch.device("cpu"), loaded.contract.template).held_out
    again = score_generator(loaded.generator, held_out, loaded.contract.template, torch.autocast("cpu", enabled=False))
    kept = min(table(tmp_path), key=lambda row: float(row["perturbed_ciede2000"]))
    for name, value in again.items():
        assert float(kept[name]) == pytest.approx(value, rel=1e-4), name


def test_classical_methods_and_an_oracle_stand_beside(slide: StoredSlide, tmp_path: Path) -> None:
    train(tiny(), [slide], tmp_path)
    rows = table(tmp_path)
    error = {row: float(rows[0][f"{row}_ciede2000"]) for row in ("untouched", "reinhard", "macenko", "oracle")}
    assert error["oracle"] < error["reinhard"] < error["untouched"]
    assert error["macenko"] < error["untouched"]
    assert rows[0]["oracle_psnr"] == rows[1]["oracle_psnr"]


@pytest.mark.parametrize("after", [3, 6, 11], ids=["in the first epoch", "at its end", "in the last"])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_interrupted_and_taken_up_is_uninterrupted(
    slide: StoredSlide, tmp_path: Path, after: int, precision: str
) -> None:
    config = tiny(ema=0.9, precision=precision)
    train(config, [slide], tmp_path / "through")
    done: list[int] = []
    with pytest.raises(InterruptedTrainingError, match=f"after {after} of 12"):
        train(
            config, [slide], tmp_path / "cut", lambda now: done.append(now.step), should_stop=lambda: len(done) == after
        )
    assert Checkpoint.load(tmp_path / "cut" / "last.safetensors")
    train(config, [slide], tmp_path / "cut", lambda now: done.append(now.step))
    assert done == list(range(1, 13))
    left = {path.relative_to(tmp_path / "through") for path in (tmp_path / "through").rglob("*") if path.is_file()}
    assert left == {path.relative_to(tmp_path / "cut") for path in (tmp_path / "cut").rglob("*") if path.is_file()}
    for name in left:
        assert (tmp_path / "through" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes(), name


def test_an_interrupted_training_goes_on_with_as_many_threads(
    slide: StoredSlide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []

    def choose() -> int:
        measured.append(2)
        return 2

    monkeypatch.setattr(loop, "choose_threads", choose)
    seen: list[tuple[int | None, int]] = []

    def note(now: TrainingProgress) -> None:
        seen.append((now.threads, torch.get_num_threads()))

    before = torch.get_num_threads()
    with pytest.raises(InterruptedTrainingError):
        train(tiny(threads=None), [slide], tmp_path, note, should_stop=lambda: True)
    with pytest.raises(InterruptedTrainingError):
        train(tiny(threads=None), [slide], tmp_path, note, should_stop=lambda: True)
    assert (seen, measured) == ([(2, 2), (2, 2)], [2])
    assert torch.get_num_threads() == before


def test_the_state_of_another_training_is_not_taken_up(slide: StoredSlide, tmp_path: Path) -> None:
    with pytest.raises(InterruptedTrainingError):
        train(tiny(), [slide], tmp_path / "cut", should_stop=lambda: True)
    train(tiny(seed=1), [slide], tmp_path / "cut")
    train(tiny(seed=1), [slide], tmp_path / "fresh")
    assert (tmp_path / "cut" / "metrics.csv").read_bytes() == (tmp_path / "fresh" / "metrics.csv").read_bytes()


def test_a_damaged_state_is_not_taken_up(slide: StoredSlide, tmp_path: Path) -> None:
    with pytest.raises(InterruptedTrainingError):
        train(tiny(), [slide], tmp_path, should_stop=lambda: True)
    state = tmp_path / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    seen: list[TrainingProgress] = []
    train(tiny(), [slide], tmp_path, seen.append)
    assert seen[0].step == 1


def test_ends_early_without_a_better_score_and_keeps_the_best(slide: StoredSlide, tmp_path: Path) -> None:
    config = tiny(epochs=9, patience=1, lr=0.3)
    train(config, [slide], tmp_path)
    errors = [float(row["perturbed_ciede2000"]) for row in table(tmp_path)]
    assert len(errors) < 9
    assert errors[-1] >= min(errors[:-1])
    assert (
        Checkpoint.load(tmp_path / "checkpoint.safetensors").digest
        != Checkpoint.load(tmp_path / "last.safetensors").digest
    )


def test_a_film_of_the_panels(slide: StoredSlide, tmp_path: Path) -> None:
    train(tiny(), [slide], tmp_path)
    with Image.open(tmp_path / "panels" / "epochs.gif") as film:
        assert film.n_frames == 2
        assert film.width == 640


def test_tensorboard_gets_scalars_and_panels(slide: StoredSlide, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tiny(tensorboard=True, images=48), [slide], tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"l1", "gan", "discriminator", "perturbed_ciede2000", "untouched_ciede2000"} <= set(tags["scalars"])
    assert [event.step for event in events.Scalars("perturbed_ciede2000")] == [12, 24]
    assert len(events.Images(tags["images"][0])) == 2


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_networks_learn_the_same(slide: StoredSlide, tmp_path: Path) -> None:
    for name, compiled in (("plain", False), ("compiled", True)):
        train(tiny(compile=compiled, epochs=1), [slide], tmp_path / name)
    plain, compiled = (float(table(tmp_path / name)[-1]["l1"]) for name in ("plain", "compiled"))
    assert compiled == pytest.approx(plain, rel=0.05)


@pytest.mark.parametrize("augment", [True, False], ids=["augmented", "as published"])
def test_same_seed_same_bytes(slide: StoredSlide, tmp_path: Path, augment: bool) -> None:
    config = tiny(augment=augment, ema=0.9 if augment else 0.0)
    for name in ("a", "b"):
        torch.manual_seed(hash(name) % 1000)
        train(config, [slide], tmp_path / name)
    a, b = ((tmp_path / name) for name in ("a", "b"))
    assert (a / "checkpoint.safetensors").read_bytes() == (b / "checkpoint.safetensors").read_bytes()
    assert (a / "metrics.csv").read_bytes() == (b / "metrics.csv").read_bytes()
    train(config.model_copy(update={"seed": 1}), [slide], tmp_path / "c")
    assert (tmp_path / "c" / "metrics.csv").read_bytes() != (a / "metrics.csv").read_bytes()


def test_leaves_the_callers_randomness_alone(slide: StoredSlide, tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train(tiny(epochs=1), [slide], tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_reading_tiles_when_needed_gives_the_same(slide: StoredSlide, tmp_path: Path) -> None:
    train(tiny(epochs=1), [slide], tmp_path / "held")
    train(tiny(epochs=1, cache_tiles=0), [slide], tmp_path / "read")
    assert (tmp_path / "held" / "metrics.csv").read_bytes() == (tmp_path / "read" / "metrics.csv").read_bytes()


def test_trains_where_nothing_can_be_held_out(tmp_path: Path) -> None:
    small = store_slide(tmp_path / "store", "small", paint_tissue(Size(300, 300)))
    train(tiny(epochs=1), [small], tmp_path / "out")
    rows = table(tmp_path / "out")
    assert "perturbed_psnr" not in rows[0]
    assert (tmp_path / "out" / "panels" / "epoch_001.png").exists()


def test_a_loss_that_is_no_number_names_the_tiles(
    slide: StoredSlide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Pix2Pix.step

    def broken(self: Pix2Pix, x: torch.Tensor, y: torch.Tensor) -> PendingLosses:
        return whole(self, x, y * torch.nan)

    monkeypatch.setattr(Pix2Pix, "step", broken)
    with pytest.raises(TrainingError, match=r"loss is nan, on tiles reference \(\d, \d\)") as caught:
        train(tiny(), [slide], tmp_path)
    assert "training.lr" in caught.value.remedy


@pytest.mark.parametrize("epochs", [1, 2])
def test_weights_that_are_no_numbers_are_never_kept(
    slide: StoredSlide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    """An epoch's last update is seen by no loss."""
    steps, whole = 6 * epochs, Pix2Pix.step

    def spoilt(self: Pix2Pix, x: torch.Tensor, y: torch.Tensor) -> PendingLosses:
        losses = whole(self, x, y)
        if self.steps_done == steps:
            with torch.no_grad():
                next(self.result.parameters()).fill_(torch.nan)
        return losses

    monkeypatch.setattr(Pix2Pix, "step", spoilt)
    told = "" if epochs == 1 else r"; \S+last.safetensors has the epoch before"
    with pytest.raises(TrainingError, match=rf"after step {steps} weights are NaN or infinite{told}\. Lower"):
        train(tiny(epochs=epochs), [slide], tmp_path)
    kept = sorted(tmp_path.glob("*t.safetensors"))  # checkpoint and last
    assert len(kept) == (0 if epochs == 1 else 2)
    for path in kept:
        assert all(bool(weight.isfinite().all()) for weight in Checkpoint.load(path).generator.parameters())


def test_interrupt_passes_through(slide: StoredSlide, tmp_path: Path) -> None:
    def stop(progress: TrainingProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny(), [slide], tmp_path, stop)
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_unmeasured_slide_is_refused(tmp_path: Path) -> None:
    blank = store_slide(tmp_path / "store", "blank", paint_tissue(Size(300, 300)), measured=False)
    with pytest.raises(TrainingError, match="stain of blank was not measured"):
        train(tiny(), [blank], tmp_path)


def test_no_slide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no slide"):
        train(tiny(), [], tmp_path)


def test_different_colour_spaces_are_refused(tmp_path: Path) -> None:
    both = [
        store_slide(tmp_path, f"s{i}", paint_tissue(Size(300, 300)), icc_profile=icc)
        for i, icc in enumerate(["AA==", None])
    ]
    with pytest.raises(TrainingError, match=r"slide\.icc set to srgb"):
        train(tiny(), both, tmp_path / "out")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"template": "he"}, "in_channels must be 2"),
        ({"crop": 100}, "crop is 100, expected a multiple of 2\\*\\*generator.downs, 8"),
        ({"crop": 512}, "256"),
        ({"epochs": 0}, "epochs"),
        ({"imagse": 3}, "imagse"),
        ({"lr": float("nan")}, "lr"),
    ],
    ids=lambda case: str(next(iter(case))) if isinstance(case, dict) else "",
)
def test_config_that_cannot_work_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        tiny(**wrong)
