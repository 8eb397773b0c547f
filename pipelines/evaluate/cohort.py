"""`evaluate cohort`: how alike the slides of a cohort are, and how near the reference, by every method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines.evaluate.methods import baselines, checkpoint_methods, require_extras
from pipelines.evaluate.results import checkpoint_facts, print_files, print_scores, write_record, write_scores
from pipelines.evaluate.tasks import receipts_of, scoring_pool
from pipelines.run_directory.usable_slides import find_usable_slides
from pipelines.run_directory.workspace import Workspace
from pipelines.shared.config import RunConfig
from pipelines.shared.progress import Progress
from wsi_stain.core.errors import ConfigError, OutputError, SlideError
from wsi_stain.core.lease import lease
from wsi_stain.core.storage import StoragePath
from wsi_stain.evaluation.cohort import CohortTask, SlideScores, save_reference, score_slide, summarize
from wsi_stain.evaluation.figures import write_points
from wsi_stain.evaluation.methods import Method
from wsi_stain.executor import WHOLE_SLIDE, Task, open_executor
from wsi_stain.normalizers.classical_reference import measure_classical_reference
from wsi_stain.results import read_summary
from wsi_stain.store import StoredSlide

HEADINGS = {
    "nmi": "NMI",
    "nmi_sd": "SD",
    "nmi_cv": "CV",
    "lab_wasserstein_tissue": "Lab-W tissue",
    "lab_wasserstein_nuclei": "nuclei",
    "lab_wasserstein_stroma": "stroma",
    "angle_hematoxylin": "H, deg",
    "angle_eosin": "E, deg",
    "nuclei_kept": "nuclei kept",
    "seam": "seam",
    "nuclear_contrast": "nuclear contrast",
    "nuclear_dark": "dark nuclei",
}
_PANELS = {
    "lab_wasserstein_tissue": "Lab-Wasserstein to the reference, tissue",
    "lab_wasserstein_nuclei": "within nuclei",
    "lab_wasserstein_stroma": "within stroma",
    "nmi": "NMI of each slide",
}


@dataclass(frozen=True)
class Request:
    """Arguments of `wsi-stain evaluate cohort`.

    Attributes:
        cohort: The output directory of a run, or a tile store.
        reference: Tile store of the reference; None takes what the run kept of it.
        checkpoint: A trained generator to compare.
        modes: Modes to compare it in.
        baselines: Which classical methods to compare; none named means all.
        out: Where results go.
        config: Where the work runs.
    """

    cohort: StoragePath
    reference: StoragePath | None
    checkpoint: Path | None
    modes: Sequence[str]
    baselines: Sequence[str]
    out: Path
    config: RunConfig


def run(request: Request, console: Console) -> int:
    """Compare, print, write.

    Returns:
        0, or 3 when some slides were left out.

    Raises:
        ConfigError: There is neither a run nor a tile store.
        SlideError: No slide can be judged.
    """
    require_extras()
    trained_methods, references = (
        checkpoint_methods(request.checkpoint, request.modes, request.config.executor),
        _references(request),
    )
    with (
        lease(request.out),
        Progress(console) as progress,
        open_executor(request.config.executor, request.out / "logs") as executor,
    ):
        Workspace(request.out).mark()
        compared_with = None
        if references:
            compared_with = request.out / "work" / "reference.npz"
            save_reference(compared_with, references, measure_classical_reference("macenko", references).stain)
        else:
            progress.report(
                "no reference: only the spread over slides is measured; give --reference STORE for distances to it"
            )
        tasks = _tasks(
            request, [*baselines(references, request.baselines, request.out), *trained_methods], compared_with
        )
        named = {
            name: Task(score_slide, task, "score", WHOLE_SLIDE, scoring_pool(task.methods))
            for name, task in tasks.items()
        }
        receipts = receipts_of(executor, named, progress)
    if not receipts:
        raise SlideError(f"None of the {len(tasks)} slides could be judged", "See the reasons above")
    _write_results(request, references, list(receipts.values()), console)
    return 0 if len(receipts) == len(tasks) else 3


def _references(request: Request) -> list[StoredSlide]:
    """Return the reference's slides: as given, or as the run kept them; none where it was given a checkpoint."""
    if request.reference is not None:
        return find_usable_slides(request.reference).slides
    kept = Workspace(Path(request.cohort)).reference if isinstance(request.cohort, Path) else None
    return find_usable_slides(kept).slides if kept is not None and kept.exists() else []


def _tasks(request: Request, methods: Sequence[Method], reference: Path | None) -> dict[str, CohortTask]:
    """Make a task for each slide of a run or of a tile store."""
    shared: dict[str, Any] = {"methods": methods, "reference": reference}
    strips = request.out / "strips"
    if isinstance(request.cohort, Path) and (request.cohort / "summary.csv").exists():
        return {
            row["slide"]: CohortTask(
                name=row["slide"],
                finished=Workspace(request.cohort).slide(row["slide_id"]),
                pyramid=_pyramid(request.cohort, row),
                strip=strips / f"{row['slide_id']}.png",
                **shared,
            )
            for row in read_summary(request.cohort / "summary.csv")
            if row["output"]
        }
    if isinstance(request.cohort, Path) and not (request.cohort / "zarr.json").exists():
        raise ConfigError(
            f"{request.cohort} is neither the output directory of a finished run nor a tile store",
            "Give --out of an earlier `wsi-stain run` or `normalize`, or a store made by `wsi-stain tile`",
        )
    return {
        slide.record.relative: CohortTask(
            name=slide.record.relative, stored=slide.path, strip=strips / f"{slide.slide_id}.png", **shared
        )
        for slide in find_usable_slides(request.cohort).slides
    }


def _pyramid(out: Path, row: dict[str, str]) -> Path:
    """Return the slide's OME-TIFF; OutputError where it has none."""
    outputs = [row["output"], *row["other_outputs"].split("; ")]
    for output in outputs:
        if output.endswith(".ome.tif"):
            return out / output
    raise OutputError(
        f"{row['slide']} was not written as OME-TIFF", "Run the same command again with --format ome-tiff as well"
    )


def _write_results(
    request: Request, references: Sequence[StoredSlide], receipts: Sequence[SlideScores], console: Console
) -> None:
    rows, out = summarize(receipts), request.out
    slides = [{"slide": receipt["name"], "methods": receipt["scores"]} for receipt in receipts]
    print_scores(rows, HEADINGS, console)
    write_scores(out / "cohort.csv", rows)
    facts = {
        "cohort": request.cohort.name,
        "reference": [slide.record.relative for slide in references],
        "checkpoint": checkpoint_facts(request.checkpoint),
    }
    write_record(out / "cohort.json", rows, facts, slides)
    panels = {
        title: {
            name: [s["scores"][name][score] for s in receipts if score in s["scores"].get(name, {})] for name in rows
        }
        for score, title in _PANELS.items()
    }
    write_points(out / "cohort.png", {title: points for title, points in panels.items() if any(points.values())})
    print_files(out, console)
