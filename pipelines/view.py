"""The `view` command: a run's slides beside their sources, or one or two slides, in the web browser."""

from __future__ import annotations

import asyncio
import webbrowser
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from pipelines.run_directory.partial_results import finished_slide, read_run_record, recover_rows, summary_rows
from pipelines.run_directory.workspace import Workspace
from pipelines.shared.formats import SUFFIXES, TABLES
from pipelines.shared.messages import print_line, print_warning
from wsi_stain.core.errors import ConfigError, SlideError
from wsi_stain.core.storage import is_there, real_path
from wsi_stain.results import SlideRow
from wsi_stain.slides.listing.find import find_slides
from wsi_stain.store.artifact import TABLE, load_artifact
from wsi_stain.viewer.cases import Case, Picture, describe_case
from wsi_stain.viewer.server import ViewServer
from wsi_stain.viewer.tiles import SlideTiles

_TABLE_SUFFIXES = tuple(SUFFIXES[kind] for kind in TABLES)


@dataclass(frozen=True)
class Request:
    """Arguments of `wsi-stain view`.

    Attributes:
        subject: The output directory of a run, a slide, or a directory of slides.
        other: A slide to show beside the first.
        host: Address to serve on.
        port: Port to serve on; None for the usual one, or the next that is free.
        browser: Open the page, and end when it is closed.
    """

    subject: Path
    other: Path | None = None
    host: str = "127.0.0.1"
    port: int | None = None
    browser: bool = True


def plan(request: Request, warn: Callable[[str], None]) -> list[Case]:
    """List the cases to show; `warn` is told of each folder that cannot be searched.

    Raises:
        ConfigError: There are none, or not one slide on each side.
        SlideError: The slide, or both of the two, cannot be opened.
    """
    if request.other is not None:
        before, after = (_only_slide(path, warn) for path in (request.subject, request.other))
        pictures = Picture("before", before), Picture("after", after)
        return [_check_openable(Case(f"{before.name} and {after.name}", pictures))]
    workspace = Workspace(request.subject)
    if workspace.summary.exists() or workspace.record.exists():
        rows = summary_rows(workspace) or recover_rows(workspace, read_run_record(workspace))
        return [_case(workspace, row, warn) for row in rows]
    slides = find_slides([request.subject], warn=warn)
    cases = [Case(slide.relative, (Picture("", slide.path, slide.mpp),)) for slide in slides]
    return [_check_openable(case) for case in cases] if len(cases) == 1 else cases


def run(request: Request, console: Console) -> int:
    """Serve the page until Ctrl-C or, where it was opened from here, until it is closed.

    Returns:
        0, however it was ended.
    """
    cases = plan(request, partial(print_warning, console))
    server = ViewServer(cases, request.host, request.port, real_path(request.subject).name)

    def on_ready(url: str) -> None:
        opened = request.browser and _open_browser(url)
        print_line(console, url)
        print_line(console, "Ctrl-C ends it" + (", and so does closing the page" if request.browser else ""))
        if request.browser and not opened:
            print_line(console, "No browser could be started here: open the address yourself")

    asyncio.run(server.serve(on_ready, end_with_pages=request.browser))
    return 0


def _only_slide(path: Path, warn: Callable[[str], None]) -> Path:
    """Return the file that OpenSlide opens of the one slide that a path names."""
    slides = find_slides([path], warn=warn)
    if len(slides) > 1:
        raise ConfigError(f"{path} holds {len(slides)} slides, expected one to show beside another", "Name one of them")
    return slides[0].path


def _check_openable(case: Case) -> Case:
    """Return the case; SlideError where none of its pictures can be opened: better now than on the page."""
    panes = describe_case(case, SlideTiles())["panes"]
    if all("problem" in pane for pane in panes):
        raise SlideError(panes[0]["problem"], panes[0]["remedy"])
    return case


def _case(workspace: Workspace, row: SlideRow, warn: Callable[[str], None]) -> Case:
    """Make the case of a slide of a run, with its pyramid and its source where these are."""
    finished = finished_slide(workspace, row.slide_id, row)
    pictures, notes = [], [text for text in (row.reason, row.remedy) if text]
    source = finished.origin.slide if finished else None
    if finished and source and is_there(source):
        pictures.append(Picture("source", source, finished.origin.reading.slide_mpp))
    elif row.output:
        notes.append(f"The source is no longer at {source}" if source else "Its source is not known")
    pyramid = next(_find_readable(workspace.out, finished.row if finished else row, warn), None)
    if pyramid:
        pictures.append(Picture("normalized", pyramid))
    elif finished and pictures and row.output.endswith(_TABLE_SUFFIXES):
        table = load_artifact(workspace.slide(row.slide_id) / "artifact.npz")[TABLE]
        pictures.append(replace(pictures[0], label="normalized", table=table))
        notes.append("Shown through its colour table, glass and ink too")
    elif row.output:
        notes.append("OpenSlide reads none of its outputs: run the same command again with --format ome-tiff as well")
    return Case(row.slide, tuple(pictures), row.status, ". ".join(notes))


def _find_readable(out: Path, row: SlideRow, warn: Callable[[str], None]) -> Iterator[Path]:
    """Find a slide's outputs in formats that OpenSlide reads, the OME-TIFF first."""
    outputs = [out / name for name in (row.output, *row.other_outputs) if name]
    for kind in ("ome-tiff", "dicom"):
        for path in outputs:
            if path.name.endswith(SUFFIXES[kind]) and path.exists():
                yield _only_slide(path, warn)


def _open_browser(url: str) -> bool:
    """Open the page in a graphical browser; one that runs in the terminal would take it over."""
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return False
    return type(browser) is not webbrowser.GenericBrowser and browser.open(url)
