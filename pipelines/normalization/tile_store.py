"""The `normalize` command: re-stain the slides of a tile store with a trained checkpoint, or by a classical method."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from pipelines.normalization.store_flow import To, store_flow
from pipelines.normalization.tasks import Normalization
from pipelines.run_directory.run_record import (
    failed_row,
    finished_row,
    quality_fields,
    summarize,
    unfitted_colours_warning,
    write_results,
    write_run_record,
)
from pipelines.run_directory.usable_slides import UsableSlides, find_usable_slides
from pipelines.run_directory.workspace import Workspace, output_stems
from pipelines.shared.config import RunConfig
from pipelines.shared.device import resolve_auto
from pipelines.shared.inspection import describe_outputs
from pipelines.shared.progress import Progress, print_line
from pipelines.shared.slide_outputs import SlideOutputs, check_formats
from pipelines.shared.target import NormalizationTarget, choose_classical_reference
from wsi_stain.core.errors import ConfigError, LeaseError
from wsi_stain.core.journal import remove_partials
from wsi_stain.core.lease import lease
from wsi_stain.core.storage import StoragePath
from wsi_stain.executor import Executor, Flow, open_executor, run_flows, run_tasks
from wsi_stain.normalize.tasks import BlockReceipt, find_valid_block
from wsi_stain.report import load_pictures
from wsi_stain.results import SlideRow
from wsi_stain.results.finished import FinishedSlide, load_finished, save_finished
from wsi_stain.slides.find import SlideSource
from wsi_stain.stain.pool import pool_by_group
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.store import StoredSlide, TiledSlide


@dataclass(frozen=True)
class Request:
    """What `wsi-stain normalize` was asked for: Pix2Pix takes a checkpoint, a classical method also a tile store.

    Attributes:
        to: What is made: pyramids, which is the default, a tile store, or pictures of patches.
    """

    store: StoragePath
    checkpoint: Path | None
    reference: StoragePath | None
    out: Path
    config: RunConfig
    to: To | None = None


def plan(request: Request) -> UsableSlides:
    """The slides that would be normalized, and those that are damaged.

    Raises:
        StoreError: There is no store, or no complete slide in it.
        CheckpointError: The checkpoint is none, or is damaged.
        ConfigError: A format cannot be written here, or there is no reference that the method can be had from.
    """
    check_reference(request)
    check_formats(request.config.formats)
    return find_usable_slides(request.store)


def show_plan(request: Request, console: Console) -> int:
    """Print what would be normalized; 3 when some slide cannot be."""
    found = plan(request)
    for slide in found.slides:
        where = f"{slide.size.width} x {slide.size.height} px at {slide.mpp.mean:.4g} um/px"
        print_line(console, f"{slide.record.slide_id}: {int(slide.kept.sum())} tiles, {where}")
    for slide_id, error in found.damaged.items():
        print_line(console, f"{slide_id}: {error}")
    tiles = sum(int(slide.kept.sum()) for slide in found.slides)
    print_line(console, describe_outputs(tiles, request.config.formats))
    return 3 if found.damaged else 0


def run(request: Request, console: Console) -> int:
    """Normalize every slide of the store.

    Returns:
        0, or 3 when some slides failed.
    """
    workspace, found = Workspace(request.out), plan(request)
    sources = [_source(slide) for slide in found.slides]
    with (
        lease(request.out) as check,
        Progress(console) as progress,
        open_executor(request.config.executor) as executor,
    ):
        remove_partials(request.out)
        workspace.mark()
        config = resolve_auto(request.config, executor)
        target, stains = _load_target(request, workspace), _pool_stains(found.slides)
        write_run_record(workspace, [*sources, *map(_unknown_source, found.damaged)], config, target)
        shared = Normalization(workspace, target, config, output_stems(sources), check, progress.report, stains)
        flows = {
            source.slide_id: _flow(request.to, slide, source, shared)
            for slide, source in zip(found.slides, sources, strict=True)
        }
        rows = collect_rows(executor, flows, sources, progress) + _damaged_rows(found, progress)
        check()
        if request.to in (None, "pyramids"):
            return write_results(workspace, rows, console)
        where = workspace.patches if request.to == "images" else workspace.normalized_tiles
        print_line(console, f"{request.to}: {where}")
        return summarize(workspace, rows, console)


def _flow(to: To | None, slide: StoredSlide, source: SlideSource, shared: Normalization) -> Flow[SlideRow]:
    if to in (None, "pyramids"):
        return normalize_flow(slide, source, shared, time.monotonic())
    return store_flow(slide, source, shared, time.monotonic(), images=to == "images")


def check_reference(request: Request) -> None:
    """Refuse what the method cannot use, before any work."""
    method = request.config.normalize.method
    if request.checkpoint is not None and request.reference is not None:
        raise ConfigError("Both --checkpoint and --reference were given", "Give one of them")
    if method == "pix2pix":
        if request.checkpoint is None:
            raise ConfigError(
                "Pix2Pix needs a trained generator",
                "Give --checkpoint FILE, or a classical --method such as macenko with --reference STORE",
            )
        NormalizationTarget.load(request.checkpoint)
    elif request.checkpoint is not None:
        choose_classical_reference(method, request.checkpoint, ())
    elif request.reference is None:
        raise ConfigError(f"There is no reference for --method {method}", "Give --reference STORE")
    else:
        find_usable_slides(request.reference)


def _load_target(request: Request, workspace: Workspace) -> NormalizationTarget:
    method = request.config.normalize.method
    if method == "pix2pix":
        assert request.checkpoint is not None
        return NormalizationTarget.load(request.checkpoint)
    references = _references(request.reference) if request.reference is not None else []
    return NormalizationTarget.of_classical(
        choose_classical_reference(method, request.checkpoint, references), workspace.classical_reference
    )


def _references(store: StoragePath) -> list[StoredSlide]:
    """All slides of the reference's store but those set aside for testing; StoreError where one is damaged."""
    found = find_usable_slides(store)
    for error in found.damaged.values():
        raise error
    return [slide for slide in found.slides if slide.record.split != "test"]


def normalize_flow(
    slide: TiledSlide, source: SlideSource, shared: Normalization, started: float, file: Path | None = None
) -> Flow[SlideRow]:
    """Normalize one slide into its products.

    Args:
        slide: Its tiles, stored or streamed.
        source: Its place in the list: the names of its row and its products.
        shared: What all slides of the run share.
        started: When work on the slide began, by time.monotonic().
        file: The slide's own file, where the run knows it.

    Returns:
        The slide's row, without pictures.
    """
    flow = partial(_normalize_flow, slide=slide, source=source, started=started, file=file)
    return (yield from shared.in_memory(source.slide_id, flow))


def _normalize_flow(
    shared: Normalization, slide: TiledSlide, source: SlideSource, started: float, file: Path | None
) -> Flow[SlideRow]:
    """`normalize_flow` in one shape."""
    products = shared.products(source.slide_id, shared.key(source.slide_id, slide.record.key))
    row = yield from reuse_flow(source, shared, products)
    if row is not None:
        return row
    products.forget()
    shared.target.check_colours(slide.record)
    prepared = yield from shared.prepare(slide, source.slide_id, products)
    receipts = yield from _blocks_flow(slide, source, shared, products)
    holes = shared.holes(slide, source, products, receipts)
    shared.check_lease()
    pyramids = yield from run_tasks(shared.stitches(slide, products, receipts))
    if "dicom" in products.missing:
        yield [shared.dicom(source.slide_id, products, pyramids[0])]
    found = quality_fields(slide, shared.normalize.mode, prepared, receipts)
    pictures = shared.pictures(slide, products, found.get("hallucination"))
    (drawn,) = yield [pictures]
    if drawn["problem"]:
        shared.report(f"{source.relative}: the report has no pictures of it: {drawn['problem']}")
    row = finished_row(slide, source, products, holes, time.monotonic() - started).model_copy(update=found)
    row = row.with_pictures(load_pictures(pictures.argument.out))
    if warning := unfitted_colours_warning(prepared, shared.normalize):
        shared.report(f"{row.slide}: {warning}")
    remarks = "; ".join(filter(None, (row.reason, shared.remark, warning)))
    row = row.model_copy(update={"reason": remarks})
    save_finished(products.place, FinishedSlide(products.key, row, shared.origin(slide, source, file), slide.grid))
    products.tidy()
    return row.without_pictures()


def _blocks_flow(
    slide: TiledSlide, source: SlideSource, shared: Normalization, products: SlideOutputs
) -> Flow[list[BlockReceipt]]:
    """Normalize a slide's blocks, but for those that an interrupted run finished.

    Returns:
        All blocks' receipts.
    """
    tasks = shared.blocks(slide, products)
    receipts = [find_valid_block(task.argument) for task in tasks]
    missing = [place for place, receipt in enumerate(receipts) if receipt is None]
    if stale := sum(tasks[place].argument.receipt.exists() for place in missing):
        shared.report(f"{source.relative}: {stale} blocks made again: the slide, a setting or the checkpoint changed")
    if kept := len(tasks) - len(missing):
        shared.report(f"{source.relative}: {kept} of {len(tasks)} blocks kept")
    made = iter((yield from run_tasks([tasks[place] for place in missing])))
    return [receipt or next(made) for receipt in receipts]


def reuse_flow(source: SlideSource, shared: Normalization, products: SlideOutputs) -> Flow[SlideRow | None]:
    """Keep what an earlier run finished under the same key; what its making left over is removed.

    Missing DICOM is copied from a TIFF that stands. For any other missing format the slide is normalized again: the
    blocks of a finished slide are gone.

    Returns:
        The slide's row, without pictures, or None when the slide has to be normalized.
    """
    kept, missing, tiff = load_finished(products.place), products.missing, products.tiff.standing_tiff()
    row = kept.row if kept and kept.key == products.key else None
    if kept is None or row is None or set(missing) - {"dicom"} or (missing and tiff is None):
        if row is not None:
            shared.report(
                f"{row.slide}: no whole {', '.join(missing)}: normalizing it again, since its blocks are gone"
            )
        elif products.stale:
            shared.report(f"{source.relative}: made again, because the slide, a setting or the checkpoint changed")
        return None
    if missing and tiff is not None:
        shared.check_lease()
        yield [shared.dicom(source.slide_id, products, tiff)]
    asked = row.with_outputs(products.names)
    if asked != row:
        save_finished(products.place, replace(kept, row=asked))
    products.tidy()
    return asked.without_pictures()


def collect_rows(
    executor: Executor, flows: Mapping[str, Flow[SlideRow]], sources: Sequence[SlideSource], progress: Progress
) -> list[SlideRow]:
    """Run the slides' flows; a row for each slide, in the order of `sources`, whatever became of it."""
    known, rows = {source.slide_id: source for source in sources}, {}
    progress.expect("slides", len(flows))
    for result in run_flows(executor, flows, progress.on_tasks, progress.on_done):
        row = result.value
        if isinstance(result.error, LeaseError):
            raise result.error
        if result.error is not None:
            row = failed_row(known[result.key], result.error, result.seconds)
            progress.report(f"{row.slide}: {row.status}: {row.reason}. {row.remedy}")
        rows[result.key] = row
        progress.advance("slides", note=row.slide)
    return [rows[source.slide_id] for source in sources]


def _damaged_rows(found: UsableSlides, progress: Progress) -> list[SlideRow]:
    """Rows of the slides of which nothing is known but their names, and that they are damaged."""
    rows = []
    for slide_id, error in found.damaged.items():
        progress.report(f"{slide_id}: failed: {error}")
        rows.append(failed_row(_unknown_source(slide_id), error, seconds=0))
    return rows


def _unknown_source(slide_id: str) -> SlideSource:
    """The list entry of a slide of which only its name in the store is known."""
    return SlideSource(path=Path(slide_id), slide_id=slide_id, relative=slide_id)


def _pool_stains(slides: Sequence[StoredSlide]) -> dict[str, StainStatistics]:
    records = {slide.record.slide_id: slide.record for slide in slides}
    stains = {slide_id: record.stain for slide_id, record in records.items() if record.stain}
    return pool_by_group(stains, {slide_id: record.group for slide_id, record in records.items()})


def _source(slide: StoredSlide) -> SlideSource:
    """A stored slide as its list entry: enough to name its row and its pyramid."""
    record = slide.record
    return SlideSource(path=Path(record.relative), slide_id=record.slide_id, relative=record.relative)
