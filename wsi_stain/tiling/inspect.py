"""Inspection of slides before anything is done to them; nothing is written but overlays. Knows no torch.

probe_slide     can it be opened, and what is its resolution
identify_slide  which tiles would it have, without reading its pixels
inspect_slide   everything that tiling it would give
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from wsi_stain.formats.zarr_shard import CODECS, TILE_BYTES
from wsi_stain.slides.listing.find import SlideSource
from wsi_stain.slides.listing.user_masks import mask_digest
from wsi_stain.store.record import TilesIdentity
from wsi_stain.tiling.config import TilingConfig
from wsi_stain.tiling.record import make_record, mpp_origin, open_slide
from wsi_stain.tiling.streamed_slide import measure_surveyed
from wsi_stain.tiling.survey import check_readable, find_tissue, unwritten
from wsi_stain.tissue.exempt import AS_SCANNED, exempt_remarks
from wsi_stain.tissue.overlay import draw_overlay


@dataclass(frozen=True)
class InspectTask:
    """Inspect one slide; nothing is written.

    Attributes:
        source: The slide.
        config: How it would be tiled.
        overlay: Where the picture of what was decided goes; None draws none.
        stain: Whether its stain is measured too, which reads up to 256 of its tiles.
    """

    source: SlideSource
    config: TilingConfig
    overlay: Path | None = None
    stain: bool = False


class ProbeReceipt(TypedDict):
    """Receipt of a probed slide.

    Attributes:
        remarks: Doubts about its resolution, a sentence each.
        scanner: As `Slide.scanner`.
        mpp: [x, y] of the working frame, um per px.
    """

    remarks: list[str]
    scanner: str
    mpp: list[float]


class SlideFacts(TypedDict):
    """Receipt of an inspected slide.

    Attributes:
        size_l0: [width, height] of level 0, px.
        size: [width, height] of the working frame, px.
        mpp_l0: [x, y] of level 0, um per px.
        mpp: [x, y] of the working frame, um per px.
        levels: How many the file has.
        mpp_origin: Who says what the resolution is.
        objective_power: As the file states it, or None.
        vendor: The name of its format.
        reader: The library that reads it.
        scanner: As `Slide.scanner`.
        key: As `survey_slide` would give it.
        tissue: Share of the frame, 0 to 1.
        tiles: How many it would have.
        suspect: Tiles without tissue that look as if they had some.
        bytes: About what the tiles will take.
        blocks: How many hold a tile.
        ink: Area of ink, and of dark over tissue, over that of the tissue; 0 without tissue.
        damage: What could not be read of some tiles, a sentence; "" where all was.
        remarks: Doubts about its resolution or its pixels, a sentence each.
        stain: Its `StainStatistics`, where they were asked for and it has tissue.
    """

    size_l0: list[int]
    size: list[int]
    mpp_l0: list[float]
    mpp: list[float]
    levels: int
    mpp_origin: str
    objective_power: float | None
    vendor: str
    reader: str
    scanner: str
    key: str
    tissue: float
    tiles: int
    suspect: int
    bytes: int
    blocks: int
    ink: float
    damage: str
    remarks: list[str]
    stain: dict[str, Any] | None


def probe_slide(task: InspectTask) -> ProbeReceipt:
    """Open a slide and decide its resolution: what can be known of it without reading its pixels.

    Raises:
        SlideError: The slide cannot be used, or its mask is missing.
    """
    with open_slide(task.source, task.config) as slide:
        if task.source.mask:
            mask_digest(task.source.mask)
        remarks = [*slide.remarks, *unwritten(slide, task.config.max_holes)]
        return {"remarks": remarks, "scanner": slide.scanner, "mpp": list(slide.mpp)}


def identify_slide(task: InspectTask) -> TilesIdentity:
    """Decide which tiles a slide would have, without reading its pixels.

    Raises:
        SlideError: The slide cannot be used.
    """
    with open_slide(task.source, task.config) as slide:
        return make_record(slide, task.source, task.config).identity


def inspect_slide(task: InspectTask) -> SlideFacts:
    """Find out what tiling a slide would give.

    Raises:
        SlideError: The slide cannot be used.
        StainError: Its stain was asked for, and is not that of H&E.
    """
    with open_slide(task.source, task.config) as slide:
        record = make_record(slide, task.source, task.config)
        doubts = [*slide.remarks, *unwritten(slide, task.config.max_holes)]
        survey = find_tissue(slide, task.config.tissue, task.source.mask)
        grid, tiles = survey.grid, int(survey.grid.kept.sum())
        if task.overlay:
            draw_overlay(
                task.overlay, survey.thumbnail, survey.mask, survey.exempt, grid.kept, survey.suspect, slide.size
            )
        damage = check_readable(slide, grid, task.config.max_holes)
        stain = measure_surveyed(task.source, task.config, record, survey) if task.stain and tiles else None
        return {
            "size_l0": list(slide.size_l0),
            "size": list(slide.size),
            "mpp_l0": list(slide.mpp_l0),
            "mpp": list(slide.mpp),
            "levels": slide.level_count,
            "mpp_origin": mpp_origin(slide, task.source),
            "objective_power": slide.objective_power,
            "vendor": slide.vendor,
            "reader": slide.reader,
            "scanner": slide.scanner,
            "key": record.key,
            "tissue": float(survey.mask.mean()),
            "tiles": tiles,
            "suspect": int(survey.suspect.sum()),
            "bytes": round(tiles * TILE_BYTES * CODECS[task.config.codec_for(slide)].share),
            "blocks": len(grid.blocks()),
            "ink": round(float((survey.exempt == AS_SCANNED).sum() / max(survey.mask.sum(), 1)), 4),
            "damage": "".join(damage),
            "remarks": [*doubts, *exempt_remarks(survey.under_ink, survey.exempt, grid), *damage],
            "stain": stain.model_dump(mode="json") if stain else None,
        }
