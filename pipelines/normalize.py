"""The `normalize` command: slides of a tile store, slide files (which are streamed), or patches (imported first)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from glob import has_magic
from pathlib import Path

from rich.console import Console

from pipelines import import_patches
from pipelines import run as run_pipeline
from pipelines.normalization.context import RunContext
from pipelines.normalization.flow import collect_rows, normalize_flow, reuse_flow
from pipelines.normalization.rows import failed_row
from pipelines.normalization.store_flow import To, store_flow
from pipelines.normalization.target import NormalizationTarget, choose_classical_reference
from pipelines.run_directory.run_record import summarize, write_results, write_run_record
from pipelines.run_directory.usable_slides import UsableSlides, find_usable_slides
from pipelines.run_directory.workspace import Workspace, output_stems
from pipelines.shared.config import RunConfig
from pipelines.shared.device import resolve_auto
from pipelines.shared.formats import check_formats
from pipelines.shared.inspection import describe_outputs
from pipelines.shared.messages import print_line
from pipelines.shared.progress import Progress
from pipelines.shared.space import DiskSpace, describe_shortage, plan_bytes, run_tile_bytes, stored_tile_bytes
from wsi_stain.core.errors import ConfigError
from wsi_stain.core.journal import remove_partials
from wsi_stain.core.lease import lease
from wsi_stain.core.storage import StoragePath, real_path
from wsi_stain.executor import Flow, open_executor
from wsi_stain.results import SlideRow
from wsi_stain.slides.listing.find import SlideSource
from wsi_stain.slides.parts import is_zarr_image
from wsi_stain.stain.pool import pool_by_group
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.store import StoredSlide


@dataclass(frozen=True)
class Request:
    """Arguments of `wsi-stain normalize`: Pix2Pix takes a checkpoint, a classical method also a tile store.

    Attributes:
        source: A tile store, slides, or a directory of patches.
        checkpoint: A trained checkpoint.
        reference: The reference's tile store, for a classical method.
        out: The output directory.
        config: How to normalize, and where the work runs.
        to: What is made: pyramids, a tile store, or pictures of patches; None takes pictures of patches, else pyramids.
        patch_mpp: Resolution of the patches in `source`, um per px; None where it holds none.
        labelled: Whether a patch's folder is its label; else it is its slide.
    """

    source: StoragePath
    checkpoint: Path | None
    reference: StoragePath | None
    out: Path
    config: RunConfig
    to: To | None = None
    patch_mpp: float | None = None
    labelled: bool = True


@dataclass(frozen=True)
class Plan:
    """The slides of a tile store, and what they are normalized to.

    Attributes:
        usable: Its slides, and those that are damaged.
        target: The checkpoint; None where a classical method is fitted first.
    """

    usable: UsableSlides
    target: NormalizationTarget | None


def plan(request: Request) -> Plan:
    """Find the slides of a tile store and check the reference; nothing is written.

    Raises:
        StoreError: There is no store, or no complete slide in it.
        CheckpointError: The checkpoint is none, or is damaged.
        ConfigError: A format cannot be written here, or there is no reference that the method can be had from.
    """
    target = _check_reference(request)
    check_formats(request.config.formats)
    return Plan(find_usable_slides(request.source), target)


def show_plan(request: Request, console: Console) -> int:
    """Print what would be normalized; 3 when some of it cannot be."""
    if request.patch_mpp is not None:
        return import_patches.show_plan(_import_request(request, request.patch_mpp), console)
    if _holds_slides(request.source):
        return run_pipeline.show_plan(_run_request(request), console)
    usable = plan(request).usable
    for slide in usable.slides:
        size = f"{slide.size.width} x {slide.size.height} px at {slide.mpp.mean:.4g} um/px"
        print_line(console, f"{slide.record.slide_id}: {int(slide.kept.sum())} tiles, {size}")
    for slide_id, error in usable.damaged.items():
        print_line(console, f"{slide_id}: {error}")
    tiles = sum(int(slide.kept.sum()) for slide in usable.slides)
    print_line(console, describe_outputs(tiles, len(usable.slides), request.config.formats))
    return 3 if usable.damaged else 0


def run(request: Request, console: Console) -> int:
    """Normalize whatever the source is.

    Returns:
        0, or 3 when some slides or patches failed.
    """
    if request.patch_mpp is not None:
        importing = _import_request(request, request.patch_mpp)
        _check_reference(request)
        code = import_patches.run(importing, console)
        request = replace(request, source=importing.store, to=request.to or "images")
        return max(code, _normalize_store(request, console))
    if _holds_slides(request.source):
        return run_pipeline.run(_run_request(request), console)
    return _normalize_store(request, console)


def _normalize_store(request: Request, console: Console) -> int:
    """Normalize every slide of a tile store; returns the exit code."""
    workspace, planned = Workspace(request.out), plan(request)
    slides, damaged = planned.usable.slides, planned.usable.damaged
    sources = [_source(slide) for slide in slides]
    with (
        lease(request.out) as check_lease,
        Progress(console) as progress,
        open_executor(request.config.executor, workspace.logs) as executor,
    ):
        remove_partials(request.out)
        workspace.mark()
        config = resolve_auto(request.config, executor)
        target = planned.target or _fit_classical(request, workspace)
        progress.warn(target.check_quality(config.accept_poor_checkpoint))
        write_run_record(workspace, [*sources, *map(_unknown_source, damaged)], config, target.facts)
        space = _find_space(request, config, slides, progress)
        stems, stains = output_stems(sources, config.portable_names), _pool_stains(slides)
        context = RunContext(workspace, target, config, stems, check_lease, progress.report, space, stains)
        flows = {
            source.slide_id: _flow(context, request.to, slide, source)
            for slide, source in zip(slides, sources, strict=True)
        }
        rows = collect_rows(executor, flows, sources, progress, space)
        for slide_id, error in damaged.items():
            progress.report(f"{slide_id}: failed: {error}")
            rows.append(failed_row(_unknown_source(slide_id), error, seconds=0))
        check_lease()
        remove_partials(request.out)  # of workers that were killed amid slides that failed
        if request.to in (None, "pyramids"):
            return write_results(workspace, rows, console)
        folder = workspace.patches if request.to == "images" else workspace.normalized_tiles
        print_line(console, f"{request.to}: {folder}")
        return summarize(workspace, rows, console)


def _find_space(request: Request, config: RunConfig, slides: Sequence[StoredSlide], progress: Progress) -> DiskSpace:
    """Find the room for what is made of a store's slides, and warn where it does not suffice."""
    tiles = [int(slide.kept.sum()) for slide in slides]
    if request.to in (None, "pyramids"):
        beside = config.model_copy(update={"stream": True, "keep_tiles": False})  # the tiles are there already
        tile_bytes, needed = run_tile_bytes(beside), plan_bytes(tiles, beside)
    else:
        tile_bytes = stored_tile_bytes(config)
        needed = tile_bytes * sum(tiles)
    progress.warn(describe_shortage(request.out, needed))
    return DiskSpace(request.out, tile_bytes, config.space_wait_s, progress.report)


def _flow(context: RunContext, to: To | None, slide: StoredSlide, source: SlideSource) -> Flow[SlideRow]:
    started = time.monotonic()
    if to not in (None, "pyramids"):
        return (yield from store_flow(context, slide, source, started, images=to == "images"))
    row = yield from reuse_flow(context, source, slide.record.identity)
    return row or (yield from normalize_flow(context, slide, source, started))


def _check_reference(request: Request) -> NormalizationTarget | None:
    """Refuse what the method cannot use, before any work; returns the checkpoint that Pix2Pix needs."""
    method = request.config.normalize.method
    if request.checkpoint is not None and request.reference is not None:
        raise ConfigError("Both --checkpoint and --reference were given", "Give one of them")
    if method == "pix2pix":
        if request.checkpoint is None:
            raise ConfigError(
                "Pix2Pix needs a trained generator",
                "Give --checkpoint FILE, or a classical --method such as macenko with --reference STORE",
            )
        target = NormalizationTarget.load(request.checkpoint)
        target.check_quality(request.config.accept_poor_checkpoint)
        return target
    if request.checkpoint is not None:
        choose_classical_reference(method, request.checkpoint, ())
    elif request.reference is None:
        raise ConfigError(f"There is no reference for --method {method}", "Give --reference STORE")
    else:
        find_usable_slides(request.reference)
    return None


def _fit_classical(request: Request, workspace: Workspace) -> NormalizationTarget:
    """Measure what a classical method needs, on the reference's slides or from the checkpoint."""
    method = request.config.normalize.method
    assert method != "pix2pix"
    references = _references(request.reference) if request.reference is not None else []
    reference = choose_classical_reference(method, request.checkpoint, references)
    return NormalizationTarget.of_classical(reference, workspace.classical_reference)


def _references(store: StoragePath) -> list[StoredSlide]:
    """Return the slides of the reference's store but those set aside for testing; StoreError where one is damaged."""
    usable = find_usable_slides(store)
    for error in usable.damaged.values():
        raise error
    return [slide for slide in usable.slides if slide.record.split != "test"]


def _import_request(request: Request, mpp: float) -> import_patches.Request:
    directory = request.source
    if not isinstance(directory, Path) or not directory.is_dir():
        raise ConfigError(f"{directory} is no directory of patches", "Leave out --patch-mpp for stores and slides")
    if real_path(request.out).is_relative_to(real_path(directory)):
        raise ConfigError(f"The output directory {request.out} lies among the patches", "Choose another --out")
    store = Workspace(request.out).imported_patches
    return import_patches.images(directory, store, mpp, request.labelled, request.config)


def _holds_slides(source: StoragePath) -> bool:
    """Return whether a source holds slides: it exists, and is no Zarr but for an OME-Zarr image."""
    if not isinstance(source, Path):
        return False
    if (source / "zarr.json").exists():
        return is_zarr_image(source)
    return source.exists() or has_magic(str(source))


def _run_request(request: Request) -> run_pipeline.Request:
    """Return the same as a run that stores no tiles."""
    if request.to not in (None, "pyramids"):
        raise ConfigError(f"--to {request.to} needs tiles, got slides", "Tile them first: wsi-stain tile")
    if request.reference is not None:
        raise ConfigError("--reference was given with slides", "Use wsi-stain run --method, which takes slides for it")
    config = request.config.model_copy(update={"stream": True})
    return run_pipeline.Request([Path(str(request.source))], [], request.checkpoint, request.out, config)


def _unknown_source(slide_id: str) -> SlideSource:
    """Return the list entry of a slide of which only its name in the store is known."""
    return SlideSource(path=Path(slide_id), slide_id=slide_id, relative=slide_id)


def _source(slide: StoredSlide) -> SlideSource:
    """Return a stored slide as its list entry: enough to name its row and its pyramid."""
    record = slide.record
    return SlideSource(path=Path(record.relative), slide_id=record.slide_id, relative=record.relative)


def _pool_stains(slides: Sequence[StoredSlide]) -> dict[str, StainStatistics]:
    records = {slide.record.slide_id: slide.record for slide in slides}
    stains = {slide_id: record.stain for slide_id, record in records.items() if record.stain}
    return pool_by_group(stains, {slide_id: record.group for slide_id, record in records.items()})
