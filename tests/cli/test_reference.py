"""References by name: saved whole, listed, found again, and never replaced in silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.cli.options import checkpoint_file
from pipelines.references.library import shipped_checkpoint
from tests.support.commands import Run
from tests.support.made_checkpoint import WHITE, write_untrained
from wsi_stain.core.journal import file_digest
from wsi_stain.pix2pix.checkpoint import Checkpoint


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WSI_STAIN_REFERENCES", str(tmp_path / "references"))
    return tmp_path / "references"


def test_a_reference_is_kept_with_its_stain_and_card_and_found_by_name(
    library: Path, tmp_path: Path, wsi_stain: Run
) -> None:
    assert "no reference" in wsi_stain("reference", "list").out
    checkpoint = write_untrained(tmp_path / "training" / "checkpoint.safetensors", mpp=0.25)
    (tmp_path / "training" / "MODEL_CARD.md").write_text("# Card\n", encoding="utf-8")
    saved = wsi_stain("reference", "save", "Oslo-AT2", checkpoint)
    assert saved.code == 0, saved.err
    found = wsi_stain("reference", "path", "Oslo-AT2")
    assert Path(found.out.strip()).read_bytes() == checkpoint.read_bytes()
    facts = json.loads((library / "Oslo-AT2" / "reference.json").read_text())
    assert facts["stain"]["white"] == list(WHITE) and facts["mpp"] == 0.25
    assert (library / "Oslo-AT2" / "MODEL_CARD.md").read_text() == "# Card\n"
    listed = wsi_stain("reference", "list")
    assert listed.code == 0 and "Oslo-AT2" in listed.out and facts["sha256"][:12] in listed.out
    assert wsi_stain("reference", "save", "Oslo-AT2", checkpoint).code == 0


def test_a_name_stays_with_its_checkpoint(library: Path, tmp_path: Path, wsi_stain: Run) -> None:
    one, two = (write_untrained(tmp_path / f"{mpp}.safetensors", mpp=mpp) for mpp in (0.25, 0.5))
    assert wsi_stain("reference", "save", "ours", one).code == 0
    other = wsi_stain("reference", "save", "ours", two)
    assert other.code == 1 and "another checkpoint" in other.err and "Choose another name" in other.err
    assert (library / "ours" / "checkpoint.safetensors").read_bytes() == one.read_bytes()
    for name in ("../up", ".hidden", "a b"):
        assert wsi_stain("reference", "save", name, one).code == 1
    assert wsi_stain("reference", "save", "", one).code == 2
    (tmp_path / "text.safetensors").write_text("no checkpoint")
    assert wsi_stain("reference", "save", "bad", tmp_path / "text.safetensors").code == 1
    assert sorted(path.name for path in library.iterdir()) == ["ours"]


def test_a_reference_that_was_changed_is_not_used(library: Path, tmp_path: Path, wsi_stain: Run) -> None:
    wsi_stain("reference", "save", "ours", write_untrained(tmp_path / "c.safetensors"))
    (library / "ours" / "checkpoint.safetensors").write_bytes(b"other")
    changed = wsi_stain("reference", "path", "ours")
    assert changed.code == 1 and "not the checkpoint that was saved" in changed.err
    listed = wsi_stain("reference", "list")
    assert listed.code == 3 and "changed" in listed.out
    missing = wsi_stain("reference", "path", "theirs")
    assert missing.code == 1 and "wsi-stain reference list" in missing.err


def test_the_shipped_checkpoint_is_found_by_name_and_is_one(wsi_stain: Run) -> None:
    found = wsi_stain("reference", "path", "shipped")
    checkpoint = Path(found.out.strip())
    scores = Checkpoint.load(checkpoint).contract.scores
    assert scores is not None and not scores.warning
    assert checkpoint.stat().st_size < 4_000_000
    card = checkpoint.with_name("MODEL_CARD.md").read_text(encoding="utf-8")
    assert file_digest(checkpoint) in card and "MIT licence" in card


def test_shipped_is_no_name_for_another_checkpoint(library: Path, tmp_path: Path, wsi_stain: Run) -> None:
    refused = wsi_stain("reference", "save", "shipped", write_untrained(tmp_path / "c.safetensors"))
    assert refused.code == 1 and "not shipped" in refused.err


@pytest.mark.parametrize("value", ["shipped", "own.safetensors"])
def test_checkpoint_options_take_shipped_and_files(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = shipped_checkpoint() if value == "shipped" else tmp_path / value
    assert checkpoint_file(Path(value)) == own
    if value == "shipped":
        (tmp_path / value).touch()  # a file of the user's own wins
        assert checkpoint_file(Path(value)) == tmp_path / value
