"""The `tile` command: tissue tiles of slides into a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pipelines.config import RunConfig
from pipelines.plans import Look, look_at, print_plan
from pipelines.progress import Progress
from wsi_stain.errors import WsiStainError
from wsi_stain.executor import Executor, Flow, FlowResult, Task, drive, open_executor
from wsi_stain.geometry import BlockIndex
from wsi_stain.lease import lease
from wsi_stain.slides import SlideSource, find_slides
from wsi_stain.store import TileStore
from wsi_stain.tiling import BlockTask, FinishTask, SurveyTask, TilingConfig, finish_slide, survey_slide, tile_block


@dataclass(frozen=True)
class Request:
    """What `wsi-stain tile` was asked for."""

    slides: Sequence[Path]
    store: Path
    config: RunConfig


def plan(request: Request) -> list[Look]:
    """Look at each slide; nothing is written."""
    return look_at(find_slides(request.slides), request.config.tiling, request.config.executor)


def show_plan(request: Request, console: Console) -> int:
    """Print the plan; 3 when some slide cannot be used."""
    return print_plan(plan(request), console)


def run(request: Request, console: Console) -> int:
    """Tile all slides.

    Returns:
        0, or 3 when some slides failed.
    """
    sources = find_slides(request.slides)
    with lease(request.store), Progress(console) as progress, open_executor(request.config.executor) as executor:
        TileStore.create(request.store)
        failed = [
            result
            for result in tile_all(executor, sources, request.store, request.config.tiling, progress)
            if result.error is not None
        ]
    console.print(
        f"{len(sources) - len(failed)} of {len(sources)} slides tiled into {request.store}",
        highlight=False,
        markup=False,
    )
    return 3 if failed else 0


def tile_all(
    executor: Executor, sources: Sequence[SlideSource], store: Path, config: TilingConfig, progress: Progress
) -> list[FlowResult]:
    """Tile slides side by side; each failure is told and leaves the others alone."""
    flows = {source.slide_id: tile_flow(source, store, config) for source in sources}
    results = []
    for result in drive(executor, flows, progress.on_tasks, progress.on_done):
        results.append(result)
        if result.error is not None:
            progress.say(f"{result.key}: {told(result.error)}")
    return results


def tile_flow(source: SlideSource, store: Path, config: TilingConfig) -> Flow:
    """Tile one slide; nothing to do where its tiles stand.

    Returns:
        The survey's receipt.
    """
    (survey,) = yield [Task(survey_slide, SurveyTask(source, store, config), "survey")]
    key, blocks = survey["key"], [BlockIndex(*block) for block in survey["blocks"]]
    if not survey["complete"]:
        yield [Task(tile_block, BlockTask(source, store, config, block, key), "tile") for block in blocks]
    yield [Task(finish_slide, FinishTask(source, store, config, key), "measure")]
    return survey


def told(error: Exception) -> str:
    """An error in one line: ours speak for themselves, others carry their type."""
    return str(error) if isinstance(error, WsiStainError) else f"{type(error).__name__}: {error}"
