"""One slide from its tiles to a tile store in the reference's stain, on request with its patches as pictures.

OUT/tiles.zarr                            the slides under their names, with labels, splits, maps and tables
OUT/patches/<slide>/<label>/<patch>.png   by --to images, of slides that were made of patches
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

from pipelines.normalization.context import RunContext
from pipelines.normalization.out_of_memory import describe_stride, run_within_memory
from pipelines.normalization.rows import describe_stain
from pipelines.normalization.tasks import block_pool, prepare_flow
from wsi_stain.core.icc import encode_profile
from wsi_stain.core.journal import fingerprint
from wsi_stain.executor import Flow, Task
from wsi_stain.normalize.patch_files import PART, PatchFilesTask, commit_patches, placed_patches, write_patches
from wsi_stain.normalize.store_writer import (
    VERSION,
    NormalizeStoreTask,
    begin_normalized_slide,
    complete_normalized_slide,
    normalize_store_block,
)
from wsi_stain.results import SlideRow
from wsi_stain.results.advice import another_way
from wsi_stain.slides.listing.find import SlideSource
from wsi_stain.slides.listing.names import safe_path
from wsi_stain.store import SlideRecord, StoredSlide, TileStore

To = Literal["pyramids", "store", "images"]


def store_flow(
    context: RunContext, slide: StoredSlide, source: SlideSource, started: float, images: bool
) -> Flow[SlideRow]:
    """Normalize one stored slide into the tile store of OUT.

    Args:
        context: What all slides of the run share.
        slide: Its tiles.
        source: The slide as it is listed: the name of its row.
        started: When work on the slide began, by time.monotonic().
        images: Whether its patches are wanted as pictures too.

    Returns:
        The slide's row.
    """
    flow = partial(_store_flow, slide=slide, source=source, started=started, images=images)
    return (yield from run_within_memory(context, source.slide_id, flow))


def _store_flow(
    context: RunContext, slide: StoredSlide, source: SlideSource, started: float, images: bool
) -> Flow[SlideRow]:
    """Do `store_flow` with one stride."""
    context.target.check_colours(slide.record)
    if images:
        placed_patches(slide)  # refused before any work where there are none
    workspace, store = context.workspace, TileStore.create(context.workspace.normalized_tiles)
    outputs = context.outputs(source.slide_id, slide.record.key)
    task = NormalizeStoreTask(
        slide=slide.opener,
        store=workspace.normalized_tiles,
        record=_record(context, slide, outputs.key),
        checkpoint=context.target.path,
        digest=context.target.digest,
        normalize=context.settings,
        device=context.device,
        artifact=outputs.artifact,
    )
    if not store.writer(source.slide_id).is_whole(task.record.key):
        yield from prepare_flow(context, slide, source.slide_id, outputs)
        yield [Task(begin_normalized_slide, task, "prepare")]
        blocks = [replace(task, block=block) for block in slide.grid.blocks()]
        yield [Task(normalize_store_block, block, "normalize", pool=block_pool(context.settings)) for block in blocks]
        context.check_lease()
        yield [Task(complete_normalized_slide, task, "measure")]
    normalized = store[source.slide_id]
    paths = [workspace.normalized_tiles / source.slide_id]
    if images:
        paths.insert(0, workspace.patches / safe_path(PurePosixPath(source.relative), context.config.portable_names))
        yield from _images_flow(normalized, paths[0], outputs.folder)
    outputs.remove_intermediates()
    names = [path.relative_to(workspace.out).as_posix() for path in paths]
    row = _row(normalized, source, names, started, context.settings.name)
    stain = describe_stain(slide, context.group_stains.get(source.slide_id))
    remarks = "; ".join(filter(None, (row.reason, *stain, describe_stride(context))))
    return row.model_copy(update={"reason": remarks})


def _images_flow(slide: StoredSlide, folder: Path, work: Path) -> Flow[None]:
    """Write a normalized slide's patches as pictures; their receipts go below `work`."""
    task = PatchFilesTask(slide=slide.opener, folder=folder, receipt=work / "patches.json", key=slide.record.key)
    parts = [
        replace(task, first=first, receipt=work / "blocks" / f"patches-{first}.json")
        for first in range(0, len(placed_patches(slide)), PART)
    ]
    yield [Task(write_patches, part, "write") for part in parts]
    yield [Task(commit_patches, task, "finish")]


def _record(context: RunContext, slide: StoredSlide, key: str) -> SlideRecord:
    """Return the slide's record in the reference's stain: as it was, but for its colours."""
    update = {
        "settings_key": fingerprint([VERSION, key]),
        "background": context.target.white,
        "icc_profile": encode_profile(context.target.icc_profile),
        "stain": None,
    }
    return slide.record.model_copy(update=update)


def _row(slide: StoredSlide, source: SlideSource, outputs: Sequence[str], started: float, mode: str) -> SlideRow:
    """Return the row of a normalized slide."""
    row = SlideRow(
        slide=source.relative,
        slide_id=source.slide_id,
        status="done",
        reason="" if slide.stain else "its new stain could not be measured: it does not pass for H&E",
        remedy="" if slide.stain else another_way(mode),
        tiles=int(slide.kept.sum()),
        seconds=round(time.monotonic() - started, 1),
        size=slide.size,
        mpp=slide.mpp,
        mpp_origin=slide.record.mpp_origin,
    )
    return row.with_outputs(outputs)
