"""The page of a run, made from what the run left on disk, after a crash too. Needs no slide and no checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipelines.run_directory.partial_results import (
    AGAIN,
    finished_slide,
    read_run_record,
    recover_rows,
    reference_nuclei,
    summary_rows,
)
from pipelines.run_directory.workspace import Workspace
from wsi_stain.cohort.reference import ReferenceChoice
from wsi_stain.core.errors import WsiStainError
from wsi_stain.report import RunRecord, read_training, reference_histogram, write_report, write_sheet
from wsi_stain.results import SlideRow
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.store import TileStore

_SHOWN_ELSEWHERE = ("slides", "reference", "reference_nuclei", "reference_choice", "scanner_groups_offered")
"""Facts of run.json that the page shows in other places than with the run's settings."""


def write_page(workspace: Workspace) -> Path:
    """Write report/index.html and report/before-after.jpg from what the run left.

    Memory bound: the pictures of one slide, and the rows of all without theirs.

    Raises:
        OutputError: They cannot be written.
    """
    return write_state_page(workspace, read_run_state(workspace))


@dataclass(frozen=True)
class RunState:
    """State of a run as it is on disk: its run.json, a row for each slide, and notes on what is missing."""

    record: Mapping[str, Any]
    rows: Sequence[SlideRow]
    notes: Sequence[str]


def read_run_state(workspace: Workspace) -> RunState:
    """Read the record and the rows of a run, finished or not."""
    record = read_run_record(workspace)
    rows = recover_rows(workspace, record)
    return RunState(record, rows, list(_notes(workspace, record, rows)))


def write_state_page(workspace: Workspace, state: RunState) -> Path:
    """Write the page and the sheet of what was read."""
    reference = _reference(state.record)

    def with_pictures(row: SlideRow) -> SlideRow:
        finished = finished_slide(workspace, row.slide_id, row)
        return finished.row if finished else row

    write_sheet(workspace.out / "report" / "before-after.jpg", map(with_pictures, state.rows))
    return write_report(
        workspace.out,
        state.rows,
        with_pictures,
        RunRecord(
            facts={name: value for name, value in state.record.items() if name not in _SHOWN_ELSEWHERE},
            reference=reference,
            nuclei=reference_nuclei(state.record),
            reference_od=_reference_od(workspace, reference),
            training=read_training(workspace.training),
            choice=_reference_choice(state.record),
            notes=state.notes,
        ),
    )


def _reference(record: Mapping[str, Any]) -> StainStatistics | None:
    try:
        return StainStatistics.model_validate(record["reference"])
    except (KeyError, ValidationError):
        return None


def _reference_choice(record: Mapping[str, Any]) -> ReferenceChoice | None:
    try:
        return ReferenceChoice.model_validate(record.get("reference_choice"))
    except ValidationError:
        return None


def _reference_od(workspace: Workspace, reference: StainStatistics | None) -> tuple[float, ...]:
    """Return the OD histogram of the first reference slide, if the run has tiled one."""
    if reference is None or not workspace.reference.exists():
        return ()
    try:
        store = TileStore(workspace.reference)
        return reference_histogram(store[store.slide_ids()[0]], reference.white)
    except (WsiStainError, IndexError):
        return ()


def _notes(workspace: Workspace, record: Mapping[str, Any], rows: Sequence[SlideRow]) -> Iterator[str]:
    """List what is missing, and what follows; and what could be had."""
    if not record:
        yield "There is no run.json: the run ended before it had a checkpoint. Its slides and settings are unknown."
    elif not workspace.summary.exists():
        unfinished = sum(row.status == "unfinished" for row in rows)
        shortfall = (
            f"{unfinished} of {len(rows)} slides are not finished" if unfinished else "only its summary is missing"
        )
        yield f"The run did not end: {shortfall}. {AGAIN}."
    if summary_rows(workspace) is None:
        yield "summary.csv is damaged, or of another version: which slides failed, and why, is unknown."
    without_pictures = sum(bool(row.output) and row.size is None for row in rows)  # the summary alone knows of them
    if without_pictures:
        yield f"{without_pictures} finished slides have no pictures here: OUT/work no longer has their rows."
    if record and _reference(record) is None:
        yield "run.json does not have the reference's stain: it was written by an earlier version."
    if not workspace.training.exists():
        yield "No training was done in this run."
    if isinstance(offer := record.get("scanner_groups_offered"), str):
        yield f"{offer}."
