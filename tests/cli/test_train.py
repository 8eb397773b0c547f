"""The command `train`: what it does beside a training that is there, and what it says of a poor checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.commands import TINY, Run
from tests.support.made_checkpoint import write_untrained
from tests.support.made_store import paint_tissue, store_slide
from wsi_stain.core.geometry import Size
from wsi_stain.pix2pix.checkpoint import Checkpoint, save
from wsi_stain.pix2pix.contract import HeldOutScores

QUICK = (
    TINY.replace("accept_poor_checkpoint: true\n", "")
    .replace("images: 480", "images: 16")
    .replace("lr: 0.002", "lr: 0.0001")
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reference")
    return store_slide(root, "reference", paint_tissue(Size(1900, 700))).path.parent


def train(wsi_stain: Run, store: Path, out: Path, text: str) -> tuple[int, str]:
    config = out.parent / "own.yaml"
    config.write_text(text)
    ended = wsi_stain("train", store, "-o", out, "-c", config)
    return ended.code, ended.out + ended.err


def test_another_training_never_replaces_a_finished_one(tmp_path: Path, store: Path, wsi_stain: Run) -> None:
    out = tmp_path / "training"
    code, said = train(wsi_stain, store, out, QUICK)
    assert code == 0, said
    before = (out / "checkpoint.safetensors").read_bytes()
    assert "trained before" in train(wsi_stain, store, out, QUICK)[1]
    code, said = train(wsi_stain, store, out, QUICK.replace("epochs: 1", "epochs: 2").replace("ndf: 8", "ndf: 4"))
    assert code == 1
    assert "is of another training: training.epochs was 1, is 2; training.ndf was 8, is 4" in " ".join(said.split())
    assert "Choose another --out" in said
    assert (out / "checkpoint.safetensors").read_bytes() == before
    (out / "checkpoint.safetensors").rename(tmp_path / "kept.safetensors")
    assert train(wsi_stain, store, out, QUICK.replace("epochs: 1", "epochs: 2"))[0] == 0


def test_a_checkpoint_that_nobody_knows_is_not_replaced(tmp_path: Path, store: Path, wsi_stain: Run) -> None:
    (tmp_path / "training").mkdir()
    write_untrained(tmp_path / "training" / "checkpoint.safetensors")
    code, said = train(wsi_stain, store, tmp_path / "training", QUICK)
    assert code == 1 and "nothing says how it was trained" in said


def test_a_checkpoint_worse_than_nothing_is_said_and_stops_a_run(tmp_path: Path, store: Path, wsi_stain: Run) -> None:
    """A training that hardly moved: all gray."""
    code, said = train(wsi_stain, store, tmp_path / "training", QUICK)
    checkpoint = tmp_path / "training" / "checkpoint.safetensors"
    scores = Checkpoint.load(checkpoint).contract.scores
    assert scores is not None and scores.is_poor
    assert code == 0 and "WARNING: The checkpoint is worse than no normalization at all" in " ".join(said.split())
    command = ("normalize", store, "--checkpoint", checkpoint, "-o", tmp_path / "out", "-j", 0)
    ended = wsi_stain(*command)
    assert ended.code == 1 and "--accept-poor-checkpoint" in ended.err
    assert not (tmp_path / "out" / "slides").exists()
    ended = wsi_stain(*command, "--accept-poor-checkpoint")
    assert ended.code == 0, ended.err
    assert "WARNING" in ended.out


def test_a_checkpoint_worse_than_reinhard_is_said_and_used(tmp_path: Path, store: Path, wsi_stain: Run) -> None:
    loaded = Checkpoint.load(write_untrained(tmp_path / "drawn.safetensors", 0.25))
    scores = HeldOutScores(generator=3.5, untouched=7.0, reinhard=3.1)
    save(tmp_path / "fair.safetensors", loaded.generator, loaded.contract.model_copy(update={"scores": scores}))
    ended = wsi_stain(
        "normalize", store, "--checkpoint", tmp_path / "fair.safetensors", "-o", tmp_path / "out", "-j", 0
    )
    assert ended.code == 0, ended.err
    assert "WARNING: The checkpoint is worse than Reinhard's method" in " ".join(ended.out.split())
