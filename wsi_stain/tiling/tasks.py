"""From a slide to its tiles in the store: survey, one task a block, finish. Knows no torch.

    survey_slide        thumbnail, tissue, grid  ->  the slide's folder with everything but tiles
    block.tile_block    4096 px of the slide     ->  one shard and its receipt
    finish_slide        a sample of the tiles    ->  stain statistics, quality maps, completion mark

Each function takes one frozen record, returns a small receipt, and returns at once where its work already stands for
the same key: the fingerprint of the source, of these settings, and of the store's format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from wsi_stain.core import journal
from wsi_stain.core.errors import SlideError, StoreError, UnreadableError
from wsi_stain.core.geometry import BlockIndex, TileIndex
from wsi_stain.core.receipts import Product, Receipt, valid_receipt, write_receipt
from wsi_stain.slides.listing.find import SlideSource
from wsi_stain.slides.slide import Slide
from wsi_stain.store import ShardReceipt, SlideRecord, SlideWriter, StoredSlide, TileStore
from wsi_stain.store.stain_sample import measure_stain
from wsi_stain.tiling.config import TilingConfig
from wsi_stain.tiling.record import labels, make_record, open_slide
from wsi_stain.tiling.survey import require_tissue
from wsi_stain.tissue.exempt import share_under_ink
from wsi_stain.tissue.overlay import draw_overlay
from wsi_stain.tissue.tile_quality import quality_maps


class SurveyReceipt(Receipt):
    """Receipt of a survey.

    Attributes:
        slide_id: The slide's name in the store.
        blocks: [[row, col], ...] of the blocks that have tiles.
        kept_tiles: How many tiles it has.
        size: [width, height] of the working frame, px.
        mpp: [x, y] of it, um per px.
        mpp_origin: Who says so.
        fingerprint: Fingerprint of the source file.
        settings_key: Fingerprint of the settings that affect pixels.
        complete: Nothing is left to do.
        redone_because: What changed since the slide was last tiled, or None.
    """

    slide_id: str
    blocks: list[list[int]]
    kept_tiles: int
    size: list[int]
    mpp: list[float]
    mpp_origin: str
    fingerprint: dict[str, str | int]
    settings_key: str
    complete: bool
    redone_because: str | None


class FinishReceipt(TypedDict):
    """Receipt of a finished slide.

    Attributes:
        key: The survey's `key`.
        slide_id: The slide's name in the store.
        tiles: How many it has.
        holes: How many of them cannot be read.
    """

    key: str
    slide_id: str
    tiles: int
    holes: int


@dataclass(frozen=True)
class SurveyTask:
    """Survey one slide.

    Attributes:
        source: The slide.
        store: The tile store's directory; made where there is none.
        config: How it is tiled.
    """

    source: SlideSource
    store: Path
    config: TilingConfig


@dataclass(frozen=True)
class FinishTask:
    """Finish a slide all of whose blocks are tiled.

    Attributes:
        source: The slide.
        store: The tile store's directory.
        config: How it is tiled.
        key: The survey's `key`.
        overlay: Where the picture of what was decided goes; None draws none.
    """

    source: SlideSource
    store: Path
    config: TilingConfig
    key: str
    overlay: Path | None = None


def survey_slide(task: SurveyTask) -> SurveyReceipt:
    """Decide which tiles a slide has, and write everything but the tiles.

    Raises:
        SlideError: The slide cannot be used; NoTissueError where it has no tissue, StainError where it is no
            bright-field slide.
        StoreError: `store` is something else.
    """
    writer = TileStore.create(task.store).writer(task.source.slide_id)
    with open_slide(task.source, task.config) as slide:
        record = make_record(slide, task.source, task.config)
        try:
            if (valid := _valid_receipt(writer, record)) is not None:
                return valid
            reason = _redo_reason(writer, record)
        except StoreError as error:
            reason = f"a file of it was damaged: {error.problem}"
        writer.remove()
        _survey(writer, slide, task)
    receipt = _survey_receipt(writer.open_slide(record), writer.describe_begun(), redone_because=reason)
    return write_receipt(writer.receipt_path("survey"), receipt)


def finish_slide(task: FinishTask) -> FinishReceipt:
    """Measure the slide's stain on a sample of its tiles, and mark the slide as complete.

    Raises:
        UnreadableError: There are too many holes.
        StainError: The slide is not H&E.
        SlideError: The source changed while it was tiled.
        StoreError: A shard is missing.
    """
    writer = TileStore(task.store).writer(task.source.slide_id)
    if writer.is_complete(task.key):
        record = _update_labels(writer, task.source)
        writer.clean_up()
    else:
        record = _complete(writer, task)
    if task.overlay:
        stored = writer.open_slide(record)
        suspect = stored.map("suspect")
        draw_overlay(task.overlay, stored.thumbnail, stored.mask, stored.exempt, stored.kept, suspect, stored.size)
    tiles = int(writer.kept().sum())
    return {"key": task.key, "slide_id": record.slide_id, "tiles": tiles, "holes": record.holes}


# The survey


def _survey(writer: SlideWriter, slide: Slide, task: SurveyTask) -> None:
    survey = require_tissue(slide, task.config, task.source)
    codec = task.config.codec_for(slide)
    writer.begin(slide.size, survey.thumbnail, survey.mask, survey.grid, codec, survey.exempt)
    writer.write_map("suspect", survey.suspect)


def _survey_receipt(slide: StoredSlide, product: Product | None, redone_because: str | None) -> SurveyReceipt:
    """Return the receipt of a survey with its product; without one, of a slide that is complete."""
    record = slide.record
    return {
        "key": record.key,
        "product": product,
        "slide_id": record.slide_id,
        "blocks": [list(block) for block in slide.grid.blocks()],
        "kept_tiles": int(slide.kept.sum()),
        "size": list(record.size),
        "mpp": list(record.mpp),
        "mpp_origin": record.mpp_origin,
        "fingerprint": record.fingerprint,
        "settings_key": record.settings_key,
        "complete": product is None,
        "redone_because": redone_because,
    }


def _valid_receipt(writer: SlideWriter, record: SlideRecord) -> SurveyReceipt | None:
    """Return the receipt of a survey that still holds: of a complete slide, or of one that is being made.

    Raises:
        StoreError: The slide is complete, but a file of it is damaged.
    """
    if writer.is_complete(record.key):
        stored = writer.open_slide(record)
        stored.check_whole()
        return _survey_receipt(stored, None, redone_because=None)
    return valid_receipt(writer.receipt_path("survey"), record.key, writer.path, SurveyReceipt)


def _redo_reason(writer: SlideWriter, record: SlideRecord) -> str | None:
    """Return what changed since the slide was last surveyed; None where it never was."""
    try:
        last = writer.record()
    except StoreError:
        return "its record was damaged"
    before = last.model_dump(mode="json") if last else journal.read_json(writer.receipt_path("survey"))
    if not isinstance(before, dict):
        return None
    if before.get("key") == record.key:
        return "a file of it was damaged"
    if before.get("fingerprint") != record.fingerprint:
        return "the source file changed"
    return "the settings changed" if before.get("settings_key") != record.settings_key else "the store's format changed"


# The end


def _complete(writer: SlideWriter, task: FinishTask) -> SlideRecord:
    with open_slide(task.source, task.config) as slide:
        record = make_record(slide, task.source, task.config)
    if record.key != task.key:
        raise SlideError(
            f"{task.source.relative} is no longer what its survey saw", "Run again once nothing changes it"
        )
    stored = writer.open_slide(record)
    blocks = stored.grid.blocks()
    receipts = [receipt for block in blocks if (receipt := writer.valid_shard(block, task.key))]
    if len(receipts) < len(blocks):
        raise StoreError(
            f"{task.source.relative}: {len(blocks) - len(receipts)} of {len(blocks)} shards are missing",
            "Run the same command again",
        )
    quality = {BlockIndex(*receipt["block"]): receipt["quality"] for receipt in receipts}
    for name, values in quality_maps(stored.kept, quality).items():
        writer.write_map(name, values)
    measured = {
        "holes": _write_holes(writer, task, receipts),
        "suspect_tiles": int(stored.map("suspect").sum()),
        "under_ink": share_under_ink(stored.thumbnail, stored.mask, stored.exempt, stored.thumbnail_mpp),
        "stain": measure_stain(stored, task.config.stain, has_user_mask=task.source.mask is not None),
    }
    record = record.model_copy(update=measured)
    writer.complete(record, receipts)
    return record


def _write_holes(writer: SlideWriter, task: FinishTask, receipts: Sequence[ShardReceipt]) -> int:
    """Write the map of holes if there are any, and return their number; too many fail the slide."""
    kept = writer.kept()
    holes = np.zeros(kept.shape, bool)
    for receipt in receipts:
        for hole in receipt["holes"]:
            holes[TileIndex(*hole)] = True
    count, tiles = int(holes.sum()), int(kept.sum())
    try:
        check_holes(task.source.relative, count, tiles, task.config.max_holes)
    except UnreadableError:
        for receipt in receipts:
            if receipt["holes"]:  # a fault of the network may be over when the command is run again
                writer.forget_shard(BlockIndex(*receipt["block"]))
        raise
    if count:
        writer.write_map("holes", holes)
    return count


def check_holes(relative: str, holes: int, tiles: int, most: float) -> None:
    """Refuse a slide with too many holes.

    Args:
        relative: The slide's name.
        holes: How many of its tiles cannot be read.
        tiles: How many it has.
        most: Largest share that may be unreadable.

    Raises:
        UnreadableError: There are more.
    """
    if holes > most * tiles:
        raise UnreadableError(
            f"{holes} of {tiles} tiles of {relative} cannot be read, expected at most {most:.1%}",
            "Copy the slide again from its source, or raise tiling.max_holes",
        )


def _update_labels(writer: SlideWriter, source: SlideSource) -> SlideRecord:
    """Return the record of a complete slide with what the slide list says today; it is written if that changed."""
    record = writer.record()
    assert record is not None
    today = record.model_copy(update=labels(source))
    if today != record:
        writer.replace_record(today)
    return today
