"""The `train` command: Pix2Pix on tile stores; alone, or under torchrun on several GPUs."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console

from pipelines.run_directory.usable_slides import UsableSlides, find_usable_slides
from pipelines.shared.config import RunConfig
from pipelines.shared.device import own_device
from pipelines.shared.messages import print_line
from pipelines.shared.progress import Progress
from wsi_stain import __version__
from wsi_stain.core.errors import StoreError, TrainingError
from wsi_stain.core.journal import fingerprint, read_json, remove_partials, write_json
from wsi_stain.core.lease import lease
from wsi_stain.core.receipts import Receipt, file_product, valid_receipt, write_receipt
from wsi_stain.core.storage import StoragePath
from wsi_stain.pix2pix import distributed
from wsi_stain.pix2pix.checkpoint import CHECKPOINT_NAME, read_contract
from wsi_stain.store import StoredSlide
from wsi_stain.training.config import TrainingConfig
from wsi_stain.training.loop import STATE_NAME, TrainingProgress, train
from wsi_stain.training.model_card import CARD_NAME, write_model_card
from wsi_stain.training.samples import usable_tiles

_BEGUN_NAME = ".begun.json"
"""In the training's directory: which slides and settings its files are of."""

_CHANGES = 4
"""Most differences to name."""


@dataclass(frozen=True)
class Request:
    """Arguments of `wsi-stain train`."""

    stores: Sequence[StoragePath]
    out: Path
    config: RunConfig


def plan(request: Request) -> UsableSlides:
    """Find the slides that would be trained on, and those left out because they are damaged.

    Raises:
        StoreError: There is no store, or no slide in any to train on.
    """
    stored = [find_usable_slides(store) for store in request.stores]
    damaged = {slide_id: error for each in stored for slide_id, error in each.damaged.items()}
    slides = [slide for each in stored for slide in each.slides if slide.record.split != "test"]
    if not slides:
        reasons = [f"{slide_id} is damaged: {error}" for slide_id, error in damaged.items()]
        where = ", ".join(str(store) for store in request.stores)
        raise StoreError(
            f"No slide of {where} is there to train on", "; ".join(reasons) or "Tile slides of another split"
        )
    return UsableSlides(slides, damaged)


def show_plan(request: Request, console: Console) -> int:
    """Print what training would do."""
    training, usable = request.config.training, plan(request)
    for slide in usable.slides:
        tiles = len(usable_tiles(slide, training.min_tissue, training.max_pen, training.min_blur))
        print_line(console, f"{slide.record.slide_id}: {tiles} tiles to learn from, {slide.mpp.mean:.4g} um/px")
    _print_damaged(usable, console)
    where = own_device(request.config.executor)
    print_line(console, f"{training.images} images an epoch, {training.epochs} epochs, on {where}")
    return 0


def run(request: Request, console: Console) -> int:
    """Train, unless the same training was done there before; under torchrun the first process shows and writes."""
    usable, device = plan(request), distributed.rank_device(own_device(request.config.executor))
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)
    with distributed.process_group(device):
        is_main = distributed.is_main()
        console.quiet = not is_main
        _print_damaged(usable, console)
        with lease(request.out) if is_main else nullcontext(), Progress(console) as progress:
            if is_main:
                remove_partials(request.out)
            checkpoint = ensure_checkpoint(usable.slides, request.config.training, request.out, progress, device)
            scores = read_contract(checkpoint).scores
            progress.warn(scores.warning if scores else "")
    print_line(console, f"checkpoint: {checkpoint}")
    return 0


def _print_damaged(usable: UsableSlides, console: Console) -> None:
    for slide_id, error in usable.damaged.items():
        print_line(console, f"{slide_id}: left out: {error}")


def ensure_checkpoint(
    slides: Sequence[StoredSlide], config: TrainingConfig, out: Path, progress: Progress, device: str
) -> Path:
    """Return the checkpoint trained on these slides with this configuration; it is trained now unless it is there.

    Args:
        slides: Complete slides of the reference laboratory.
        config: How to train.
        out: Directory for checkpoint, metrics and panels.
        progress: Where steps are shown.
        device: Where to compute, as torch names it.

    Returns:
        The checkpoint's path.

    Raises:
        TrainingError: The directory holds what another training left.
        InterruptedTrainingError: SIGINT or SIGTERM came; the same call goes on from there.
    """
    checkpoint, receipt = out / CHECKPOINT_NAME, out / ".training.json"
    parts = {
        "version": __version__,
        "slides": {slide.record.slide_id: slide.record.key for slide in slides},
        "training": config.model_dump(mode="json"),
    }
    key = fingerprint({**parts, "slides": [slide.record.key for slide in slides]})
    standing = valid_receipt(receipt, key, checkpoint, Receipt)
    distributed.barrier()  # nobody may change what another still reads
    is_main = distributed.is_main()
    if standing:
        if is_main and not checkpoint.with_name(CARD_NAME).exists():
            write_model_card(checkpoint, slides, config)
        progress.report(f"training: kept {checkpoint}, trained before on the same tiles with the same settings")
        return checkpoint
    _check_not_another(out, parts)
    if is_main:
        write_json(out / _BEGUN_NAME, parts)
        receipt.unlink(missing_ok=True)  # from here on it would vouch for a checkpoint that it did not see
        if not (out / STATE_NAME).exists():
            shutil.rmtree(out / "panels", ignore_errors=True)
    distributed.barrier()
    with stop_on_signals() as should_stop:
        train(config, slides, out, _show_steps(progress), device, should_stop)
    if device.startswith("cuda"):
        torch.cuda.empty_cache()  # in a run this process lives on, and its workers want the memory
    if is_main:
        write_model_card(checkpoint, slides, config)
        write_receipt(receipt, Receipt(key=key, product=file_product(checkpoint)))
    return checkpoint


def _check_not_another(out: Path, parts: Mapping[str, Any]) -> None:
    """Refuse a directory with a checkpoint, or an unfinished training, of other slides or settings.

    Raises:
        TrainingError: It has one.
    """
    there = [name for name in (CHECKPOINT_NAME, STATE_NAME) if (out / name).exists()]
    begun: Any = read_json(out / _BEGUN_NAME)
    if not there or begun == parts:
        return
    changes = list(_changes(begun, parts)) if isinstance(begun, dict) else ["nothing says how it was trained"]
    raise TrainingError(
        f"{out / there[0]} is of another training: {'; '.join(changes[:_CHANGES])}",
        "Choose another --out, go back to those settings, or move that file away to train anew. A finished training "
        "cannot be continued for more epochs: its learning rate has fallen to 0",
    )


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Say what differs between two trainings, by key: `training.epochs was 4, is 6`."""
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _changes(old, new, f"{prefix}{name}.")
        elif old != new:
            yield _slide_change(name, old, new) if prefix == "slides." else f"{prefix}{name} was {old}, is {new}"


def _slide_change(name: str, old: str | None, new: str | None) -> str:
    if old is None or new is None:
        return f"the slide {name} was {'not ' if old is None else ''}among its slides"
    return f"the slide {name} was tiled otherwise"


def _show_steps(progress: Progress) -> Callable[[TrainingProgress], None]:
    """Return the callback that shows each step: the first one says how many there are and were done."""
    done = 0

    def on_progress(now: TrainingProgress) -> None:
        nonlocal done
        if not done:
            progress.expect("train", now.steps)
            if now.threads:
                progress.report(f"training: {now.threads} threads")
        note = "  ".join(f"{name} {value:.3g}" for name, value in now.losses.items())
        progress.advance("train", now.step - done, note=note)
        done = now.step

    return on_progress


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Turn SIGINT and SIGTERM into a request to stop while it is open; a second one ends the process at once."""
    is_asked = False

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        nonlocal is_asked
        if is_asked:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        is_asked = True

    before = {number: signal.signal(number, ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: is_asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
