"""What a run left on disk, ended or not: its record, and a row for each slide.

Also after a crash: run.json lists the slides once a run has a checkpoint, and each finished slide has its row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pipelines.run_directory.workspace import Workspace
from wsi_stain.core.errors import OutputError
from wsi_stain.core.journal import read_json
from wsi_stain.metrics.chromatin import NuclearDetail
from wsi_stain.results import SlideRow, read_rows
from wsi_stain.results.finished import FinishedSlide, load_finished
from wsi_stain.results.slide_row import SlideId

AGAIN = "Run the same command again: what is finished stays"
"""The remedy for whatever a run did not come to."""

_SLIDES = TypeAdapter(list[tuple[SlideId, str]])


def read_run_record(workspace: Workspace) -> Mapping[str, Any]:
    """Read run.json; empty where there is none, or it is damaged."""
    record = read_json(workspace.record)
    return record if isinstance(record, dict) else {}


def reference_nuclei(record: Mapping[str, Any]) -> NuclearDetail | None:
    """Read what a run's record says of the reference's nuclei; None where it says nothing."""
    try:
        return NuclearDetail.model_validate(record.get("reference_nuclei"))
    except ValidationError:
        return None


def recover_rows(workspace: Workspace, record: Mapping[str, Any]) -> list[SlideRow]:
    """Return a row for each slide, without pictures: of the summary if the run ended, else as far as it came."""
    ended = {row.slide_id: row for row in summary_rows(workspace) or []}
    listed = (
        _read_slide_list(record)
        or {slide_id: row.slide for slide_id, row in ended.items()}
        or _find_finished(workspace)
    )
    return [_row(workspace, slide_id, name, ended) for slide_id, name in listed.items()]


def _read_slide_list(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the slides of the run by id, as `write_run_record` wrote them."""
    try:
        return dict(_SLIDES.validate_python(record.get("slides", [])))
    except ValidationError:
        return {}


def _row(workspace: Workspace, slide_id: str, name: str, ended: Mapping[str, SlideRow]) -> SlideRow:
    summarized = ended.get(slide_id)
    if finished := finished_slide(workspace, slide_id, summarized):
        return finished.row.without_pictures()
    missing = SlideRow(
        slide=name, slide_id=slide_id, status="unfinished", reason="The run ended before the slide", remedy=AGAIN
    )
    return summarized or missing


def finished_slide(workspace: Workspace, slide_id: str, row: SlideRow | None) -> FinishedSlide | None:
    """Return what was kept of a slide that the run finished; None where it did not, or nothing can be read.

    Args:
        workspace: The run's directories.
        slide_id: The slide.
        row: The slide's row in the summary, which knows of a later run that failed; None where there is none.
    """
    return None if row and not row.output else load_finished(workspace.slide(slide_id))


def summary_rows(workspace: Workspace) -> list[SlideRow] | None:
    """Read the rows of summary.csv; None where it cannot be read."""
    try:
        return read_rows(workspace.summary) if workspace.summary.exists() else []
    except (OutputError, ValidationError):
        return None


def _find_finished(workspace: Workspace) -> dict[str, str]:
    """Find the slides that were finished, where no list of them is left: id and name."""
    places = sorted((workspace.out / "work" / "slides").glob("*/row.json"))
    finished = [load_finished(place.parent) for place in places]
    return {each.row.slide_id: each.row.slide for each in finished if each}
