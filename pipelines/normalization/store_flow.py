"""What `normalize` makes for those who feed models: a tile store in the reference's stain, its patches as pictures.

OUT/tiles.zarr                            the slides under their names, with labels, splits, maps and tables
OUT/patches/<slide>/<label>/<patch>.png   by --to images, of slides that were made of patches
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from pipelines.normalization.tasks import Normalization
from wsi_stain.core.icc import encode_profile
from wsi_stain.core.journal import fingerprint
from wsi_stain.executor import Flow, Task
from wsi_stain.normalize.patch_files import PART, PatchFilesTask, commit_patches, placed_patches, write_patches
from wsi_stain.normalize.store_writer import (
    VERSION,
    NormalizeStoreTask,
    begin_normalized_slide,
    complete_normalized_slide,
    is_complete,
    normalize_store_block,
)
from wsi_stain.results import SlideRow
from wsi_stain.results.advice import another_way
from wsi_stain.slides.find import SlideSource
from wsi_stain.store import SlideRecord, StoredSlide, TileStore

To = Literal["pyramids", "store", "images"]


def store_flow(
    slide: StoredSlide, source: SlideSource, shared: Normalization, started: float, images: bool
) -> Flow[SlideRow]:
    """Put one stored slide into the store of OUT in the reference's stain.

    Args:
        slide: Its tiles.
        source: Its place in the list: the name of its row.
        shared: What all slides of the run share.
        started: When work on the slide began, by time.monotonic().
        images: Whether its patches are wanted as pictures too.

    Returns:
        The slide's row.
    """
    flow = partial(_store_flow, slide=slide, source=source, started=started, images=images)
    return (yield from shared.in_memory(source.slide_id, flow))


def _store_flow(
    shared: Normalization, slide: StoredSlide, source: SlideSource, started: float, images: bool
) -> Flow[SlideRow]:
    """`restain_flow` in one shape."""
    shared.target.check_colours(slide.record)
    if images:
        placed_patches(slide)  # refused before any work where there are none
    store = TileStore.create(shared.workspace.normalized_tiles)
    products = shared.products(source.slide_id, shared.key(source.slide_id, slide.record.key))
    task = NormalizeStoreTask(
        slide=slide.opener,
        store=shared.workspace.normalized_tiles,
        record=_record(slide, shared, products.key),
        checkpoint=shared.target.path,
        digest=shared.target.digest,
        normalize=shared.normalize,
        device=shared.device,
        artifact=products.place / "artifact.npz",
    )
    if not is_complete(store.writer(source.slide_id), task.record.key):
        yield from shared.prepare(slide, source.slide_id, products)
        yield [Task(begin_normalized_slide, task, "prepare")]  # where the generator may be
        yield [Task(normalize_store_block, replace(task, block=block), "normalize") for block in slide.grid.blocks()]
        shared.check_lease()
        yield [Task(complete_normalized_slide, task, "measure")]
    made = store[source.slide_id]
    outputs = [shared.workspace.normalized_tiles / source.slide_id]
    if images:
        outputs.insert(0, shared.workspace.patches / source.relative)
        yield from _images_flow(made, outputs[0], products.place)
    products.tidy()
    names = [path.relative_to(shared.workspace.out).as_posix() for path in outputs]
    row = _row(made, source, names, started, shared.normalize.name)
    return row.model_copy(update={"reason": "; ".join(filter(None, (row.reason, shared.remark)))})


def _images_flow(slide: StoredSlide, folder: Path, place: Path) -> Flow[None]:
    """Write a restained slide's patches as pictures."""
    task = PatchFilesTask(slide=slide.opener, folder=folder, receipt=place / "patches.json", key=slide.record.key)
    parts = [
        replace(task, first=first, receipt=place / "blocks" / f"patches-{first}.json")
        for first in range(0, len(placed_patches(slide)), PART)
    ]
    yield [Task(write_patches, part, "write") for part in parts]
    yield [Task(commit_patches, task, "finish")]


def _record(slide: StoredSlide, shared: Normalization, key: str) -> SlideRecord:
    """What is known of the slide in the reference's stain: what it was, but for its colours."""
    update = {
        "settings_key": fingerprint([VERSION, key]),
        "background": shared.target.white,
        "icc_profile": encode_profile(shared.target.icc_profile),
        "stain": None,
    }
    return slide.record.model_copy(update=update)


def _row(made: StoredSlide, source: SlideSource, outputs: Sequence[str], started: float, mode: str) -> SlideRow:
    """The row of a slide whose outputs stand."""
    row = SlideRow(
        slide=source.relative,
        slide_id=source.slide_id,
        status="done",
        reason="" if made.stain else "its new stain could not be measured: it does not pass for H&E",
        remedy="" if made.stain else another_way(mode),
        tiles=int(made.kept.sum()),
        seconds=round(time.monotonic() - started, 1),
        size=made.size,
        mpp=made.mpp,
        mpp_origin=made.record.mpp_origin,
    )
    return row.with_outputs(outputs)
