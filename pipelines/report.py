"""The `report` command: the page of a run, made from what the run left on disk. Needs no slide and no checkpoint.

Also after a crash, as far as `left` finds rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from pipelines.left import AGAIN, rows_left, run_record, summary_rows
from pipelines.progress import tell
from pipelines.workspace import Workspace
from wsi_stain.errors import OutputError, WsiStainError
from wsi_stain.finished import load_finished
from wsi_stain.report import (
    RunRecord,
    SlideRow,
    read_training,
    reference_histogram,
    write_report,
    write_sheet,
)
from wsi_stain.stain import StainStatistics
from wsi_stain.store import TileStore


def run(out: Path, console: Console) -> int:
    """Write the report of a run, finished or not.

    Returns:
        0.

    Raises:
        OutputError: No run has left anything in `out`.
    """
    workspace = Workspace(out)
    if not (workspace.record.exists() or workspace.summary.exists() or workspace.training.exists()):
        raise OutputError(f"{out} is not the output directory of a run", "Name the directory given to run --out")
    left = _left(workspace)
    page = _write(workspace, left)
    for status, count in Counter(row.status for row in left.rows).items():
        tell(console, f"{count} {status}")
    for note in left.notes:
        tell(console, note)
    tell(console, f"report: {page}")
    return 0


def write_page(workspace: Workspace) -> Path:
    """Write report/index.html and report/before-after.jpg from what the run left.

    Memory bound: the pictures of one slide, and the rows of all without theirs.

    Raises:
        OutputError: They cannot be written.
    """
    return _write(workspace, _left(workspace))


@dataclass(frozen=True)
class _Left:
    """What a run left: what run.json says, a row for each slide, and what is missing."""

    record: Mapping[str, Any]
    rows: Sequence[SlideRow]
    notes: Sequence[str]


def _left(workspace: Workspace) -> _Left:
    record = run_record(workspace)
    rows = rows_left(workspace, record)
    return _Left(record, rows, list(_notes(workspace, record, rows)))


def _write(workspace: Workspace, left: _Left) -> Path:
    reference = _reference(left.record)

    def with_pictures(row: SlideRow) -> SlideRow:
        finished = load_finished(workspace.slide(row.slide_id)) if row.output else None
        return finished.row if finished else row

    write_sheet(workspace.out / "report" / "before-after.jpg", map(with_pictures, left.rows))
    return write_report(
        workspace.out,
        left.rows,
        with_pictures,
        RunRecord(
            facts={name: value for name, value in left.record.items() if name not in ("slides", "reference")},
            reference=reference,
            reference_od=_reference_od(workspace, reference),
            training=read_training(workspace.training),
            notes=left.notes,
        ),
    )


def _reference(record: Mapping[str, Any]) -> StainStatistics | None:
    try:
        return StainStatistics.model_validate(record["reference"])
    except (KeyError, ValidationError):
        return None


def _reference_od(workspace: Workspace, reference: StainStatistics | None) -> tuple[float, ...]:
    """The OD histogram of the first reference slide, if the run has tiled one."""
    if reference is None or not workspace.reference.exists():
        return ()
    try:
        store = TileStore(workspace.reference)
        return reference_histogram(store[store.slide_ids()[0]], reference.white)
    except (WsiStainError, IndexError):
        return ()


def _notes(workspace: Workspace, record: Mapping[str, Any], rows: Sequence[SlideRow]) -> Iterator[str]:
    """What is missing, and what follows."""
    if not record:
        yield "There is no run.json: the run ended before it had a checkpoint. Its slides and settings are unknown."
    elif not workspace.summary.exists():
        unfinished = sum(row.status == "unfinished" for row in rows)
        told = f"{unfinished} of {len(rows)} slides are not finished" if unfinished else "only its summary is missing"
        yield f"The run did not end: {told}. {AGAIN}."
    if summary_rows(workspace) is None:
        yield "summary.csv is damaged, or of another version: which slides failed, and why, is unknown."
    lost = sum(bool(row.output) and row.size is None for row in rows)  # the summary alone knows of them
    if lost:
        yield f"{lost} finished slides have no pictures here: OUT/work no longer has their rows."
    if record and _reference(record) is None:
        yield "run.json does not have the reference's stain: it was written by an earlier version."
    if not workspace.training.exists():
        yield "No training was done in this run."
