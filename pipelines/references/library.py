"""The `reference` commands: a laboratory's own references by name, each a folder with checkpoint, model card and stain.

    REFERENCES/<name>/checkpoint.safetensors   the generator
                      MODEL_CARD.md            where training left one
                      reference.json           its stain statistics, resolution, scores and SHA-256

REFERENCES is the environment variable WSI_STAIN_REFERENCES, else `wsi-stain/references` in the user's data directory.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines.shared.messages import print_line
from pipelines.shared.tables import Column, print_table
from wsi_stain.core.errors import ConfigError
from wsi_stain.core.journal import atomic_write, file_digest, read_json, write_json
from wsi_stain.pix2pix.checkpoint import CHECKPOINT_NAME, read_contract
from wsi_stain.training.model_card import CARD_NAME

SHIPPED = "shipped"
"""Name of the checkpoint that comes with the program: a start, so that a first try needs no training."""

_FACTS_NAME = "reference.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def find_library() -> Path:
    """Return the directory of all references; it need not exist."""
    if chosen := os.environ.get("WSI_STAIN_REFERENCES"):
        return Path(chosen).absolute()
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data).absolute() / "wsi-stain" / "references"


def save(name: str, checkpoint: Path, library: Path, console: Console) -> int:
    """Keep a checkpoint under a name; the facts are written last, so that a reference without them is none.

    Raises:
        ConfigError: The name is no name, or belongs to another checkpoint.
        CheckpointError: The file is no checkpoint, or damaged.
    """
    if not _NAME.fullmatch(name) or name == SHIPPED:
        raise ConfigError(
            f"{name} is no name for a reference",
            f"Use letters, digits, '.', '_' and '-', 64 at most, and not {SHIPPED}",
        )
    contract, digest, folder = read_contract(checkpoint), file_digest(checkpoint), library / name
    before = _read_facts(folder)
    if before and before["sha256"] != digest:
        raise ConfigError(
            f"The reference {name} is another checkpoint, saved before",
            f"Choose another name, or remove {folder}: what was normalized to it cannot be compared with the new one",
        )
    card = checkpoint.with_name(CARD_NAME)
    for file in (checkpoint, *([card] if card.exists() else [])):
        target = CHECKPOINT_NAME if file == checkpoint else CARD_NAME
        atomic_write(folder / target, file.read_bytes())
    facts = {
        "name": name,
        "sha256": digest,
        "mpp": contract.mpp,
        "template": contract.template.kind,
        "version": contract.version,
        "stain": contract.template.reference.model_dump(mode="json"),
        "scores": contract.scores.model_dump(mode="json") if contract.scores else None,
    }
    write_json(folder / _FACTS_NAME, facts)
    print_line(console, f"{name}: {folder / CHECKPOINT_NAME}")
    if contract.scores and contract.scores.warning:
        print_line(console, f"WARNING: {contract.scores.warning}")
    return 0


def show_list(library: Path, console: Console) -> int:
    """Print the references, a row each; those whose checkpoint is not the one that was saved are said to be so.

    Returns:
        0, or 3 where a checkpoint is not what was saved.
    """
    folders = sorted(folder for folder in library.glob("*") if _read_facts(folder)) if library.is_dir() else []
    if not folders:
        print_line(console, f"no reference in {library}; save one: wsi-stain reference save NAME CHECKPOINT")
        return 0
    whole, rows = True, []
    for folder in folders:
        facts = _read_facts(folder)
        sound = (folder / CHECKPOINT_NAME).exists() and file_digest(folder / CHECKPOINT_NAME) == facts["sha256"]
        whole = whole and sound
        score = f"{facts['scores']['generator']:.1f}" if facts["scores"] else ""
        rows.append([facts["name"], f"{facts['mpp']:.4g}", score, facts["sha256"][:12], "" if sound else "changed"])
    columns = ("reference", "um/px", "CIEDE2000 held out", "SHA-256", "")
    print_table([Column(heading, number=index in (1, 2)) for index, heading in enumerate(columns)], rows, console)
    print_line(console, f"in {library}")
    return 0 if whole else 3


def find(name: str, library: Path) -> Path:
    """Return the checkpoint of a reference.

    Raises:
        ConfigError: There is none of that name, or it is not what was saved.
    """
    if name == SHIPPED:
        return shipped_checkpoint()
    facts, checkpoint = _read_facts(library / name), library / name / CHECKPOINT_NAME
    if not facts:
        raise ConfigError(f"There is no reference {name} in {library}", "See wsi-stain reference list")
    if not checkpoint.exists() or file_digest(checkpoint) != facts["sha256"]:
        raise ConfigError(f"{checkpoint} is not the checkpoint that was saved as {name}", "Remove it and save it again")
    return checkpoint


def shipped_checkpoint() -> Path:
    """Return the checkpoint that comes with the program; its model card lies beside it."""
    return Path(__file__).parent / SHIPPED / "checkpoint.safetensors"


def _read_facts(folder: Path) -> dict[str, Any]:
    """Return what is known of a reference; nothing where there is none."""
    facts = read_json(folder / _FACTS_NAME)
    return facts if isinstance(facts, dict) and {"name", "sha256", "mpp", "scores"} <= facts.keys() else {}
