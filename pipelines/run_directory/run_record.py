"""What a run records: run.json before any slide is done, summary.csv and the report at its end."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from rich.console import Console

from pipelines.run_directory.page import write_page
from pipelines.run_directory.workspace import Workspace
from pipelines.shared.config import RunConfig
from pipelines.shared.device import tasks_device
from pipelines.shared.messages import print_line, print_warning
from wsi_stain import __version__
from wsi_stain.core.errors import NoSpaceError
from wsi_stain.core.journal import write_json
from wsi_stain.core.text import escape_unprintable
from wsi_stain.results import SlideRow, write_summary
from wsi_stain.slides.listing.find import SlideSource

_VERSIONS = ("torch", "numpy", "openslide-python", "zarr", "distributed", "imagecodecs", "scikit-image")
_OK = ("done", "done-with-holes", "empty", "skipped")


def write_run_record(
    workspace: Workspace, sources: Sequence[SlideSource], config: RunConfig, target: Mapping[str, Any]
) -> None:
    """Write run.json, before any slide is done, so that a report can be made even if the run is killed.

    The summary of an earlier run is removed: from now on it would not be true.

    Args:
        workspace: Paths below the output directory.
        sources: All slides of the run.
        config: The run's configuration, without `auto` values.
        target: What the slides are normalized to: `NormalizationTarget.facts`.
    """
    slides = [[escape_unprintable(source.slide_id), escape_unprintable(source.relative)] for source in sources]
    write_json(workspace.record, {**run_facts(config), **target, "slides": slides})
    workspace.summary.unlink(missing_ok=True)


def write_results(workspace: Workspace, rows: Sequence[SlideRow], console: Console) -> int:
    """Write summary.csv and the report, and print how the slides ended.

    Returns:
        The exit code: 0, or 3 when some slides failed, or the disk is too full for the report.
    """
    code = summarize(workspace, rows, console)
    print_line(console, f"pyramids: {workspace.out / 'slides'}")
    try:
        print_line(console, f"report: {write_page(workspace)}")
    except NoSpaceError as error:
        print_warning(console, f"There is no report: {error}")
        return 3
    return code


def summarize(workspace: Workspace, rows: Sequence[SlideRow], console: Console) -> int:
    """Write summary.csv, and print how many slides ended how; returns the exit code, as `write_results` does."""
    write_summary(workspace.summary, rows)
    for status, count in Counter(row.status for row in rows).items():
        print_line(console, f"{count} {status}")
    return 0 if all(row.status in _OK for row in rows) else 3


def run_facts(config: RunConfig) -> dict[str, Any]:
    """Return the versions, the configuration and the device of a run."""
    return {
        "version": __version__,
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in _VERSIONS},
        "config": config.model_dump(mode="json"),
        "device": tasks_device(config.executor),
    }
