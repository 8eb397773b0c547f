"""One slide from its tiles to its pyramids and its row; or, where an earlier run finished it, only its row."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.normalization.changes import describe_changes, record_ingredients
from pipelines.normalization.context import RunContext
from pipelines.normalization.out_of_memory import describe_stride, run_within_memory, with_recorded_stride
from pipelines.normalization.rows import (
    describe_stain,
    failed_row,
    finished_row,
    quality_fields,
    unfitted_colours_warning,
)
from pipelines.normalization.tasks import (
    block_receipt,
    block_tasks,
    dicom_task,
    pictures_task,
    prepare_flow,
    stitch_tasks,
    table_tasks,
)
from pipelines.run_directory.slide_outputs import SlideOutputs
from pipelines.shared.formats import TABLES
from pipelines.shared.progress import Progress
from pipelines.shared.space import DiskSpace
from wsi_stain.core.arrays import Mask
from wsi_stain.core.errors import LeaseError, UnreadableError
from wsi_stain.core.geometry import BlockIndex
from wsi_stain.core.icc import input_profile, srgb_profile
from wsi_stain.core.storage import absolute_path
from wsi_stain.executor import Executor, Flow, Receipt, Task, run_flows, run_tasks
from wsi_stain.normalize.tasks import BlockReceipt, find_valid_block
from wsi_stain.report import load_pictures
from wsi_stain.results import SlideRow
from wsi_stain.results.areas import save_areas
from wsi_stain.results.finished import FinishedSlide, Origin, blank_areas, load_finished, save_finished
from wsi_stain.slides.listing.find import SlideSource
from wsi_stain.store import StoredSlide, TiledSlide
from wsi_stain.store.record import TilesIdentity
from wsi_stain.tiling.record import config_for_slide
from wsi_stain.tiling.tasks import check_holes
from wsi_stain.tissue.exempt import exempt_remarks


def reuse_flow(context: RunContext, source: SlideSource, tiles: TilesIdentity) -> Flow[SlideRow | None]:
    """Keep what an earlier run finished of a slide under the same key; remove what has another key.

    Missing DICOM is copied from a valid TIFF, a missing table is written from what is kept of the slide. For any other
    missing format the slide is normalized again: the blocks of a finished slide are gone.

    Args:
        context: What all slides of the run share.
        source: The slide as it is listed.
        tiles: What its tiles are.

    Returns:
        The slide's row, without pictures, or None when the slide has to be normalized.
    """
    context = with_recorded_stride(context, source.slide_id)
    outputs = context.outputs(source.slide_id, tiles["key"])
    finished, missing, tiff = load_finished(outputs.folder), outputs.missing, outputs.tiff.tiff_receipt()
    if finished is None or finished.key != outputs.key:
        if outputs.has_stale:
            changes = describe_changes(outputs.folder, context.ingredients(source.slide_id, tiles))
            context.report(f"{source.relative}: made again: {changes}")
        outputs.remove_stale()
        return None
    copied = {"dicom"} if tiff is not None else set()
    tabulated = set(TABLES) if outputs.has_artifact else set()
    if absent := [kind for kind in missing if kind not in copied | tabulated]:
        context.report(
            f"{source.relative}: no whole {', '.join(absent)}: normalizing it again, since its blocks are gone"
        )
        outputs.remove_stale()
        return None
    if missing:
        context.check_lease()
        yield table_tasks(context, finished.origin.fingerprint, finished.origin.reading.icc, outputs)
    if "dicom" in missing and tiff is not None:
        yield [dicom_task(context, source.slide_id, outputs, tiff)]
    row = finished.row.with_outputs(outputs.names)
    if row != finished.row:
        save_finished(outputs.folder, replace(finished, row=row))
    outputs.remove_intermediates()
    return row.without_pictures()


def normalize_flow(
    context: RunContext, slide: TiledSlide, source: SlideSource, started: float, file: Path | None = None
) -> Flow[SlideRow]:
    """Normalize one slide into its outputs; blocks that an interrupted run finished are kept.

    Args:
        context: What all slides of the run share.
        slide: Its tiles, stored or streamed.
        source: The slide as it is listed: the names of its row and its outputs.
        started: When work on the slide began, by time.monotonic().
        file: The slide's own file, where the run knows it.

    Returns:
        The slide's row, without pictures.
    """
    flow = partial(_normalize_flow, slide=slide, source=source, started=started, file=file)
    return (yield from run_within_memory(context, source.slide_id, flow))


def _normalize_flow(
    context: RunContext, slide: TiledSlide, source: SlideSource, started: float, file: Path | None
) -> Flow[SlideRow]:
    """Do `normalize_flow` with one stride."""
    outputs = context.outputs(source.slide_id, slide.record.key)
    context.target.check_colours(slide.record)
    ingredients = context.ingredients(source.slide_id, slide.record.identity)
    changes = describe_changes(outputs.folder, ingredients)
    record_ingredients(outputs.folder, ingredients)
    context.space.expect(source.slide_id, int(slide.kept.sum()))
    prepared = yield from prepare_flow(context, slide, source.slide_id, outputs)
    receipts = (yield from _blocks_flow(context, slide, source, outputs, changes)) if outputs.has_pyramids else []
    holes = _count_holes(context, slide, source, outputs, receipts)
    context.check_lease()
    yield table_tasks(context, slide.record.fingerprint, slide.record.icc_policy, outputs)
    if outputs.has_pyramids:
        yield from _pyramids_flow(context, slide, outputs, receipts)
    quality = quality_fields(slide, context.settings.mode, prepared, receipts)
    pictures = pictures_task(context, slide, outputs, quality.get("hallucination"))
    (drawn,) = yield [pictures]
    if drawn["problem"]:
        context.report(f"{source.relative}: the report has no pictures of it: {drawn['problem']}")
    row = finished_row(slide, source, outputs, holes, time.monotonic() - started).model_copy(update=quality)
    row = row.with_pictures(load_pictures(pictures.argument.out))
    if warning := unfitted_colours_warning(prepared, context.settings):
        context.report(f"{row.slide}: {warning}")
    stain = describe_stain(slide, context.group_stains.get(source.slide_id))
    exempt = exempt_remarks(slide.record.under_ink, slide.exempt, slide.grid)
    remarks = "; ".join(filter(None, (row.reason, *stain, describe_stride(context), warning, *exempt)))
    row = row.model_copy(update={"reason": remarks})
    origin = _origin(context, slide, source, file)
    save_areas(outputs.folder, slide, _holes_map(slide, receipts))
    save_finished(outputs.folder, FinishedSlide(outputs.key, row, origin, slide.grid, blank_areas(slide)))
    outputs.remove_intermediates()
    return row.without_pictures()


def _blocks_flow(
    context: RunContext, slide: TiledSlide, source: SlideSource, outputs: SlideOutputs, changes: str
) -> Flow[list[BlockReceipt]]:
    """Normalize a slide's blocks, but for those that an interrupted run finished.

    Args:
        context: What all slides of the run share.
        slide: Its tiles.
        source: The slide as it is listed.
        outputs: Its outputs.
        changes: Why blocks that are there may have to be made again.

    Returns:
        All blocks' receipts.
    """
    tasks = block_tasks(context, slide, outputs)
    receipts = [find_valid_block(task.argument) for task in tasks]
    missing = [index for index, receipt in enumerate(receipts) if receipt is None]
    if stale := sum(tasks[index].argument.receipt.exists() for index in missing):
        context.report(f"{source.relative}: {stale} blocks made again: {changes}")
    if kept := len(tasks) - len(missing):
        context.report(f"{source.relative}: {kept} of {len(tasks)} blocks kept")
    new_receipts = iter((yield from run_tasks([tasks[index] for index in missing])))
    return [receipt or next(new_receipts) for receipt in receipts]


def _pyramids_flow(
    context: RunContext, slide: TiledSlide, outputs: SlideOutputs, receipts: Sequence[BlockReceipt]
) -> Flow[None]:
    """Assemble a slide's missing pyramids from its blocks."""
    pyramids = yield from run_tasks(stitch_tasks(context, slide, outputs, receipts))
    if "dicom" in outputs.missing:
        yield [dicom_task(context, slide.slide_id, outputs, pyramids[0])]


def _count_holes(
    context: RunContext,
    slide: TiledSlide,
    source: SlideSource,
    outputs: SlideOutputs,
    receipts: Sequence[BlockReceipt],
) -> int:
    """Count the tiles that cannot be read from a slide's file, by its record and by the blocks' receipts.

    Raises:
        UnreadableError: There are too many; their blocks will be read anew.
    """
    holes = sum(len(receipt["holes"]) for receipt in receipts)
    try:
        check_holes(source.relative, holes, int(slide.kept.sum()), context.config.tiling.max_holes)
    except UnreadableError:
        for receipt in receipts:
            if receipt["holes"]:  # a fault of the network may be over when the command is run again
                block_receipt(outputs, BlockIndex(*receipt["block"])).unlink(missing_ok=True)
        raise
    return slide.record.holes + holes


def _holes_map(slide: TiledSlide, receipts: Sequence[BlockReceipt]) -> Mask:
    """Return (rows, cols): tiles that the slide's file could not give, when it was tiled or when its blocks were."""
    holes: Mask = np.zeros_like(slide.kept)
    if isinstance(slide, StoredSlide) and "holes" in slide.maps():
        holes |= slide.map("holes") > 0
    for receipt in receipts:
        for row, col in receipt["holes"]:
            holes[row, col] = True
    return holes


def _origin(context: RunContext, slide: TiledSlide, source: SlideSource, file: Path | None) -> Origin:
    """Return what a slide's outputs are made from; `file` is None where only its tiles are known."""
    profile = context.target.icc_profile
    return Origin(
        slide=file and absolute_path(file),
        tiles=str(slide.path) if isinstance(slide, StoredSlide) else None,
        reading=config_for_slide(source, context.config.tiling).slide,
        fingerprint=slide.record.fingerprint,
        icc_sha256=hashlib.sha256(profile).hexdigest() if profile else None,
        dicom_icc_sha256=hashlib.sha256(input_profile(profile or srgb_profile())).hexdigest(),
        mode=context.settings.name,
        tiles_key=slide.record.key,
        stain=slide.record.stain,
    )


def collect_rows(
    executor: Executor,
    flows: Mapping[str, Flow[SlideRow]],
    sources: Sequence[SlideSource],
    progress: Progress,
    space: DiskSpace,
) -> list[SlideRow]:
    """Run the slides' flows; returns a row for each slide, in the order of `sources`, failed ones included."""
    by_id, rows = {source.slide_id: source for source in sources}, {}
    progress.expect("slides", len(flows))
    guarded = {name: space.guard(name, flow) for name, flow in flows.items()}

    def on_done(slide_id: str, task: Task[Any], receipt: Receipt) -> None:
        progress.on_done(slide_id, task, receipt)
        space.on_done(slide_id, task, receipt)

    with space.reserve():
        for result in run_flows(executor, guarded, progress.on_tasks, on_done, progress.on_wait, space.may_start):
            row = result.value
            if isinstance(result.error, LeaseError):
                raise result.error
            if result.error is not None:
                row = failed_row(by_id[result.key], result.error, result.seconds)
                progress.report(f"{row.slide}: {row.status}: {row.reason}. {row.remedy}")
            rows[result.key] = row
            progress.advance("slides", note=row.slide)
    return [rows[source.slide_id] for source in sources]
