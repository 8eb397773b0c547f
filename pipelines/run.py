"""The `run` command: tile and train on the reference, then tile, normalize and stitch every slide, then report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from pipelines.normalization.tasks import Normalization
from pipelines.normalization.tile_store import collect_rows, normalize_flow, reuse_flow
from pipelines.run_directory.run_record import failed_row, write_results, write_run_record
from pipelines.run_directory.workspace import Workspace, output_stems
from pipelines.shared.config import RunConfig
from pipelines.shared.device import own_device, resolve_auto
from pipelines.shared.inspection import SlideInspection, inspect_slides, print_plan
from pipelines.shared.preflight import find_unusable
from pipelines.shared.progress import Progress
from pipelines.shared.slide_outputs import check_formats
from pipelines.shared.target import NormalizationTarget, choose_classical_reference
from pipelines.tile import tile_flow, tile_slides
from pipelines.train import ensure_checkpoint
from wsi_stain.core.errors import ConfigError, SlideError
from wsi_stain.core.geometry import Mpp
from wsi_stain.core.journal import remove_partials
from wsi_stain.core.lease import lease
from wsi_stain.executor import Executor, Flow, Task, open_executor, run_flows, single_task
from wsi_stain.pix2pix.checkpoint import read_contract
from wsi_stain.results import SlideRow
from wsi_stain.results.finished import load_finished
from wsi_stain.slides.find import SlideSource, find_slides, merge_details
from wsi_stain.stain.pool import pool_by_group
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.store import TiledSlide, TileStore
from wsi_stain.tiling.config import TilingConfig
from wsi_stain.tiling.inspect import InspectTask, identify_slide
from wsi_stain.tiling.streamed_slide import StreamTask, drop_survey, load_streamed, stream_slide


@dataclass(frozen=True)
class Request:
    """What `wsi-stain run` was asked for: a reference to train on, or a checkpoint."""

    slides: Sequence[Path]
    references: Sequence[Path]
    checkpoint: Path | None
    out: Path
    config: RunConfig
    masks: Path | None = None


@dataclass(frozen=True)
class Job:
    """One slide to do: where its tiles go, and under which name.

    Attributes:
        source: The slide as it is listed: its row, its products.
        tiled_as: The slide as its store knows it; a reference keeps its own name there.
        store: The tile store; None reads the tiles from the slide's file.
        survey: Where a slide that is not tiled keeps its survey.
        keep_tiles: Whether the tiles stay when the products are written.
    """

    source: SlideSource
    tiled_as: SlideSource
    store: Path | None
    survey: Path
    keep_tiles: bool

    def tiles_flow(self, config: TilingConfig, report: Callable[[str], None]) -> Flow[TiledSlide]:
        """Tile or survey the slide; nothing to do where that stands.

        Returns:
            The slide, ready to be normalized.
        """
        if self.store is not None:
            yield from tile_flow(self.tiled_as, self.store, config, report)
            return TileStore(self.store)[self.tiled_as.slide_id]
        receipt = yield from single_task(Task(stream_slide, StreamTask(self.tiled_as, config, self.survey), "survey"))
        if receipt["redone_because"] is not None:
            report(f"{self.source.relative}: surveyed again, because {receipt['redone_because']}")
        return load_streamed(self.survey, self.tiled_as, config)

    def tidy(self) -> None:
        """Remove what only the making of the products needed."""
        if self.store is None:
            drop_survey(self.survey)
        elif not self.keep_tiles:
            TileStore(self.store).remove_slide(self.tiled_as.slide_id)


def plan(request: Request, progress: Progress) -> list[SlideInspection]:
    """Look at each slide; nothing is written.

    Raises:
        ConfigError: There are no slides, or neither a reference nor a checkpoint.
    """
    _check(request)
    sources, _ = slides_and_references(request)
    return inspect_slides(sources, request.config.tiling, request.config.executor, progress)


def show_plan(request: Request, console: Console) -> int:
    """Print the plan; 3 when some slide cannot be used."""
    with Progress(console) as progress:
        inspections = plan(request, progress)
    return print_plan(inspections, console, request.config.formats)


def run(request: Request, console: Console) -> int:
    """Do everything; what an earlier run of the same command finished is kept.

    Returns:
        0, or 3 when some slides failed.
    """
    _check(request)
    sources, references = slides_and_references(request)
    workspace, config = Workspace(request.out), request.config
    with (
        lease(request.out) as check,
        Progress(console) as progress,
        open_executor(config.executor) as executor,
    ):
        remove_partials(request.out)
        workspace.mark()
        jobs = _jobs(sources, references, workspace, config)
        tiled_here = [job.source for job in jobs if job.store != workspace.reference]
        refused = find_unusable(executor, tiled_here, config.tiling, progress)
        target = _prepare_target(request, references, workspace, executor, progress)
        config = resolve_auto(config, executor)
        write_run_record(workspace, sources, config, target)
        shared = Normalization(workspace, target, config, output_stems(sources), check, progress.report)
        if not config.stream:
            TileStore.create(workspace.tiles)
        usable = [job for job in jobs if job.source.slide_id not in refused]
        shared = replace(shared, stains=group_stains(executor, usable, shared, progress))
        rows = _rows(executor, jobs, refused, shared, progress)
        check()
        return write_results(workspace, rows, console)


def _rows(
    executor: Executor, jobs: Sequence[Job], refused: Mapping[str, Exception], shared: Normalization, progress: Progress
) -> list[SlideRow]:
    """Do the slides that open, and give each slide its row, in their order."""
    usable = [job for job in jobs if job.source.slide_id not in refused]
    flows = {job.source.slide_id: slide_flow(job, shared) for job in usable}
    done = {row.slide_id: row for row in collect_rows(executor, flows, [job.source for job in usable], progress)}
    sources = [job.source for job in jobs]
    return [done.get(source.slide_id) or failed_row(source, refused[source.slide_id], 0.0) for source in sources]


def group_stains(
    executor: Executor, jobs: Sequence[Job], shared: Normalization, progress: Progress
) -> dict[str, StainStatistics]:
    """What to take for the stain of slides that share a group: these are all tiled before any is normalized.

    A slide that fails is left out; its own flow will say why.
    """
    groups = {job.source.slide_id: job.source.group for job in jobs}
    count = Counter(group for group in groups.values() if group)
    shared_by = {group: number for group, number in count.items() if number > 1}
    flows = {job.source.slide_id: _stain_flow(job, shared) for job in jobs if job.source.group in shared_by}
    results = run_flows(executor, flows, progress.on_tasks, progress.on_done)
    stains = {result.key: result.value for result in results if result.value}
    for group, number in shared_by.items():
        progress.report(f"stain is measured for the {number} slides of the group {group} together")
    return pool_by_group(stains, groups)


def _stain_flow(job: Job, shared: Normalization) -> Flow[StainStatistics | None]:
    """A slide's own stain: as it was measured when the slide was finished, or on its tiles."""
    tiling = shared.config.tiling
    known = yield from single_task(Task(identify_slide, InspectTask(job.tiled_as, tiling), "identify"))
    kept = load_finished(shared.workspace.slide(job.source.slide_id))
    if kept and kept.origin.tiles_key == known["key"]:
        return kept.origin.stain
    slide = yield from job.tiles_flow(tiling, shared.report)
    return slide.stain


def slide_flow(job: Job, shared: Normalization) -> Flow[SlideRow]:
    """Take one slide from its file to its products; what was done before under the same key is kept.

    Args:
        job: The slide.
        shared: What all slides of the run share.

    Returns:
        The slide's row.
    """
    started, tiling, slide_id = time.monotonic(), shared.config.tiling, job.source.slide_id
    row = None
    if shared.is_known(slide_id):
        known = yield from single_task(Task(identify_slide, InspectTask(job.tiled_as, tiling), "identify"))
        shaped = shared.shaped(slide_id)
        products = shaped.products(slide_id, shaped.key(slide_id, known["key"]))
        row = yield from reuse_flow(job.source, shaped, products)
        if row is None:
            products.forget()
    if row is None:
        slide = yield from job.tiles_flow(tiling, shared.report)
        row = yield from normalize_flow(slide, job.source, shared, started, job.source.path)
    job.tidy()
    return row


def slides_and_references(request: Request) -> tuple[list[SlideSource], list[SlideSource]]:
    """The slides to do and the references to train on; what either list says of a slide holds in both.

    Raises:
        ConfigError: There are no slides, or no references to learn from, or the lists contradict each other.
    """
    out = request.out.resolve()
    # Pyramids that an earlier run left among the slides are no slides.
    found = [
        source for source in find_slides(request.slides, request.masks) if not source.path.resolve().is_relative_to(out)
    ]
    if not found:
        raise ConfigError(f"All slides lie within the output directory {out}", "Choose another --out")
    if request.checkpoint is not None:
        return found, []
    references = merge_details(find_slides(request.references, request.masks), found)
    training_references = [reference for reference in references if reference.split != "test"]
    if not training_references:
        raise ConfigError("All references are of the split 'test', set aside for testing", "Name another --reference")
    return merge_details(found, references), training_references


def _check(request: Request) -> None:
    if not request.references and request.checkpoint is None:
        raise ConfigError("There is no style to normalize to", "Give --reference SLIDE, or --checkpoint FILE")
    method = request.config.normalize.method
    if request.checkpoint is not None and method != "pix2pix":
        choose_classical_reference(method, request.checkpoint, ())
    elif request.checkpoint is not None:
        contract = read_contract(request.checkpoint)
        if (mpp := request.config.tiling.slide.mpp) is not None:
            contract.check_fits(Mpp(mpp, mpp))
    check_formats(request.config.formats)


def _prepare_target(
    request: Request, references: Sequence[SlideSource], workspace: Workspace, executor: Executor, progress: Progress
) -> NormalizationTarget:
    """The checkpoint given, or the one trained on the references; for a classical method what it takes from either."""
    method = request.config.normalize.method
    if request.checkpoint is not None:
        if method == "pix2pix":
            return NormalizationTarget.load(request.checkpoint)
        return NormalizationTarget.of_classical(
            choose_classical_reference(method, request.checkpoint, ()), workspace.classical_reference
        )
    TileStore.create(workspace.reference)
    for result in tile_slides(executor, references, workspace.reference, request.config.tiling, progress):
        if result.error is not None:
            raise SlideError(
                f"The reference {result.key} cannot be used: {result.error}", "Choose another reference"
            ) from result.error
    store = TileStore(workspace.reference)
    slides = [store[source.slide_id] for source in references]
    if method != "pix2pix":
        return NormalizationTarget.of_classical(
            choose_classical_reference(method, None, slides), workspace.classical_reference
        )
    device = own_device(request.config.executor)
    return NormalizationTarget.load(
        ensure_checkpoint(slides, request.config.training, workspace.training, progress, device)
    )


def _jobs(
    sources: Sequence[SlideSource], references: Sequence[SlideSource], workspace: Workspace, config: RunConfig
) -> list[Job]:
    """A job for each slide; one that is itself a reference is taken from the reference's store, not tiled twice."""
    tiled: Mapping[Path, SlideSource] = {source.path.resolve(): source for source in references}
    jobs = []
    for source in sources:
        reference_slide = tiled.get(source.path.resolve())
        store = workspace.reference if reference_slide else None if config.stream else workspace.tiles
        survey = workspace.survey(source.slide_id)
        jobs.append(
            Job(source, reference_slide or source, store, survey, config.keep_tiles or reference_slide is not None)
        )
    return jobs
