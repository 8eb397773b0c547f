"""What has to be known of a slide before its blocks are normalized, as tasks: by all workers, then put together by one.

First the slide's stain statistics are refined in passes, of which each needs the last one's result; then its colour
table is sampled; then that is fitted. A task carries paths, settings and a few sums; of those that only sum nothing is
left, since they take no longer than to record them safely. Knows no executor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch

from wsi_stain.core.receipts import Receipt, file_product, valid_receipt, write_receipt
from wsi_stain.normalizers.base import Normalizer
from wsi_stain.normalizers.config import NormalizeConfig
from wsi_stain.normalizers.load import load_normalizer
from wsi_stain.normalizers.lut import OUTSIDE, RESIDUAL, TableFit
from wsi_stain.pix2pix.gpu import translate_device_errors
from wsi_stain.stain.refinement import Beliefs
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.store import TiledSlide
from wsi_stain.store.artifact import Artifact, load_artifact, save_artifact


@dataclass(frozen=True, kw_only=True)
class PrepareTask:
    """Learn what a normalizer has to know about one slide.

    Attributes:
        slide: Opens the slide, stored or streamed: its `opener`.
        checkpoint: The checkpoint's file.
        digest: SHA-256 of that file, as the run knows it.
        normalize: Settings of the normalization, `auto` resolved.
        device: Where the generator runs, as torch names it.
        artifact: Where the arrays go.
        receipt: Where the receipt goes.
        key: Fingerprint of everything that the arrays depend on.
        stain: What to take for the slide's stain; None takes its own.
        samples: What `sample_slide` left of each part, in order; where there is none, it is done here.
    """

    slide: Callable[[], TiledSlide]
    checkpoint: Path
    digest: str
    normalize: NormalizeConfig
    device: str = "cpu"
    artifact: Path
    receipt: Path
    key: str
    stain: StainStatistics | None = None
    samples: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PartTask(PrepareTask):
    """Learn a part of what is learnt of one slide: the generator's work on some tiles takes longer than all the rest.

    Attributes:
        part: Its number, from 0 to one less than `NormalizeConfig.sample_parts`.
        beliefs: What `sum_beliefs` gave for all parts, in order, in each pass that refined the slide's statistics.
    """

    part: int
    beliefs: tuple[tuple[Beliefs, ...], ...] = ()


class PrepareReceipt(Receipt):
    """Receipt of a prepared slide; its product is the artifact.

    Attributes:
        white: The output's background, [R, G, B].
        residual: Where there is a table, its mean CIEDE2000 to the generator on tiles that were not fitted, else None.
        outside: Where there is a table, the share of tissue whose colours it was not fitted to, else None.
    """

    white: list[int]
    residual: float | None
    outside: float | None


class BeliefReceipt(TypedDict):
    """What a pass says of a part's tiles; nothing is left on disk.

    Attributes:
        beliefs: See `stain.refinement`.
    """

    beliefs: Beliefs


@translate_device_errors
def sum_beliefs(task: PartTask) -> BeliefReceipt:
    """Take one part of the next pass that refines a slide's statistics; raises what `prepare_slide` does."""
    table = _load_normalizer(task).table
    assert table is not None, task.normalize
    with task.slide() as slide:
        return {"beliefs": table.sum_beliefs(slide, _refine(task, table, slide), task.part)}


@translate_device_errors
def sample_slide(task: PartTask) -> Receipt:
    """Sample one part of a slide, unless it is done; raises what `prepare_slide` does.

    Returns:
        The receipt; its product is the artifact of the part.
    """
    if done := find_valid_sample(task):
        return done
    table = _load_normalizer(task).table
    with task.slide() as slide:
        sample = table.sample(slide, _refine(task, table, slide), task.part) if table else {}
    _save(task, sample)
    return write_receipt(task.receipt, Receipt(key=task.key, product=file_product(task.artifact)))


def find_valid_sample(task: PartTask) -> Receipt | None:
    """Return the receipt of a part that is sampled already; None where it is not."""
    return valid_receipt(task.receipt, task.key, task.artifact, Receipt)


@translate_device_errors
def prepare_slide(task: PrepareTask) -> PrepareReceipt:
    """Do a `PrepareTask`, unless it is done.

    Raises:
        StainError: The slide's stain was not measured.
        CheckpointError: The checkpoint changed, or does not fit the slide.
        DeviceMemoryError: The device's memory does not suffice for `normalize.stride_px`.
        BrokenDeviceError: The GPU failed.
        StoreError: The slide is not in the store, or is damaged there.
        SlideError: Its file can no longer be read.
    """
    if done := valid_receipt(task.receipt, task.key, task.artifact, PrepareReceipt):
        return done
    with task.slide() as slide:
        normalizer = _load_normalizer(task)
        if task.samples and normalizer.table:
            artifact = normalizer.table.fit([load_artifact(path) for path in task.samples])
        else:
            artifact = normalizer.prepare(slide, task.stain or slide.require_stain())
    _save(task, artifact)
    receipt: PrepareReceipt = {
        "key": task.key,
        "product": file_product(task.artifact),
        "white": list(normalizer.white),
        "residual": _number(artifact, RESIDUAL),
        "outside": _number(artifact, OUTSIDE),
    }
    return write_receipt(task.receipt, receipt)


def _refine(task: PartTask, table: TableFit, slide: TiledSlide) -> StainStatistics:
    """Return the slide's statistics after the passes so far."""
    return table.refine(task.stain or slide.require_stain(), task.beliefs)


def _number(artifact: Artifact, name: str) -> float | None:
    return float(artifact[name]) if name in artifact else None


def _load_normalizer(task: PrepareTask) -> Normalizer:
    normalizer = load_normalizer(task.normalize, task.checkpoint, task.device, task.digest)
    torch.set_num_threads(1)  # with more, sums within a convolution come out differently
    return normalizer


def _save(task: PrepareTask, artifact: Artifact) -> None:
    """Write an artifact; its receipt goes first, so that none vouches for these bytes until the new one is written."""
    task.receipt.unlink(missing_ok=True)
    save_artifact(task.artifact, artifact)
