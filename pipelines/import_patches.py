"""The `import` commands: data sets of patches into a store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pipelines.shared.config import RunConfig
from pipelines.shared.messages import describe_error, describe_size, print_line
from pipelines.shared.progress import Progress
from pipelines.shared.tables import Column, print_table
from wsi_stain.core.errors import ConfigError, SlideError
from wsi_stain.core.geometry import TILE, Size, grid_shape
from wsi_stain.core.lease import lease
from wsi_stain.core.text import escape_unprintable
from wsi_stain.datasets.idc import find_patients
from wsi_stain.datasets.images import find_folders
from wsi_stain.datasets.importing import ImportTask, import_slide, inspect_patches
from wsi_stain.datasets.pcam import MPP as PCAM_MPP
from wsi_stain.datasets.pcam import find_splits
from wsi_stain.datasets.scorpion import find_scanners
from wsi_stain.executor import WHOLE_SLIDE, Executor, FlowResult, Receipt, Task, open_executor, run_flows, single_task
from wsi_stain.slides.listing.names import slide_id
from wsi_stain.slides.resolution import MPP_RANGE
from wsi_stain.store import TileStore
from wsi_stain.store.patches import PatchSource

_COLUMNS = (
    Column("slide"),
    Column("patches", number=True),
    Column("refused", number=True),
    Column("labels", rank=2),
    Column("size, px", number=True, rank=3),
    Column("bytes, at most", number=True, rank=1),
)

_FINE = 0.4
"""um per px; IDC patches are coarser than the 40x scans (about 0.25) they were made from."""


@dataclass(frozen=True)
class Request:
    """Arguments of an import.

    Attributes:
        sources: The slides.
        store: The tile store's directory.
        config: How tissue is found and stain measured, and where the work runs.
        mpp: Resolution of the patches, um per px.
        mpp_origin: Who says so.
        notes: What the user should know beforehand.
        faults: What cannot be imported at all.
    """

    sources: Sequence[PatchSource]
    store: Path
    config: RunConfig
    mpp: float
    mpp_origin: str = "--mpp"
    notes: Sequence[str] = ()
    faults: Sequence[str] = ()

    def __post_init__(self) -> None:
        low, high = MPP_RANGE
        if not low <= self.mpp <= high:
            raise ConfigError(
                f"--mpp is {self.mpp:g}, expected {low} to {high} um per pixel", "Give the patches' resolution"
            )


def idc(directory: Path, store: Path, mpp: float, config: RunConfig) -> Request:
    """Import Kaggle's breast-histopathology-images."""
    patients, others = find_patients(directory)
    notes = [f"{name}: passed over, no patient: it has neither a folder 0 nor a folder 1" for name in others]
    if mpp < _FINE:
        notes.append(f"warning: --mpp {mpp:g} is finer than these patches are: expected about 0.5 um/px or coarser")
    return Request(patients, store, config, mpp, notes=notes)


def pcam(files: Sequence[Path], meta: Path | None, store: Path, mpp: float | None, config: RunConfig) -> Request:
    """Import PatchCamelyon."""
    slides, faults = find_splits(files, meta)
    missing = sorted({slide.labels_path.name for slide in slides if not slide.labels_path.exists()})
    notes = [f"warning: {name} is not there: its patches are imported without labels" for name in missing]
    if mpp is not None:
        return Request(slides, store, config, mpp, notes=notes, faults=faults)
    return Request(slides, store, config, PCAM_MPP, "as published for PCam", notes=notes, faults=faults)


def images(directory: Path, store: Path, mpp: float, labelled: bool, config: RunConfig) -> Request:
    """Import folders of picture files."""
    return Request(find_folders(directory, labelled), store, config, mpp)


def scorpion(directory: Path, stores: Path, mpp: float, config: RunConfig) -> list[Request]:
    """Import SCORPION: a store for each scanner, named after it."""
    scanners = find_scanners(directory)
    return [Request(slides, stores / f"{scanner}.zarr", config, mpp) for scanner, slides in scanners.items()]


def show_plans(requests: Sequence[Request], console: Console) -> int:
    """Print what several imports would do, see `show_plan`."""
    return max(show_plan(request, console) for request in requests)


def run_all(requests: Sequence[Request], console: Console) -> int:
    """Run several imports one after the other, see `run`."""
    return max(run(request, console) for request in requests)


def show_plan(request: Request, console: Console) -> int:
    """Print what an import would do; nothing is written.

    Returns:
        0, or 3 when some patches or slides cannot be imported.
    """
    with Progress(console) as progress, open_executor(request.config.executor) as executor:
        results = _run_tasks(executor, request, progress, inspect_patches, "inspect")
    results.sort(key=lambda result: result.key)
    print_table(_COLUMNS, [[escape_unprintable(result.key), *_cells(result.value)] for result in results], console)
    return _exit_code(request, results)


def run(request: Request, console: Console) -> int:
    """Import all slides; one that stands in the store already is left as it is.

    Returns:
        0, or 3 when some patches or slides could not be imported.

    Raises:
        SlideError: No slide could be imported.
    """
    with (
        lease(request.store),
        Progress(console) as progress,
        open_executor(request.config.executor, request.store / ".logs") as executor,
    ):
        TileStore.create(request.store)
        results = _run_tasks(executor, request, progress, import_slide, "import")
    done = [result.value for result in results if result.value]
    if not done:
        raise SlideError(f"None of the {len(results)} slides could be imported", "See the reasons above")
    print_line(
        console,
        f"{len(done)} of {len(results)} slides imported into {request.store}: {_sum(done, 'patches')} patches, "
        f"{_sum(done, 'refused')} refused, {_sum(done, 'tiles')} tiles",
    )
    return _exit_code(request, results)


def _run_tasks(
    executor: Executor, request: Request, progress: Progress, function: Callable[[ImportTask], Receipt], stage: str
) -> list[FlowResult]:
    """Run one task a slide side by side; what is odd is reported as it comes, and leaves the others alone."""
    for line in (*request.notes, *request.faults):
        progress.report(line)
    tissue, stain = request.config.tiling.tissue, request.config.tiling.stain
    flows = {}
    for source in request.sources:
        task = ImportTask(source, request.store, request.mpp, request.mpp_origin, tissue, stain)
        flows[slide_id(source.relative)] = single_task(Task(function, task, stage, WHOLE_SLIDE))
    results = []
    for result in run_flows(executor, flows, progress.on_tasks, progress.on_done, progress.on_wait):
        results.append(result)
        _report_result(result, progress)
    return results


def _report_result(result: FlowResult, progress: Progress) -> None:
    if result.error is not None:
        progress.report(f"{result.key}: {describe_error(result.error)}")
        return
    receipt = result.value
    if receipt.get("replaced"):
        progress.report(f"{result.key}: replaced a slide made of other patches or with other settings")
    for remark in receipt["remarks"]:
        progress.report(f"{result.key}: {remark}")
    if more := receipt["remarked"] - len(receipt["remarks"]):
        progress.report(f"{result.key}: and {more} more like these, all in the slide's table of patches")


def _exit_code(request: Request, results: Sequence[FlowResult]) -> int:
    whole = all(result.value and not result.value["refused"] for result in results)
    return 0 if whole and not request.faults else 3


def _sum(receipts: Sequence[Receipt], name: str) -> int:
    return sum(receipt[name] for receipt in receipts)


def _cells(receipt: Receipt | None) -> list[str]:
    if receipt is None:
        return ["cannot be used", *[""] * (len(_COLUMNS) - 2)]
    labels = [f"{label}: {count}" for label, count in receipt["labels"].items()]
    rows, cols = grid_shape(Size(*receipt["size"]))
    return [
        str(receipt["patches"]),
        str(receipt["refused"]),
        escape_unprintable(", ".join(labels)),
        " x ".join(map(str, receipt["size"])),
        describe_size(rows * cols * TILE * TILE * 3),
    ]
