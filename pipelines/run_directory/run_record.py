"""What a run leaves to read: a row a slide, summary.csv and run.json; the report is `report`'s."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from pipelines.run_directory.page import write_page
from pipelines.run_directory.workspace import Workspace
from pipelines.shared.config import RunConfig
from pipelines.shared.device import tasks_device
from pipelines.shared.progress import describe_holes, print_line
from pipelines.shared.slide_outputs import SlideOutputs
from pipelines.shared.target import NormalizationTarget
from wsi_stain import __version__
from wsi_stain.core.errors import NoTissueError, WsiStainError
from wsi_stain.core.geometry import BlockIndex
from wsi_stain.core.journal import write_json
from wsi_stain.core.text import escape_undecodable
from wsi_stain.metrics.hallucination import PER_UNIT, join_hallucination_maps, map_png
from wsi_stain.metrics.seams import seam_score
from wsi_stain.normalizers.config import Mode, NormalizeConfig
from wsi_stain.results import SlideRow, write_summary
from wsi_stain.slides.find import SlideSource
from wsi_stain.store import TiledSlide

if TYPE_CHECKING:
    from wsi_stain.normalize.tasks import BlockReceipt, PrepareReceipt  # which imports torch

_VERSIONS = ("torch", "numpy", "openslide-python", "zarr", "distributed", "imagecodecs", "scikit-image")
_OK = ("done", "done-with-holes", "empty", "skipped")


def failed_row(source: SlideSource, error: Exception, seconds: float) -> SlideRow:
    """The row of a slide that gave no pyramid."""
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


def finished_row(
    slide: TiledSlide, source: SlideSource, products: SlideOutputs, holes: int, seconds: float
) -> SlideRow:
    """The row of a slide whose products stand, as far as numbers go."""
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
    return row.with_outputs(products.names)


def quality_fields(
    slide: TiledSlide, mode: Mode, prepared: PrepareReceipt, receipts: Sequence[BlockReceipt]
) -> dict[str, Any]:
    """The fields of a slide's row that say how good its normalization is.

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
    """What to say where a slide's table was not fitted to the colours of more tissue than the settings allow.

    Args:
        prepared: The receipt of `prepare_slide`.
        config: The settings of the normalization.

    Returns:
        A sentence; empty where there is nothing to say.
    """
    share = prepared["outside"] or 0.0
    if config.mode != "lut" or share <= config.lut_outside:
        return ""
    told = f"{share:.1%} of the tissue has colours that the colour table was not fitted to"
    return f"{told}: look there, or use another output"


def write_run_record(
    workspace: Workspace, sources: Sequence[SlideSource], config: RunConfig, target: NormalizationTarget
) -> None:
    """Write run.json, before any slide is done, so that a report can be made even if the run is killed.

    `config` is the one that is settled. The summary of an earlier run goes: from now on it would not be true.
    """
    slides = [[escape_undecodable(source.slide_id), escape_undecodable(source.relative)] for source in sources]
    write_json(workspace.record, run_facts(config, target) | {"slides": slides})
    workspace.summary.unlink(missing_ok=True)


def write_results(workspace: Workspace, rows: Sequence[SlideRow], console: Console) -> int:
    """Write summary.csv and the report, and tell how it went.

    Returns:
        The exit code: 0, or 3 when some slides failed.
    """
    code = summarize(workspace, rows, console)
    print_line(console, f"pyramids: {workspace.out / 'slides'}   report: {write_page(workspace)}")
    return code


def summarize(workspace: Workspace, rows: Sequence[SlideRow], console: Console) -> int:
    """Write summary.csv, and tell how many slides ended how; the exit code, as of `finish`."""
    write_summary(workspace.summary, rows)
    for status, count in Counter(row.status for row in rows).items():
        print_line(console, f"{count} {status}")
    return 0 if all(row.status in _OK for row in rows) else 3


def run_facts(config: RunConfig, target: NormalizationTarget) -> dict[str, Any]:
    """The resolved configuration, versions and hashes of a run."""
    return {
        "version": __version__,
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in _VERSIONS},
        "config": config.model_dump(mode="json"),
        "device": tasks_device(config.executor),
        "reference": target.reference.model_dump(mode="json"),
        "checkpoint": {"file": target.path.name, "sha256": target.digest},
    }
