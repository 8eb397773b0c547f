"""The `tile` command: tissue tiles of slides into a store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines.shared.config import RunConfig
from pipelines.shared.inspection import SlideInspection, inspect_slides, overlay_path, print_plan
from pipelines.shared.messages import describe_error, describe_holes, print_line, print_warning
from pipelines.shared.preflight import open_all
from pipelines.shared.progress import Progress
from pipelines.shared.space import DiskSpace, describe_shortage, stored_tile_bytes
from wsi_stain.core.errors import NoTissueError
from wsi_stain.core.geometry import BlockIndex
from wsi_stain.core.lease import lease
from wsi_stain.executor import (
    SURVEYING,
    Executor,
    Flow,
    FlowResult,
    Receipt,
    Task,
    open_executor,
    run_flows,
    single_task,
)
from wsi_stain.slides.listing.find import SlideSource, find_slides
from wsi_stain.store import TileStore
from wsi_stain.tiling.block import BlockTask, tile_block
from wsi_stain.tiling.config import TilingConfig
from wsi_stain.tiling.tasks import (
    FinishReceipt,
    FinishTask,
    SurveyTask,
    finish_slide,
    survey_slide,
)


@dataclass(frozen=True)
class Request:
    """Arguments of `wsi-stain tile`."""

    slides: Sequence[Path]
    store: Path
    config: RunConfig
    masks: Path | None = None
    overlay: Path | None = None


def plan(request: Request, progress: Progress) -> list[SlideInspection]:
    """Inspect each slide; nothing is written."""
    sources = find_slides(request.slides, request.masks, progress.warn)
    return inspect_slides(sources, request.config.tiling, request.config.executor, progress)


def show_plan(request: Request, console: Console) -> int:
    """Print the plan; 3 when some slide cannot be used."""
    with Progress(console) as progress:
        inspections = plan(request, progress)
        tiles = sum(inspection.tiles for inspection in inspections)
        progress.warn(describe_shortage(request.store, tiles * stored_tile_bytes(request.config)))
    return print_plan(inspections, console)


def run(request: Request, console: Console) -> int:
    """Tile all slides.

    Returns:
        0, or 3 when some slides failed.
    """
    sources = find_slides(request.slides, request.masks, partial(print_warning, console))
    with (
        lease(request.store),
        Progress(console) as progress,
        open_executor(request.config.executor, request.store / ".logs") as executor,
    ):
        TileStore.create(request.store)
        config = request.config
        space = DiskSpace(request.store, stored_tile_bytes(config), config.space_wait_s, progress.report)
        errors = [
            result.error
            for result in tile_slides(executor, sources, request.store, config.tiling, progress, space, request.overlay)
            if result.error is not None
        ]
    empty = sum(isinstance(error, NoTissueError) for error in errors)
    counts = f"{len(sources) - len(errors)} of {len(sources)} slides tiled into {request.store}"
    print_line(console, f"{counts}, {empty} without tissue, {len(errors) - empty} failed")
    return 3 if len(errors) > empty else 0


def tile_slides(
    executor: Executor,
    sources: Sequence[SlideSource],
    store: Path,
    config: TilingConfig,
    progress: Progress,
    space: DiskSpace,
    overlay: Path | None = None,
) -> list[FlowResult]:
    """Tile slides side by side; each failure is reported and leaves the others alone."""
    refused = open_all(executor, sources, config, progress).unusable
    results = [FlowResult(slide_id, None, error, 0.0) for slide_id, error in refused.items()]
    flows = {
        source.slide_id: space.guard(source.slide_id, tile_flow(source, store, config, progress.report, overlay))
        for source in sources
        if source.slide_id not in refused
    }

    def on_done(slide_id: str, task: Task[Any], receipt: Receipt) -> None:
        progress.on_done(slide_id, task, receipt)
        space.on_done(slide_id, task, receipt)

    for result in run_flows(executor, flows, progress.on_tasks, on_done, progress.on_wait, space.may_start):
        results.append(result)
        if result.error is not None:
            progress.report(f"{result.key}: {describe_error(result.error)}")
        elif result.value["holes"]:
            progress.report(f"{result.key}: {describe_holes(result.value['holes'], result.value['tiles'])}")
    return results


def tile_flow(
    source: SlideSource, store: Path, config: TilingConfig, report: Callable[[str], None], overlay: Path | None = None
) -> Flow[FinishReceipt]:
    """Tile one slide; nothing to do where its tiles stand.

    Args:
        source: The slide.
        store: The tile store's directory.
        config: How it is tiled.
        report: Is given why a slide that was tiled before is tiled again.
        overlay: Directory for a picture of what was decided.

    Returns:
        The last receipt.
    """
    survey = yield from single_task(Task(survey_slide, SurveyTask(source, store, config), "survey", SURVEYING))
    key, blocks = survey["key"], [BlockIndex(*block) for block in survey["blocks"]]
    if survey["redone_because"] is not None:
        report(f"{source.relative}: tiled again, because {survey['redone_because']}")
    if not survey["complete"]:
        yield [Task(tile_block, BlockTask(source, store, config, block, key), "tile") for block in blocks]
    finish = FinishTask(source, store, config, key, overlay_path(overlay, source))
    return (yield from single_task(Task(finish_slide, finish, "measure")))
