"""From a slide to its tiles in the store: survey, one task a block, finish. Never imports torch.

    survey_slide   thumbnail, tissue, grid  ->  the slide's folder with everything but tiles
    tile_block     4096 px of the slide     ->  one shard and its receipt
    finish_slide   a sample of the tiles    ->  stain statistics, quality maps, completion mark

Each function takes one frozen record, returns a small receipt, and returns at once where its work already stands for
the same key: the fingerprint of the source, of these settings, and of the store's format.

Memory bound: a block task holds its kept tiles (at most 50 MB) and what reading one row of them takes.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from wsi_stain import journal
from wsi_stain.block_tiles import read_tiles
from wsi_stain.chunks import CODECS, TILE_BYTES, CodecName
from wsi_stain.errors import NoTissueError, SlideError, StoreError, UnreadableError
from wsi_stain.geometry import BlockIndex, TileIndex
from wsi_stain.overlay import draw_overlay
from wsi_stain.quality import block_quality, quality_maps
from wsi_stain.settings import Settings
from wsi_stain.slide import Slide, SlideConfig
from wsi_stain.slides import SlideSource
from wsi_stain.stain import StainConfig
from wsi_stain.stain_sample import measure_stain
from wsi_stain.store import SlideRecord, SlideWriter, StoredSlide, TileStore
from wsi_stain.survey import look_over, unreadable
from wsi_stain.tissue import TissueConfig, ink_mask

VERSION = 2
"""Raised with every change of the code that changes which tiles a slide has or what is in them."""


class TilingConfig(Settings):
    """How slides become tiles. Everything here affects pixels, but for `max_holes`.

    Attributes:
        slide: How slides are read.
        tissue: What counts as tissue.
        stain: How a slide's stain is measured.
        codec: How tiles are compressed: `lossless`, or `jpeg` (quality 95, about a seventh of the size).
        max_holes: Share of a slide's tiles that may be unreadable in the file: those are shown as its next coarser
            level has them, and listed. With more of them the slide fails.
    """

    slide: SlideConfig = Field(default_factory=SlideConfig)
    tissue: TissueConfig = Field(default_factory=TissueConfig)
    stain: StainConfig = Field(default_factory=StainConfig)
    codec: CodecName = "lossless"
    max_holes: float = Field(default=0.05, ge=0, le=1)


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
class LookTask:
    """Look at one slide; nothing is written.

    Attributes:
        source: The slide.
        config: How it would be tiled.
        overlay: Where the picture of what was decided goes; None draws none.
    """

    source: SlideSource
    config: TilingConfig
    overlay: Path | None = None


@dataclass(frozen=True)
class BlockTask:
    """Tile one block of a surveyed slide.

    Attributes:
        source: The slide.
        store: The tile store's directory.
        config: How it is tiled.
        block: Place in the block grid, one of the survey's `blocks`.
        key: The survey's `key`.
    """

    source: SlideSource
    store: Path
    config: TilingConfig
    block: BlockIndex
    key: str


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


def open_slide(task: LookTask) -> dict[str, Any]:
    """Open a slide and decide its resolution: what can be known of it without looking at its pixels.

    Returns:
        The receipt: remarks (doubts about its resolution, a sentence each).

    Raises:
        SlideError: The slide cannot be used.
    """
    with _opened(task.source, task.config) as slide:
        return {"remarks": list(slide.remarks)}


def identify_slide(task: LookTask) -> dict[str, Any]:
    """Tell which tiles a slide would have, without looking at its pixels.

    Returns:
        The receipt: key, as `survey_slide` would give it.

    Raises:
        SlideError: The slide cannot be used.
    """
    with _opened(task.source, task.config) as slide:
        return {"key": _record_of(slide, task.source, task.config).key}


def look_at_slide(task: LookTask) -> dict[str, Any]:
    """Find out what tiling a slide would give.

    Returns:
        The receipt: size_l0, size ([width, height], px), mpp_l0, mpp ([x, y], um per px), levels, mpp_origin,
        objective_power, vendor, tissue (share of the frame, 0 to 1), tiles, suspect (their number), bytes (about what
        the tiles will take), blocks (their number), remarks (doubts about its resolution or its pixels, a sentence
        each).

    Raises:
        SlideError: The slide cannot be used.
    """
    with _opened(task.source, task.config) as slide:
        found = look_over(slide, task.config.tissue, task.source.mask)
        grid, tiles = found.grid, int(found.grid.kept.sum())
        if task.overlay:
            draw_overlay(task.overlay, found.thumbnail, found.mask, found.ink, grid.kept, found.suspect, slide.size)
        return {
            "size_l0": list(slide.size_l0),
            "size": list(slide.size),
            "mpp_l0": list(slide.mpp_l0),
            "mpp": list(slide.mpp),
            "levels": slide.level_count,
            "mpp_origin": _mpp_origin(slide, task.source),
            "objective_power": slide.objective_power,
            "vendor": slide.vendor,
            "tissue": float(found.mask.mean()),
            "tiles": tiles,
            "suspect": int(found.suspect.sum()),
            "bytes": round(tiles * TILE_BYTES * CODECS[task.config.codec].share),
            "blocks": len(grid.blocks()),
            "remarks": [*slide.remarks, *unreadable(slide, grid)],
        }


def survey_slide(task: SurveyTask) -> dict[str, Any]:
    """Decide which tiles a slide has, and write everything but the tiles.

    Returns:
        The receipt: key, slide_id, blocks ([[row, col], ...] that have tiles), kept_tiles, size ([width, height] of
        the working frame), mpp ([x, y], um per px), mpp_origin, complete (nothing is left to do), redone_because (what
        changed since the slide was last tiled, or None).

    Raises:
        SlideError: The slide cannot be used; NoTissueError where it has no tissue, StainError where it is no
            bright-field slide.
        StoreError: `store` is something else.
    """
    writer = TileStore.create(task.store).writer(task.source.slide_id)
    with _opened(task.source, task.config) as slide:
        record = _record_of(slide, task.source, task.config)
        standing = _standing(writer, record)
        if standing is not None:
            return standing
        reason = _why_again(writer, record)
        writer.remove()
        _survey(writer, slide, task)
    receipt = _survey_receipt(writer.reading(record), complete=False, redone_because=reason)
    return journal.write_receipt(writer.receipt_path("survey"), record.key, None, **receipt)


def tile_block(task: BlockTask) -> dict[str, Any]:
    """Write the shard of one block.

    Returns:
        The shard's receipt: key, product (name, size, sha256), block, tiles, quality (of each tile, in their order),
        holes ([[row, col], ...] of the tiles that cannot be read and are shown as a coarser level has them).

    Raises:
        SlideError: The slide can no longer be read at all.
        OutputError: The shard cannot be written.
    """
    writer = TileStore(task.store).writer(task.source.slide_id)
    if _is_complete(writer, task.key):
        return {"key": task.key, "block": list(task.block), "complete": True}
    standing = writer.valid_shard(task.block, task.key)
    if standing is not None:
        return standing
    with _opened(task.source, task.config) as slide:
        tiles, holes = read_tiles(slide, writer.kept(), task.block)
        quality = block_quality(tiles, slide.size, slide.mpp)
    return writer.write_shard(task.block, tiles, task.key, quality=quality, holes=[list(hole) for hole in holes])


def finish_slide(task: FinishTask) -> dict[str, Any]:
    """Measure the slide's stain on a sample of its tiles, and mark the slide as complete.

    Returns:
        The receipt: key, slide_id, tiles, holes (number of tiles that cannot be read), stain (StainStatistics as JSON).

    Raises:
        UnreadableError: There are too many holes.
        StainError: The slide is not H&E.
        SlideError: The source changed while it was tiled.
        StoreError: A shard is missing.
    """
    writer = TileStore(task.store).writer(task.source.slide_id)
    if _is_complete(writer, task.key):
        record = _relabelled(writer, task.source)
        writer.tidy()
    else:
        record = _complete(writer, task)
    if task.overlay:
        stored = writer.reading(record)
        ink = ink_mask(stored.thumbnail, _thumbnail_mpp(stored), task.config.tissue)
        suspect = stored.map("suspect")
        draw_overlay(task.overlay, stored.thumbnail, stored.mask, ink, stored.kept, suspect, stored.size)
    stain = record.stain.model_dump(mode="json") if record.stain else None
    tiles = int(writer.kept().sum())
    return {"key": task.key, "slide_id": record.slide_id, "tiles": tiles, "holes": record.holes, "stain": stain}


def _opened(source: SlideSource, config: TilingConfig) -> Slide:
    return Slide(source.path, effective_config(source, config).slide)


def effective_config(source: SlideSource, config: TilingConfig) -> TilingConfig:
    """The settings with the slide list's resolution, which knows this slide best."""
    if source.mpp is None:
        return config
    return config.model_copy(update={"slide": config.slide.model_copy(update={"slide_mpp": source.mpp})})


def _record_of(slide: Slide, source: SlideSource, config: TilingConfig) -> SlideRecord:
    profile = slide.icc_profile
    return SlideRecord(
        slide_id=source.slide_id,
        fingerprint=slide.fingerprint(),
        settings_key=_settings_key(source, config),
        size=slide.size,
        mpp=slide.mpp,
        mpp_origin=_mpp_origin(slide, source),
        objective_power=_power_in_frame(slide),
        vendor=slide.vendor,
        background=slide.background,
        icc_policy=config.slide.icc,
        stain_config=config.stain,
        icc_profile=None if profile is None else base64.b64encode(profile).decode(),
        **_labels(source),
    )


def _power_in_frame(slide: Slide) -> float | None:
    """The magnification of the working frame: a 40x slide at half its resolution is worth 20x."""
    if slide.objective_power is None:
        return None
    return round(slide.objective_power * slide.mpp_l0.mean / slide.mpp.mean, 1)


def _settings_key(source: SlideSource, config: TilingConfig) -> str:
    """Fingerprint of what decides a slide's tiles beside its file: code, settings, the user's mask."""
    mask = journal.file_digest(source.mask) if source.mask and source.mask.is_file() else None
    settings = effective_config(source, config).model_dump(mode="json", exclude={"max_holes"})
    return journal.fingerprint([VERSION, settings, mask])


def _mpp_origin(slide: Slide, source: SlideSource) -> str:
    return slide.mpp_origin if source.mpp is None else "slide list"


def _labels(source: SlideSource) -> dict[str, Any]:
    """What is known of a slide that affects no pixel."""
    return source.model_dump(include={"relative", "group", "patient", "site", "split", "label"})


# The survey


def _survey(writer: SlideWriter, slide: Slide, task: SurveyTask) -> None:
    found = look_over(slide, task.config.tissue, task.source.mask)
    if not found.grid.kept.any():
        raise NoTissueError(
            f"No tissue was found on {task.source.relative}", "Leave the slide out, or loosen the tissue settings"
        )
    writer.begin(slide.size, found.thumbnail, found.mask, found.grid, task.config.codec)
    writer.write_map("suspect", found.suspect)


def _thumbnail_mpp(stored: StoredSlide) -> float:
    height, width, _ = stored.thumbnail.shape
    return float(stored.mpp.mean * (stored.size.width * stored.size.height / (height * width)) ** 0.5)


def _survey_receipt(slide: StoredSlide, complete: bool, redone_because: str | None) -> dict[str, Any]:
    record = slide.record
    return {
        "slide_id": record.slide_id,
        "blocks": [list(block) for block in slide.grid.blocks()],
        "kept_tiles": int(slide.kept.sum()),
        "size": list(record.size),
        "mpp": list(record.mpp),
        "mpp_origin": record.mpp_origin,
        "fingerprint": record.fingerprint,
        "settings_key": record.settings_key,
        "complete": complete,
        "redone_because": redone_because,
    }


def _standing(writer: SlideWriter, record: SlideRecord) -> dict[str, Any] | None:
    """The receipt of a survey that still holds: of a complete slide, or of one that is being made."""
    if _is_complete(writer, record.key):
        receipt = _survey_receipt(writer.reading(record), complete=True, redone_because=None)
        return {"key": record.key, "product": None, **receipt}
    return journal.valid_receipt(writer.receipt_path("survey"), record.key, None)


def _why_again(writer: SlideWriter, record: SlideRecord) -> str | None:
    """What changed since the slide was last surveyed; None where it never was."""
    try:
        last = writer.record()
    except StoreError:
        return "its record was damaged"
    before = last.model_dump(mode="json") if last else journal.read_json(writer.receipt_path("survey"))
    if not isinstance(before, dict):
        return None
    if before.get("fingerprint") != record.fingerprint:
        return "the source file changed"
    return "the settings changed" if before.get("settings_key") != record.settings_key else "the store's format changed"


# The end


def _is_complete(writer: SlideWriter, key: str) -> bool:
    try:
        record = writer.record()
    except StoreError:
        return False
    return record is not None and record.key == key


def _complete(writer: SlideWriter, task: FinishTask) -> SlideRecord:
    with _opened(task.source, task.config) as slide:
        record = _record_of(slide, task.source, task.config)
    if record.key != task.key:
        raise SlideError(
            f"{task.source.relative} is no longer what its survey saw", "Run again once nothing changes it"
        )
    stored = writer.reading(record)
    blocks = stored.grid.blocks()
    receipts = [receipt for block in blocks if (receipt := writer.valid_shard(block, task.key))]
    if len(receipts) < len(blocks):
        raise StoreError(
            f"{task.source.relative}: {len(blocks) - len(receipts)} of {len(blocks)} shards are missing",
            "Run the same command again",
        )
    for name, values in quality_maps(stored.kept, receipts).items():
        writer.write_map(name, values)
    measured = {
        "holes": _write_holes(writer, task, receipts),
        "suspect_tiles": int(stored.map("suspect").sum()),
        "stain": measure_stain(stored, task.config.stain),
    }
    record = record.model_copy(update=measured)
    writer.complete(record, receipts)
    return record


def _write_holes(writer: SlideWriter, task: FinishTask, receipts: Sequence[dict[str, Any]]) -> int:
    """Write the map of holes if there are any, and return their number; too many fail the slide."""
    kept = writer.kept()
    holes = np.zeros(kept.shape, bool)
    for receipt in receipts:
        for hole in receipt["holes"]:
            holes[TileIndex(*hole)] = True
    count, tiles = int(holes.sum()), int(kept.sum())
    if count > task.config.max_holes * tiles:
        for receipt in receipts:
            if receipt["holes"]:  # a fault of the network may be over when the command is run again
                writer.forget_shard(BlockIndex(*receipt["block"]))
        raise UnreadableError(
            f"{count} of {tiles} tiles of {task.source.relative} cannot be read,"
            f" expected at most {task.config.max_holes:.1%}",
            "Copy the slide again from its source, or raise tiling.max_holes",
        )
    if count:
        writer.write_map("holes", holes)
    return count


def _relabelled(writer: SlideWriter, source: SlideSource) -> SlideRecord:
    """The record of a complete slide, with what the slide list says today."""
    record = writer.record()
    assert record is not None
    today = record.model_copy(update=_labels(source))
    if today != record:
        writer.relabel(today)
    return today
