"""The row of a slide as its normalization ends: finished, with how good it is, or failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.run_directory.slide_outputs import SlideOutputs
from pipelines.shared.messages import describe_holes
from wsi_stain.core.errors import NoTissueError, WsiStainError
from wsi_stain.core.geometry import BlockIndex
from wsi_stain.metrics.hallucination import PER_UNIT, join_hallucination_maps, map_png
from wsi_stain.metrics.seams import seam_score
from wsi_stain.normalizers.config import Mode, NormalizeConfig
from wsi_stain.results import SlideRow
from wsi_stain.slides.listing.find import SlideSource
from wsi_stain.stain.pool import disagreement
from wsi_stain.stain.statistics import StainStatistics, stain_remarks
from wsi_stain.store import TiledSlide

if TYPE_CHECKING:
    from wsi_stain.normalize.preparation import PrepareReceipt  # which imports torch, as the next one does
    from wsi_stain.normalize.tasks import BlockReceipt


def failed_row(source: SlideSource, error: Exception, seconds: float) -> SlideRow:
    """Return the row of a slide without outputs."""
    if not isinstance(error, WsiStainError):
        error = WsiStainError(f"{type(error).__name__}: {error}", "This is a fault of wsi-stain: please report it")
    return SlideRow(
        slide=source.relative,
        slide_id=source.slide_id,
        status="empty" if isinstance(error, NoTissueError) else "failed",
        reason=error.problem,
        remedy=error.remedy,
        seconds=round(seconds, 1),
    )


def finished_row(slide: TiledSlide, source: SlideSource, outputs: SlideOutputs, holes: int, seconds: float) -> SlideRow:
    """Return the row of a slide whose outputs are valid, without quality and pictures."""
    tiles = int(slide.kept.sum())
    row = SlideRow(
        slide=source.relative,
        slide_id=source.slide_id,
        status="done-with-holes" if holes else "done",
        reason=describe_holes(holes, tiles) if holes else "",
        remedy="Copy the slide again from its source and run the same command" if holes else "",
        tiles=tiles,
        suspect=slide.record.suspect_tiles,
        seconds=round(seconds, 1),
        size=slide.size,
        mpp=slide.mpp,
        mpp_origin=slide.record.mpp_origin,
        stain=slide.record.stain,
    )
    return row.with_outputs(outputs.names)


def describe_stain(slide: TiledSlide, group: StainStatistics | None) -> list[str]:
    """Say how sure a slide's stain is, and how it differs from that of its group, a sentence each."""
    if slide.stain is None:
        return []
    return [*stain_remarks(slide.stain), *filter(None, [disagreement(slide.stain, group) if group else ""])]


def quality_fields(
    slide: TiledSlide, mode: Mode, prepared: PrepareReceipt, receipts: Sequence[BlockReceipt]
) -> dict[str, Any]:
    """Measure how good a slide's normalization is, as fields of its row.

    Args:
        slide: The slide.
        mode: What became of the generated pixels.
        prepared: The receipt of `prepare_slide`.
        receipts: Those of `normalize_block`.
    """
    blocks = {BlockIndex(*receipt["block"]): receipt for receipt in receipts}
    seams = {block: sums for block, receipt in blocks.items() if (sums := receipt["seams"])}
    fields: dict[str, Any] = {"seam": seam_score(seams)}
    if mode == "lut":
        fields["table_distance"] = prepared["residual"]
    maps = {block: packed for block, receipt in blocks.items() if (packed := receipt["hallucination"]) is not None}
    if maps:
        values = join_hallucination_maps(maps, slide.kept.shape)
        fields["hallucination"] = map_png(values)
        fields["hallucination_p95"] = float(np.percentile(values[slide.kept & (slide.tissue > 0)], 95)) / PER_UNIT
    return fields


def unfitted_colours_warning(prepared: PrepareReceipt, config: NormalizeConfig) -> str:
    """Warn where a slide's table was not fitted to the colours of more tissue than the settings allow.

    Args:
        prepared: The receipt of `prepare_slide`.
        config: The settings of the normalization.

    Returns:
        A sentence; empty where there is nothing to warn of.
    """
    share = prepared["outside"] or 0.0
    if config.mode != "lut" or share <= config.lut_outside:
        return ""
    problem = f"{share:.1%} of the tissue has colours that the colour table was not fitted to"
    return f"{problem}: look there, or use another --mode"
