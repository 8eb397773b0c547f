"""The `train` command: Pix2Pix on a tile store."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pipelines.config import RunConfig, device
from pipelines.progress import Progress, tell
from pipelines.stored import Stored, stored_slides
from wsi_stain import __version__
from wsi_stain.errors import StoreError
from wsi_stain.journal import fingerprint, remove_partials, valid_receipt, write_receipt
from wsi_stain.lease import lease
from wsi_stain.place import Place
from wsi_stain.store import StoredSlide
from wsi_stain.training import TrainingConfig, TrainingProgress, train


@dataclass(frozen=True)
class Request:
    """What `wsi-stain train` was asked for."""

    store: Place
    out: Path
    config: RunConfig


def plan(request: Request) -> Stored:
    """The slides that would be trained on, and those left out because they are damaged.

    Raises:
        StoreError: There is no store, or no slide in it to train on.
    """
    found = stored_slides(request.store)
    slides = [slide for slide in found.slides if slide.record.split != "test"]
    if not slides:
        told = [f"{slide_id} is damaged: {error}" for slide_id, error in found.damaged.items()]
        raise StoreError(
            f"No slide of {request.store} is there to train on", "; ".join(told) or "Tile slides of another split"
        )
    return Stored(slides, found.damaged)


def show_plan(request: Request, console: Console) -> int:
    """Print what training would do."""
    training, found = request.config.training, plan(request)
    for slide in found.slides:
        tiles = int((slide.tissue >= training.min_tissue).sum())
        tell(console, f"{slide.record.slide_id}: {tiles} tiles to learn from, {slide.mpp.mean:.4g} um/px")
    _tell_damaged(found, console)
    tell(console, f"{training.images} images, {training.epochs} epochs, on {device()}")
    return 0


def run(request: Request, console: Console) -> int:
    """Train, unless the same training was done there before."""
    found = plan(request)
    _tell_damaged(found, console)
    with lease(request.out), Progress(console) as progress:
        remove_partials(request.out)
        checkpoint = trained(found.slides, request.config.training, request.out, progress)
    tell(console, f"checkpoint: {checkpoint}")
    return 0


def _tell_damaged(found: Stored, console: Console) -> None:
    for slide_id, error in found.damaged.items():
        tell(console, f"{slide_id}: left out: {error}")


def trained(slides: Sequence[StoredSlide], config: TrainingConfig, out: Path, progress: Progress) -> Path:
    """The checkpoint trained on these slides with this configuration; trained now unless it is there.

    Args:
        slides: Complete slides of the reference laboratory.
        config: How to train.
        out: Directory for checkpoint, metrics and panels.
        progress: Where steps are shown.

    Returns:
        The checkpoint's path.
    """
    checkpoint, receipt = out / "checkpoint.safetensors", out / ".training.json"
    parts = {"slides": [slide.record.key for slide in slides], "config": config.model_dump(mode="json")}
    key = fingerprint({**parts, "version": __version__})
    if valid_receipt(receipt, key, checkpoint):
        progress.say(f"training: kept {checkpoint}, trained before on the same tiles with the same settings")
        return checkpoint
    receipt.unlink(missing_ok=True)  # from here on it would vouch for a checkpoint that it did not see
    shutil.rmtree(out / "panels", ignore_errors=True)
    expected = False

    def on_progress(now: TrainingProgress) -> None:
        nonlocal expected
        if not expected:
            progress.expect("train", now.steps)
            expected = True
        progress.advance("train", note="  ".join(f"{name} {value:.3g}" for name, value in now.losses.items()))

    train(config, slides, out, on_progress, device())
    write_receipt(receipt, key, checkpoint)
    return checkpoint
