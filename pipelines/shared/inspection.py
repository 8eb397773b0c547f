"""Inspection of slides before anything is done to them: the tables of `inspect` and of every dry run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from rich.console import Console

from pipelines.shared.formats import Format, estimate_bytes
from pipelines.shared.messages import describe_duration, describe_size, print_line
from pipelines.shared.progress import Progress
from pipelines.shared.tables import Column, print_table
from wsi_stain.core.errors import CheckpointError, MppError, NoTissueError, SlideError, StainError, WsiStainError
from wsi_stain.core.text import escape_unprintable
from wsi_stain.executor import SURVEYING, Executor, ExecutorConfig, Task, open_executor, run_flows, single_task
from wsi_stain.slides.listing.find import SlideSource
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.tiling.config import TilingConfig
from wsi_stain.tiling.inspect import InspectTask, SlideFacts, inspect_slide

_SECONDS_PER_TILE = 0.005
"""About what a tile takes from slide to pyramid with the colour table, on one core of a server with AVX-512."""


_COLUMNS = (
    Column("slide"),
    Column("size, px", number=True),
    Column("levels", number=True, rank=7),
    Column("um/px", number=True),
    Column("from", rank=4),
    Column("lens", number=True, rank=5),
    Column("vendor", rank=6),
    Column("reader", rank=9),
    Column("tissue", number=True, rank=2),
    Column("tiles", number=True),
    Column("suspect", number=True, rank=1),
    Column("bytes", number=True, rank=3),
    Column("work", number=True, rank=8),
    Column("verdict"),
)

_VERDICTS = {
    MppError: "no resolution",
    NoTissueError: "empty",
    StainError: "not H&E",
    SlideError: "unreadable",
    CheckpointError: "not for it",
}
"""Verdicts by kind of error; the first that fits."""


@dataclass(frozen=True)
class SlideInspection:
    """Inspection of one slide: its facts, or the error that makes it unusable."""

    source: SlideSource
    facts: SlideFacts | None
    error: Exception | None

    @property
    def stain(self) -> StainStatistics | None:
        """Its stain, where it was measured."""
        measured = self.facts["stain"] if self.facts else None
        return StainStatistics.model_validate(measured) if measured else None

    @property
    def tiles(self) -> int:
        """Tiles that tiling would extract."""
        return self.facts["tiles"] if self.facts else 0

    @property
    def verdict(self) -> str:
        """The verdict in a word or two: `ok`, `empty`, or what is wrong with it."""
        if self.error is None:
            return "ok" if self.tiles else "empty"
        return next((word for kind, word in _VERDICTS.items() if isinstance(self.error, kind)), "fault")

    @property
    def is_unusable(self) -> bool:
        """True where the slide cannot be used; one without tissue can, there is just nothing to do."""
        return self.verdict not in ("ok", "empty")

    @property
    def reason(self) -> str:
        """The problem with the slide, under the name it is listed by."""
        if self.error is None:
            return ""
        problem = self.error.problem if isinstance(self.error, WsiStainError) else repr(self.error)
        renamed = problem.replace(str(self.source.path), self.source.relative)
        return renamed if self.source.relative in renamed else f"{self.source.relative}: {renamed}"

    @property
    def remedy(self) -> str:
        """The remedy."""
        return self.error.remedy if isinstance(self.error, WsiStainError) else ""


def inspect_slides(
    sources: Sequence[SlideSource],
    config: TilingConfig,
    executor: ExecutorConfig,
    progress: Progress,
    overlay: Path | None = None,
    stain: bool = False,
) -> list[SlideInspection]:
    """Inspect slides side by side; nothing is written.

    Args:
        sources: The slides.
        config: How they would be tiled.
        executor: Where the work runs; a single slide is inspected in this process.
        progress: Where it is shown.
        overlay: Directory for a picture of what would be decided on each slide.
        stain: Whether their stain is measured too.
    """
    where = executor if len(sources) > 1 else ExecutorConfig(workers=0)
    tasks = [InspectTask(source, config, overlay_path(overlay, source), stain) for source in sources]
    with open_executor(where) as started_executor:
        return run_inspections(started_executor, tasks, progress)


def run_inspections(executor: Executor, tasks: Sequence[InspectTask], progress: Progress) -> list[SlideInspection]:
    """Inspect slides on an executor that is open, in the order of the tasks."""
    flows = {task.source.slide_id: single_task(Task(inspect_slide, task, "inspect", SURVEYING)) for task in tasks}
    results = {
        result.key: result
        for result in run_flows(executor, flows, progress.on_tasks, progress.on_done, progress.on_wait)
    }
    sources = [task.source for task in tasks]
    return [
        SlideInspection(source, results[source.slide_id].value, results[source.slide_id].error) for source in sources
    ]


def print_plan(inspections: Sequence[SlideInspection], console: Console, formats: Sequence[Format] = ()) -> int:
    """Print a plan: the slides, then what all of them together will take.

    Args:
        inspections: The slides.
        console: Where to print.
        formats: What would be made of them beside their tiles.

    Returns:
        0, or 3 when some slides cannot be used.
    """
    code = print_inspections(inspections, console)
    tiles, size = (
        sum(inspection.tiles for inspection in inspections),
        sum(inspection.facts["bytes"] for inspection in inspections if inspection.facts),
    )
    usable = sum(inspection.facts is not None for inspection in inspections)
    print_line(
        console,
        f"{usable} of {len(inspections)} slides, {tiles} tiles, about {describe_size(size)} of them on disk, "
        f"about {describe_duration(tiles * _SECONDS_PER_TILE)} of work on one core beside the training",
    )
    if formats:
        print_line(console, describe_outputs(tiles, usable, formats))
    return code


def describe_outputs(tiles: int, slides: int, formats: Sequence[Format]) -> str:
    """Describe what so many tiles of so many slides will take on disk as outputs."""
    sizes = {kind: estimate_bytes(kind, tiles, slides) for kind in formats}
    return "outputs: " + ", ".join(f"{kind} about {describe_size(size)}" for kind, size in sizes.items())


def print_inspections(inspections: Sequence[SlideInspection], console: Console) -> int:
    """Print the table of slides, and below it doubts, and what is wrong with those that cannot be used.

    Returns:
        0, or 3 when some slides cannot be used.
    """
    print_table(_COLUMNS, [_cells(inspection) for inspection in inspections], console)
    for inspection in inspections:
        for remark in inspection.facts["remarks"] if inspection.facts else ():
            print_line(console, f"{inspection.source.relative}: {remark}")
    unusable = sorted(
        (inspection for inspection in inspections if inspection.is_unusable), key=lambda inspection: inspection.remedy
    )
    for remedy, alike in groupby(unusable, key=lambda inspection: inspection.remedy):
        for inspection in alike:
            print_line(console, inspection.reason)
        if remedy:
            print_line(console, f"  remedy: {remedy}")
    return 3 if unusable else 0


def overlay_path(directory: Path | None, source: SlideSource) -> Path | None:
    """Return where a slide's overlay goes."""
    return directory / f"{source.slide_id}.png" if directory else None


def _cells(inspection: SlideInspection) -> list[str]:
    name = escape_unprintable(inspection.source.relative)
    measurements = _facts_cells(inspection.facts) if inspection.facts else [""] * (len(_COLUMNS) - 2)
    return [name, *measurements, inspection.verdict]


def _facts_cells(facts: SlideFacts) -> list[str]:
    power = facts["objective_power"]
    mpp = " x ".join(f"{side:.4g}" for side in dict.fromkeys(facts["mpp_l0"]))
    if facts["mpp"] != facts["mpp_l0"]:
        mpp += f" -> {facts['mpp'][0]:.4g}"
    return [
        " x ".join(str(side) for side in facts["size_l0"]),
        str(facts["levels"]),
        mpp,
        facts["mpp_origin"],
        f"{power:g}x" if power else "?",
        facts["vendor"],
        facts["reader"],
        f"{facts['tissue']:.0%}",
        str(facts["tiles"]),
        str(facts["suspect"]),
        describe_size(facts["bytes"]),
        describe_duration(facts["tiles"] * _SECONDS_PER_TILE),
    ]
