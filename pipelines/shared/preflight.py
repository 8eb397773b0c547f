"""Before work begins: every slide is opened once, so that what cannot be used is known at once and not after hours."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from pipelines.shared.messages import describe_error
from pipelines.shared.progress import Progress
from wsi_stain.core.errors import CheckpointError
from wsi_stain.core.geometry import Mpp
from wsi_stain.executor import OPENING, Executor, Task, run_flows, single_task
from wsi_stain.slides.listing.find import SlideSource
from wsi_stain.tiling.config import TilingConfig
from wsi_stain.tiling.inspect import InspectTask, probe_slide

CheckFits: TypeAlias = Callable[[Mpp], None]
"""Refuses, by a CheckpointError, a resolution that a checkpoint does not know."""


@dataclass(frozen=True)
class Preflight:
    """What opening the slides told, by slide id.

    Attributes:
        unusable: Errors of those that do not open, or whose resolution is missing, absurd or not the checkpoint's.
        scanners: `Slide.scanner` of the others.
    """

    unusable: dict[str, Exception] = field(default_factory=dict)
    scanners: dict[str, str] = field(default_factory=dict)


def find_misfit(mpp: Sequence[float], check_fits: CheckFits | None) -> CheckpointError | None:
    """Return what a checkpoint has against a resolution, [x, y] in um per px; None where it fits."""
    try:
        if check_fits is not None:
            check_fits(Mpp(*mpp))
    except CheckpointError as error:
        return error
    return None


def open_all(
    executor: Executor,
    sources: Sequence[SlideSource],
    config: TilingConfig,
    progress: Progress,
    reported_elsewhere: Collection[str] = (),
    check_fits: CheckFits | None = None,
) -> Preflight:
    """Open slides, side by side, and report which cannot be used and what is doubtful about the others.

    Args:
        executor: Where to open them.
        sources: The slides.
        config: How they would be read.
        progress: Where it is shown.
        reported_elsewhere: Ids of slides whose faults and doubts somebody else will report, and act on.
        check_fits: Refuses a resolution that the checkpoint does not know, where there is one.
    """
    names, found = {source.slide_id: source.relative for source in sources}, Preflight()
    flows = {
        source.slide_id: single_task(Task(probe_slide, InspectTask(source, config), "open", OPENING))
        for source in sources
    }
    for result in run_flows(executor, flows, progress.on_tasks, progress.on_done, progress.on_wait):
        if result.error is None:
            found.scanners[result.key] = result.value["scanner"]
        if result.key in reported_elsewhere:
            continue
        error = result.error or find_misfit(result.value["mpp"], check_fits)
        if error is not None:
            found.unusable[result.key] = error
        for remark in [describe_error(error)] if error else result.value["remarks"]:
            progress.report(f"{names[result.key]}: {remark}")
    return found
