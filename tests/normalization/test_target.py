"""What a run normalizes to: a checkpoint, or what a classical method takes from the reference."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pipelines.normalization.target import NormalizationTarget, choose_classical_reference
from tests.support.made_checkpoint import WHITE, write_untrained
from tests.support.made_store import paint_tissue, store_slide
from wsi_stain.core.errors import CheckpointError, ConfigError
from wsi_stain.core.geometry import Size


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_untrained(tmp_path_factory.mktemp("checkpoint") / "c.safetensors")


def test_a_checkpoint_gives_its_reference_and_the_hash_of_its_file(checkpoint: Path) -> None:
    target = NormalizationTarget.load(checkpoint)
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert (target.white, target.template, target.digest) == (WHITE, "gray", digest)
    assert target.facts["checkpoint"] == {"file": "c.safetensors", "sha256": digest}
    assert target.facts["reference"] == target.reference.model_dump(mode="json")


def test_macenko_takes_the_same_reference_from_a_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    reference = choose_classical_reference("macenko", checkpoint, ())
    target = NormalizationTarget.of_classical(reference, tmp_path / "reference.json")
    trained = NormalizationTarget.load(checkpoint)
    assert (target.reference, target.white, target.template) == (trained.reference, trained.white, "none")
    assert target.digest == hashlib.sha256((tmp_path / "reference.json").read_bytes()).hexdigest()


def test_reinhard_needs_more_than_a_checkpoint_has(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="--reference instead of --checkpoint"):
        choose_classical_reference("reinhard", checkpoint, ())


def test_a_slide_in_another_colour_space_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    record = store_slide(tmp_path / "store", "a", paint_tissue(Size(300, 200))).record
    target = NormalizationTarget.load(checkpoint)
    target.check_colours(record)
    with pytest.raises(CheckpointError, match="ICC policy keep, the slide has srgb"):
        target.check_colours(record.model_copy(update={"icc_policy": "srgb"}))
