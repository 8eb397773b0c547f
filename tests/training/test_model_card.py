"""The model card beside a checkpoint: true, the same every time, and silent about names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.made_checkpoint import write_untrained
from tests.support.made_store import paint_tissue, store_slide
from wsi_stain.core.geometry import Size
from wsi_stain.core.journal import file_digest
from wsi_stain.pix2pix.checkpoint import Checkpoint, save
from wsi_stain.pix2pix.contract import HeldOutScores
from wsi_stain.training.config import TrainingConfig
from wsi_stain.training.model_card import CARD_NAME, write_model_card


def card(path: Path, scores: HeldOutScores | None) -> str:
    """The card of an untrained checkpoint with these scores, on two slides of one patient."""
    checkpoint = Checkpoint.load(write_untrained(path / "checkpoint.safetensors"))
    save(
        path / "checkpoint.safetensors", checkpoint.generator, checkpoint.contract.model_copy(update={"scores": scores})
    )
    slides = [
        store_slide(path / "s.zarr", name, paint_tissue(Size(600, 300)), site="Oslo", patient="Jane-Doe")
        for name in "ab"
    ]
    write_model_card(path / "checkpoint.safetensors", slides, TrainingConfig(epochs=3, seed=7))
    return (path / CARD_NAME).read_text(encoding="utf-8")


def test_the_card_says_what_it_was_trained_on_and_how_good_it_is(tmp_path: Path) -> None:
    text = card(tmp_path, HeldOutScores(generator=4.1, untouched=7.3, reinhard=3.6))
    for said in ("slides: 2, tiles of tissue: 12, patients: 1", "Oslo", "0.5 um/px", "3 epochs", "seed 7", "| 4.10 |"):
        assert said in text, said
    assert "**The checkpoint is worse than Reinhard's method" in text
    assert file_digest(tmp_path / "checkpoint.safetensors") in text
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Trained on", "## Trained how", "## For", "## Not for", "## Scores", "## Which file"
    ]  # fmt: skip


def test_the_card_names_no_slide_and_no_patient_and_is_the_same_twice(tmp_path: Path) -> None:
    text = card(tmp_path, None)
    assert "Jane" not in text and ".svs" not in text
    assert "nothing is known" in text
    (tmp_path / CARD_NAME).unlink()
    assert card(tmp_path, None) == text


@pytest.mark.parametrize("worse", [False, True])
def test_only_a_poor_checkpoint_is_warned_of(tmp_path: Path, worse: bool) -> None:
    text = card(tmp_path, HeldOutScores(generator=9.0 if worse else 2.0, untouched=7.3, reinhard=3.6))
    assert ("worse than no normalization" in text) == worse
