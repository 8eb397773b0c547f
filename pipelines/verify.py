"""The `verify` command: every output of a run against its receipts, its readers and its source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from pipelines.run_directory.partial_results import read_run_record, reference_nuclei
from pipelines.run_directory.workspace import Workspace
from pipelines.shared.formats import SUFFIXES, Format
from pipelines.shared.messages import print_line, print_warning
from pipelines.shared.progress import Progress
from pipelines.shared.tables import Column, print_table
from wsi_stain.core.lease import lease
from wsi_stain.core.text import escape_unprintable, write_table
from wsi_stain.executor import WHOLE_SLIDE, Executor, ExecutorConfig, Task, open_executor, run_flows, single_task
from wsi_stain.results import read_summary, summary_row
from wsi_stain.results.finished import load_finished
from wsi_stain.slides.listing.find import find_slides
from wsi_stain.store import TileStore
from wsi_stain.verification.faults import Fault
from wsi_stain.verification.quality_check import Similarity
from wsi_stain.verification.tasks import (
    ProductTask,
    TilesTask,
    VerifyReceipt,
    VerifyTask,
    verify_product,
    verify_slide,
    verify_tiles,
)

_COLUMNS = ("slide", "check", "expected", "got", "remedy")
_TABLE = (
    Column("slide"),
    Column("outcome"),
    Column("source", rank=1),
    Column("shift, px", number=True, rank=4),
    Column("SSIM", number=True, rank=3),
    Column("nuclei kept", number=True, rank=2),
    Column("contrast kept", number=True, rank=5),
)
_AGAIN = "Run the same command again"


@dataclass(frozen=True)
class Request:
    """Arguments of `wsi-stain verify`.

    Attributes:
        out: The output directory of a run.
        slides: Where its slides are now; empty where they are where they were.
        executor: Where the work runs.
    """

    out: Path
    slides: Sequence[Path]
    executor: ExecutorConfig


@dataclass(frozen=True)
class Outcome:
    """Outcome of the checks of one output.

    Attributes:
        name: The slide as the summary has it; of other things their path below OUT.
        faults: What is wrong with it.
        similarity: How a slide compares with its source, where that was compared.
    """

    name: str
    faults: Sequence[Fault]
    similarity: Similarity | None = None


def plan(request: Request, warn: Callable[[str], None]) -> dict[str, Task[VerifyReceipt]]:
    """List the checks by name; nothing is written. `warn` is told of each folder that cannot be searched.

    Raises:
        OutputError: There is no finished run.
    """
    workspace = Workspace(request.out)
    given = {slide.slide_id: slide.path for slide in find_slides(request.slides, warn=warn)} if request.slides else {}
    reference, tasks = reference_nuclei(read_run_record(workspace)), {}
    for row in _pyramid_rows(workspace):
        slide_id = row["slide_id"]
        pyramids = _pyramids_of(workspace, slide_id)
        task = VerifyTask(workspace.slide(slide_id), pyramids, given.get(slide_id), reference)
        tasks[row["slide"]] = Task(verify_slide, task, "verify", WHOLE_SLIDE)
    for folder in _stored_folders(workspace):
        tasks[str(folder.relative_to(request.out))] = Task(verify_tiles, TilesTask(folder), "verify", WHOLE_SLIDE)
    for name, pictures in _patch_folders(workspace).items():
        tasks[name] = Task(verify_product, pictures, "verify", WHOLE_SLIDE)
    receipt, checkpoint = workspace.training / ".training.json", workspace.training / "checkpoint.safetensors"
    if receipt.exists():
        tasks[str(checkpoint.relative_to(request.out))] = Task(
            verify_product, ProductTask(receipt, checkpoint), "verify"
        )
    return tasks


def show_plan(request: Request, console: Console) -> int:
    """Print what would be checked."""
    for name in plan(request, partial(print_warning, console)):
        print_line(console, name)
    return 0


def run(request: Request, console: Console) -> int:
    """Run all checks; write verify.csv.

    Returns:
        0, or 3 when something is wrong.
    """
    tasks, workspace = plan(request, partial(print_warning, console)), Workspace(request.out)
    where = request.executor if len(tasks) > 1 else ExecutorConfig(workers=0)
    with lease(request.out), Progress(console) as progress, open_executor(where, workspace.logs) as executor:
        outcomes = {name: Outcome(name, ()) for name in tasks}
        outcomes |= {outcome.name: outcome for outcome in _run_checks(executor, tasks, progress)}
        for name, fault in _summary_faults(workspace):
            known = outcomes.get(name, Outcome(name, ()))
            outcomes[name] = Outcome(name, (*known.faults, fault), known.similarity)
        rows = [[outcome.name, *fault] for outcome in outcomes.values() for fault in outcome.faults]
        write_table(request.out / "verify.csv", _COLUMNS, rows)
    _print(list(outcomes.values()), console)
    failed = [row for row in read_summary(request.out / "summary.csv") if not row.get("output")]
    if failed:
        print_line(
            console, f"{len(failed)} slides have no output (see summary.csv): there is nothing of them to verify"
        )
    print_line(console, f"{len(rows)} faults in {request.out / 'verify.csv'}" if rows else "all as it should be")
    return 3 if rows else 0


def _run_checks(executor: Executor, tasks: Mapping[str, Task[VerifyReceipt]], progress: Progress) -> Iterator[Outcome]:
    flows = {name: single_task(task) for name, task in tasks.items()}
    for result in run_flows(executor, flows, progress.on_tasks, progress.on_done, progress.on_wait):
        if result.error is None:
            yield Outcome(result.key, result.value["faults"], result.value["similarity"])
        else:
            got = f"{type(result.error).__name__}: {result.error}"
            remedy = "This is a fault of wsi-stain: please report it"
            yield Outcome(result.key, [Fault("verify", "a check that ends", got, remedy)])


def _pyramid_rows(workspace: Workspace) -> list[dict[str, str]]:
    """Read the rows of the summary that name a pyramid."""
    rows = read_summary(workspace.out / "summary.csv")
    return [row for row in rows if row["output"].endswith(tuple(SUFFIXES.values()))]


def _patch_folders(workspace: Workspace) -> dict[str, ProductTask]:
    """Find the folders of patches that the summary names."""
    return {
        row["output"]: ProductTask(workspace.slide(row["slide_id"]) / "patches.json", workspace.out / row["output"])
        for row in read_summary(workspace.out / "summary.csv")
        if (workspace.out / row["output"]).is_relative_to(workspace.patches)
    }


def _stored_folders(workspace: Workspace) -> list[Path]:
    """Find the folders of all complete slides in the run's tile stores."""
    stores = [
        path
        for path in (workspace.reference, workspace.tiles, workspace.normalized_tiles)
        if (path / "zarr.json").exists()
    ]
    return [path / slide_id for path in stores for slide_id in TileStore(path).slide_ids()]


def _pyramids_of(workspace: Workspace, slide_id: str) -> dict[Path, Path]:
    """Find a finished slide's pyramids by their receipts, whichever run made them; none of an unknown slide."""
    folder = workspace.slide(slide_id)
    finished = load_finished(folder)
    if finished is None:
        return {}
    named = {finished.row.output, *finished.row.other_outputs}
    outputs = {folder / f"{kind}.json": path for kind, path in _formats(workspace, finished.row.output).items()}
    return {
        receipt: path
        for receipt, path in outputs.items()
        if receipt.exists() or path.relative_to(workspace.out).as_posix() in named
    }


def _formats(workspace: Workspace, output: str) -> dict[Format, Path]:
    """Return the paths of a slide in each format, given one of its names."""
    suffix = next(suffix for suffix in SUFFIXES.values() if output.endswith(suffix))
    return {kind: workspace.out / f"{output.removesuffix(suffix)}{other}" for kind, other in SUFFIXES.items()}


def _summary_faults(workspace: Workspace) -> Iterator[tuple[str, Fault]]:
    """Find rows that differ from what was kept of their slides, and outputs without a row."""
    known = set()
    for row in _pyramid_rows(workspace):
        known |= set(_formats(workspace, row["output"]).values())
        finished = load_finished(workspace.slide(row["slide_id"]))
        if finished is None:
            continue  # which verifying the slide has found
        kept = summary_row(finished.row)
        differ = [name for name, value in kept.items() if row.get(name) != value]
        if differ:
            expected, got = (", ".join(f"{name} {cells.get(name)}" for name in differ) for cells in (kept, row))
            yield row["slide"], Fault("summary", expected, got, _AGAIN)
    for path in _outputs(workspace.out / "slides"):
        if path not in known:
            remedy = "Delete it, or run again with all slides"
            yield str(path.relative_to(workspace.out)), Fault("summary", "a row in summary.csv", "none", remedy)


def _outputs(folder: Path) -> Iterator[Path]:
    """Find the pyramids below a folder, files or directories; not what is still being written."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(".") or path.name.endswith(".partial"):
            continue
        if path.is_dir() and not path.name.endswith(tuple(SUFFIXES.values())):
            yield from _outputs(path)
        else:
            yield path


def _print(outcomes: Sequence[Outcome], console: Console) -> None:
    """Print the table of outcomes, and below it the faults."""
    rows = []
    for outcome in outcomes:
        checks = ", ".join(dict.fromkeys(fault.check for fault in outcome.faults))
        verdict = f"wrong: {checks}" if checks else "good"
        rows.append([escape_unprintable(outcome.name), verdict, *_cells(outcome.similarity)])
    print_table(_TABLE, rows, console)
    for outcome in outcomes:
        for fault in outcome.faults:
            print_line(
                console, f"{outcome.name}: {fault.check}: expected {fault.expected}, got {fault.got}. {fault.remedy}"
            )


def _cells(similarity: Similarity | None) -> list[str]:
    if similarity is None:
        return [""] * 5
    figures = (
        (similarity.shift_px, ".2f"),
        (similarity.ssim, ".3f"),
        (similarity.nuclei, ".3f"),
        (similarity.contrast, ".2f"),
    )
    source_cell = "found" if similarity.source else "source not found"
    return [source_cell, *("" if value is None else format(value, form) for value, form in figures)]
