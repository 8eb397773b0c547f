"""The `run` command: tile and train on the reference, then tile, normalize and stitch every slide, then report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from pipelines.normalization.context import RunContext
from pipelines.normalization.flow import collect_rows, normalize_flow, reuse_flow
from pipelines.normalization.rows import failed_row
from pipelines.normalization.target import NormalizationTarget, choose_classical_reference
from pipelines.run_directory.run_record import write_results, write_run_record
from pipelines.run_directory.workspace import Workspace, output_stems
from pipelines.shared.auto_reference import choose_auto_reference, choose_of_inspected
from pipelines.shared.config import RunConfig
from pipelines.shared.device import own_device, resolve_auto
from pipelines.shared.formats import check_formats
from pipelines.shared.inspection import SlideInspection, inspect_slides, print_plan
from pipelines.shared.messages import print_line, print_warning
from pipelines.shared.preflight import CheckFits, find_misfit, open_all
from pipelines.shared.progress import Progress
from pipelines.shared.scanner_groups import group_by_scanner
from pipelines.shared.slide_lists import find_slides_and_references
from pipelines.shared.space import DiskSpace, describe_shortage, plan_bytes, run_tile_bytes, stored_tile_bytes
from pipelines.tile import tile_flow, tile_slides
from wsi_stain.core.errors import ConfigError, SlideError
from wsi_stain.core.geometry import Mpp
from wsi_stain.core.journal import remove_partials
from wsi_stain.core.lease import lease
from wsi_stain.core.storage import real_path
from wsi_stain.executor import OPENING, SURVEYING, Executor, Flow, Task, open_executor, run_flows, single_task
from wsi_stain.laboratories.named import NamedLaboratory
from wsi_stain.pix2pix.checkpoint import read_contract
from wsi_stain.results import SlideRow
from wsi_stain.results.finished import load_finished
from wsi_stain.slides.listing.find import SlideSource
from wsi_stain.stain.pool import pool_by_group
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.store import StoredSlide, TiledSlide, TileStore
from wsi_stain.tiling.config import TilingConfig
from wsi_stain.tiling.inspect import InspectTask, identify_slide
from wsi_stain.tiling.streamed_slide import StreamTask, drop_survey, load_streamed, stream_slide


@dataclass(frozen=True)
class Request:
    """Arguments of `wsi-stain run`: references to train on, or one that the cohort gives, or a checkpoint.

    Or, the other way round, a laboratory that the slides are shown as.
    """

    slides: Sequence[Path]
    references: Sequence[Path]
    checkpoint: Path | None
    out: Path
    config: RunConfig
    masks: Path | None = None
    auto_reference: bool = False
    laboratory: NamedLaboratory | None = None

    def find_sources(self, warn: Callable[[str], None]) -> tuple[list[SlideSource], list[SlideSource]]:
        """Find the slides to do, and those named as references; nothing is learnt where a checkpoint is given."""
        references = () if self.checkpoint is not None else self.references
        return find_slides_and_references(self.slides, references, self.out, self.masks, warn)


@dataclass(frozen=True)
class Job:
    """One slide to do: where its tiles go, and under which name.

    Attributes:
        source: The slide as it is listed: its row, its outputs.
        tiled_as: The slide as its store knows it; a reference keeps its own name there.
        store: The tile store; None reads the tiles from the slide's file.
        survey: Where a slide that is not tiled keeps its survey.
        keep_tiles: Whether the tiles stay when the outputs are written.
    """

    source: SlideSource
    tiled_as: SlideSource
    store: Path | None
    survey: Path
    keep_tiles: bool

    def tiles_flow(self, config: TilingConfig, report: Callable[[str], None]) -> Flow[TiledSlide]:
        """Tile or survey the slide; nothing to do where that is done.

        Returns:
            The slide, ready to be normalized.
        """
        if self.store is not None:
            yield from tile_flow(self.tiled_as, self.store, config, report)
            return TileStore(self.store)[self.tiled_as.slide_id]
        receipt = yield from single_task(
            Task(stream_slide, StreamTask(self.tiled_as, config, self.survey), "survey", SURVEYING)
        )
        if receipt["redone_because"] is not None:
            report(f"{self.source.relative}: surveyed again, because {receipt['redone_because']}")
        return load_streamed(self.survey, self.tiled_as, config)

    def remove_intermediates(self) -> None:
        """Remove what only the making of the outputs needed."""
        if self.store is None:
            drop_survey(self.survey)
        elif not self.keep_tiles:
            TileStore(self.store).remove_slide(self.tiled_as.slide_id)


def plan(request: Request, progress: Progress) -> list[SlideInspection]:
    """Inspect each slide; nothing is written.

    Raises:
        ConfigError: There are no slides, or neither a reference nor a checkpoint.
    """
    _check(request)
    sources, _ = request.find_sources(progress.warn)
    tiling, executor = request.config.tiling, request.config.executor
    found = inspect_slides(sources, tiling, executor, progress, stain=request.auto_reference)
    fits = _check_fits(request)
    return [
        replace(slide, error=slide.error or (find_misfit(slide.facts["mpp"], fits) if slide.facts else None))
        for slide in found
    ]


def show_plan(request: Request, console: Console) -> int:
    """Print the plan; 3 when some slide cannot be used."""
    with Progress(console) as progress:
        inspections = plan(request, progress)
        tiles = [inspection.tiles for inspection in inspections]
        progress.warn(describe_shortage(request.out, plan_bytes(tiles, request.config)))
    if request.auto_reference:
        usable = [inspection for inspection in inspections if inspection.source.split != "test"]
        print_line(console, f"reference: {choose_of_inspected(usable).reason}")
    return print_plan(inspections, console, request.config.formats)


def run(request: Request, console: Console) -> int:
    """Do everything; what an earlier run of the same command finished is kept.

    Returns:
        0, or 3 when some slides failed.
    """
    given = _check(request)
    sources, references = request.find_sources(partial(print_warning, console))
    workspace, config = Workspace(request.out), request.config
    with (
        lease(request.out) as check_lease,
        Progress(console) as progress,
        open_executor(config.executor, workspace.logs) as executor,
    ):
        remove_partials(request.out)
        workspace.mark()
        choice = None
        if request.auto_reference:
            kept = workspace.reference_choice
            reference, choice = choose_auto_reference(executor, sources, config.tiling, kept, progress)
            references = [reference]
        elsewhere = _ids_among(sources, references)
        opened = open_all(executor, sources, config.tiling, progress, elsewhere, _check_fits(request))
        unusable = opened.unusable
        sources, group_facts = group_by_scanner(sources, opened.scanners, config.group, progress)
        jobs = _jobs(sources, references, workspace, config)
        target = given or _prepare_target(request, references, workspace, executor, progress)
        progress.warn(target.check_quality(config.accept_poor_checkpoint))
        config = resolve_auto(config, executor)
        facts = {**target.facts, **group_facts, "reference_choice": choice.model_dump(mode="json") if choice else None}
        write_run_record(workspace, sources, config, facts)
        stems = output_stems(sources, config.portable_names)
        space = DiskSpace(request.out, run_tile_bytes(config), config.space_wait_s, progress.report)
        context = RunContext(workspace, target, config, stems, check_lease, progress.report, space)
        if config.stores_tiles:
            TileStore.create(workspace.tiles)
        usable = [job for job in jobs if job.source.slide_id not in unusable]
        context = replace(context, group_stains=measure_group_stains(context, usable, executor, progress))
        flows = {job.source.slide_id: slide_flow(context, job) for job in usable}
        rows = collect_rows(executor, flows, [job.source for job in usable], progress, space)
        by_id = {row.slide_id: row for row in rows}
        check_lease()
        remove_partials(request.out)  # of workers that were killed amid slides that failed
        return write_results(
            workspace,
            [by_id.get(name) or failed_row(source, unusable[name], 0.0) for name, source in _by_id(sources).items()],
            console,
        )


def measure_group_stains(
    context: RunContext, jobs: Sequence[Job], executor: Executor, progress: Progress
) -> dict[str, StainStatistics]:
    """Measure the pooled stain of slides that share a group: these are all tiled before any is normalized.

    A slide that fails is left out; its own flow will say why.
    """
    groups = {job.source.slide_id: job.source.group for job in jobs}
    counts = Counter(group for group in groups.values() if group)
    shared = {group: count for group, count in counts.items() if count > 1}
    flows = {job.source.slide_id: _stain_flow(context, job) for job in jobs if job.source.group in shared}
    results = run_flows(executor, flows, progress.on_tasks, progress.on_done, progress.on_wait)
    stains = {result.key: result.value for result in results if result.value}
    for group, count in shared.items():
        progress.report(f"stain is measured for the {count} slides of the group {group} together")
    return pool_by_group(stains, groups)


def _stain_flow(context: RunContext, job: Job) -> Flow[StainStatistics | None]:
    """Return a slide's own stain: as it was measured when the slide was finished, or on its tiles."""
    tiling = context.config.tiling
    identity = yield from single_task(Task(identify_slide, InspectTask(job.tiled_as, tiling), "identify", OPENING))
    finished = load_finished(context.workspace.slide(job.source.slide_id))
    if finished and finished.origin.tiles_key == identity["key"]:
        return finished.origin.stain
    slide = yield from job.tiles_flow(tiling, context.report)
    return slide.stain


def slide_flow(context: RunContext, job: Job) -> Flow[SlideRow]:
    """Take one slide from its file to its outputs; what was done before under the same key is kept.

    Args:
        context: What all slides of the run share.
        job: The slide.

    Returns:
        The slide's row.
    """
    started, tiling, row = time.monotonic(), context.config.tiling, None
    if context.outputs(job.source.slide_id, "").has_any:
        identity = yield from single_task(Task(identify_slide, InspectTask(job.tiled_as, tiling), "identify", OPENING))
        row = yield from reuse_flow(context, job.source, identity)
    if row is None:
        slide = yield from job.tiles_flow(tiling, context.report)
        row = yield from normalize_flow(context, slide, job.source, started, job.source.path)
    job.remove_intermediates()
    return row


def _check(request: Request) -> NormalizationTarget | None:
    """Refuse what the method cannot use, before any work; returns the checkpoint that Pix2Pix was given."""
    if (request.config.normalize.method == "simulated") != (request.laboratory is not None):
        raise ConfigError("The method `simulated` is that of wsi-stain simulate alone", "Choose another --method")
    targets = request.references, request.auto_reference, request.checkpoint, request.laboratory
    if not any(targets):
        raise ConfigError("There is nothing to normalize to", "Give --reference SLIDE (or auto), or --checkpoint FILE")
    if request.auto_reference and (request.references or request.checkpoint is not None):
        raise ConfigError("--reference auto stands beside another reference or a checkpoint", "Give one of them")
    check_formats(request.config.formats)
    method = request.config.normalize.method
    if request.checkpoint is None:
        return None
    if method != "pix2pix":
        choose_classical_reference(method, request.checkpoint, ())
        return None
    if (mpp := request.config.tiling.slide.mpp) is not None:
        read_contract(request.checkpoint).check_fits(Mpp(mpp, mpp))
    return NormalizationTarget.load(request.checkpoint)


def _check_fits(request: Request) -> CheckFits | None:
    """Return the check of resolutions by the checkpoint that Pix2Pix was given, if it was."""
    if request.checkpoint is None or request.config.normalize.method != "pix2pix":
        return None
    return read_contract(request.checkpoint).check_fits


def _prepare_target(
    request: Request, references: Sequence[SlideSource], workspace: Workspace, executor: Executor, progress: Progress
) -> NormalizationTarget:
    """Train on the references, or measure on them or take from the checkpoint what a classical method needs."""
    if request.laboratory is not None:
        return NormalizationTarget.of_laboratory(request.laboratory, workspace.laboratory)
    method, slides = request.config.normalize.method, []
    if request.checkpoint is None:
        slides = _tile_references(references, workspace, request.config, executor, progress)
    if method != "pix2pix":
        reference = choose_classical_reference(method, request.checkpoint, slides)
        return NormalizationTarget.of_classical(reference, workspace.classical_reference)
    from pipelines.train import ensure_checkpoint  # loads all of training, which a run with a checkpoint does without

    device = own_device(request.config.executor)
    checkpoint = ensure_checkpoint(slides, request.config.training, workspace.training, progress, device)
    return NormalizationTarget.load(checkpoint)


def _tile_references(
    references: Sequence[SlideSource],
    workspace: Workspace,
    config: RunConfig,
    executor: Executor,
    progress: Progress,
) -> list[StoredSlide]:
    """Tile the references into their store; SlideError where one cannot be used."""
    store = TileStore.create(workspace.reference)
    space = DiskSpace(workspace.reference, stored_tile_bytes(config), config.space_wait_s, progress.report)
    for result in tile_slides(executor, references, workspace.reference, config.tiling, progress, space):
        if result.error is not None:
            raise SlideError(
                f"The reference {result.key} cannot be used: {result.error}", "Choose another reference"
            ) from result.error
    return [store[source.slide_id] for source in references]


def _jobs(
    sources: Sequence[SlideSource], references: Sequence[SlideSource], workspace: Workspace, config: RunConfig
) -> list[Job]:
    """Make a job for each slide; a reference among them is taken from the references' store, not tiled twice."""
    tiled: Mapping[Path, SlideSource] = {real_path(source.path): source for source in references}
    jobs = []
    for source in sources:
        reference_slide = tiled.get(real_path(source.path))
        store = workspace.reference if reference_slide else workspace.tiles if config.stores_tiles else None
        survey = workspace.survey(source.slide_id)
        jobs.append(
            Job(source, reference_slide or source, store, survey, config.keep_tiles or reference_slide is not None)
        )
    return jobs


def _ids_among(sources: Sequence[SlideSource], references: Sequence[SlideSource]) -> set[str]:
    """Return the ids of slides that are references too."""
    paths = {real_path(reference.path) for reference in references}
    return {source.slide_id for source in sources if real_path(source.path) in paths}


def _by_id(sources: Sequence[SlideSource]) -> dict[str, SlideSource]:
    return {source.slide_id: source for source in sources}
