"""The `normalize` command: re-stain the slides of a tile store with a trained checkpoint."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rich.console import Console

from pipelines.config import RunConfig, device
from pipelines.model import Model
from pipelines.progress import Progress, tell
from pipelines.results import failed_row, finish, finished_row, save_row, saved_row
from pipelines.stored import Stored, stored_slides
from pipelines.workspace import Workspace, pyramid_names
from wsi_stain import __version__, blockfile
from wsi_stain.errors import LeaseError
from wsi_stain.executor import Executor, Flow, Task, drive, open_executor
from wsi_stain.geometry import BlockIndex
from wsi_stain.grid import TileGrid
from wsi_stain.inference import NormalizeTask, PrepareTask, normalize_block, prepare_slide
from wsi_stain.journal import fingerprint, remove_partials, valid_receipt
from wsi_stain.lease import lease
from wsi_stain.output import OutputConfig
from wsi_stain.place import Place
from wsi_stain.pyramid import StitchTask, stitch_slide
from wsi_stain.report import SlideRow
from wsi_stain.slides import SlideSource
from wsi_stain.store import StoredSlide


@dataclass(frozen=True)
class Request:
    """What `wsi-stain normalize` was asked for."""

    store: Place
    checkpoint: Path
    out: Path
    config: RunConfig


@dataclass(frozen=True)
class Normalization:
    """What all slides of a run share.

    Attributes:
        workspace: Where things lie.
        model: The checkpoint in use.
        config: The run's configuration.
        names: Each slide id's pyramid, relative to OUT.
        check_lease: Raises LeaseError when another run took the output directory.
    """

    workspace: Workspace
    model: Model
    config: RunConfig
    names: Mapping[str, PurePosixPath]
    check_lease: Callable[[], None]

    @property
    def output(self) -> OutputConfig:
        """The output settings with `auto` settled for this machine."""
        return self.config.output.resolved(device())

    def key(self, slide_key: str) -> str:
        """Fingerprint of everything that decides the bytes of the pyramid of the slide whose tiles have `slide_key`."""
        settings = {
            "output": self.output.model_dump(mode="json", exclude={"threads"}),
            "jpeg": self.config.jpeg.model_dump(mode="json"),
            "device": device(),
            "block_format": blockfile.VERSION,
        }
        return fingerprint({"tiles": slide_key, "checkpoint": self.model.digest, "version": __version__, **settings})

    def standing(self, slide_id: str, key: str) -> SlideRow | None:
        """The row of a slide whose pyramid was finished under the same key; what its making left over is removed."""
        place = self.workspace.slide(slide_id)
        row = saved_row(place, key)
        if row is None or not valid_receipt(place / "ome-tiff.json", key, self.workspace.out / self.names[slide_id]):
            return None
        shutil.rmtree(place / "blocks", ignore_errors=True)
        return row

    def forget(self, slide_id: str) -> None:
        """Remove a pyramid made under another key: if the slide fails now, none must stand under its name."""
        place = self.workspace.slide(slide_id)
        for path in (place / "row.json", place / "ome-tiff.json", self.workspace.out / self.names[slide_id]):
            path.unlink(missing_ok=True)


def plan(request: Request) -> Stored:
    """The slides that would be normalized, and those that are damaged.

    Raises:
        StoreError: There is no store, or no complete slide in it.
        CheckpointError: The checkpoint is none, or is damaged.
    """
    Model.load(request.checkpoint)
    return stored_slides(request.store)


def show_plan(request: Request, console: Console) -> int:
    """Print what would be normalized; 3 when some slide cannot be."""
    found = plan(request)
    for slide in found.slides:
        where = f"{slide.size.width} x {slide.size.height} px at {slide.mpp.mean:.4g} um/px"
        tell(console, f"{slide.record.slide_id}: {int(slide.kept.sum())} tiles, {where}")
    for slide_id, error in found.damaged.items():
        tell(console, f"{slide_id}: {error}")
    return 3 if found.damaged else 0


def run(request: Request, console: Console) -> int:
    """Normalize every slide of the store.

    Returns:
        0, or 3 when some slides failed.
    """
    model, workspace, found = Model.load(request.checkpoint), Workspace(request.out), plan(request)
    sources = [_source(slide) for slide in found.slides]
    with lease(request.out) as check, Progress(console) as progress, open_executor(request.config.executor) as executor:
        remove_partials(request.out)
        workspace.mark()
        shared = Normalization(workspace, model, request.config, pyramid_names(sources), check)
        flows = {
            source.slide_id: normalize_flow(slide, source, shared, time.monotonic())
            for slide, source in zip(found.slides, sources, strict=True)
        }
        rows = collected(executor, flows, sources, progress) + _damaged_rows(found, progress)
        check()
        return finish(workspace, rows, request.config, model, console)


def normalize_flow(slide: StoredSlide, source: SlideSource, shared: Normalization, started: float) -> Flow:
    """Normalize one stored slide into its pyramid.

    Args:
        slide: Its tiles.
        source: Its place in the list: the names of its row and its pyramid.
        shared: What all slides of the run share.
        started: When work on the slide began, by time.monotonic().

    Returns:
        The slide's row.
    """
    place, key = shared.workspace.slide(source.slide_id), shared.key(slide.record.key)
    if row := shared.standing(source.slide_id, key):
        return row
    shared.forget(source.slide_id)
    shared.model.check_colours(slide.record)
    yield [Task(prepare_slide, _prepare_task(slide, shared, place, key), "prepare")]
    tasks = [_block_task(slide, shared, place, key, block) for block in _blocks(slide)]
    receipts = yield [Task(normalize_block, task, "normalize") for task in tasks]
    files = {task.block: task.out for task, receipt in zip(tasks, receipts, strict=True) if receipt["product"]}
    shared.check_lease()
    output = shared.names[source.slide_id]
    yield [Task(stitch_slide, _stitch_task(slide, shared, place, key, files, output), "stitch")]
    row = finished_row(slide, source, shared.workspace.out, output, time.monotonic() - started)
    save_row(place, key, row)
    shutil.rmtree(place / "blocks", ignore_errors=True)
    return row


def collected(
    executor: Executor, flows: Mapping[str, Flow], sources: Sequence[SlideSource], progress: Progress
) -> list[SlideRow]:
    """Run the slides' flows; a row for each slide, in the order of `sources`, whatever became of it."""
    known, rows = {source.slide_id: source for source in sources}, {}
    progress.expect("slides", len(flows))
    for result in drive(executor, flows, progress.on_tasks, progress.on_done):
        row = result.value
        if isinstance(result.error, LeaseError):
            raise result.error
        if result.error is not None:
            row = failed_row(known[result.key], result.error, result.seconds)
            progress.say(f"{row.slide}: {row.status}: {row.reason}. {row.remedy}")
        rows[result.key] = row
        progress.advance("slides", note=row.slide)
    return [rows[source.slide_id] for source in sources]


def _blocks(slide: StoredSlide) -> list[BlockIndex]:
    return TileGrid(slide.size, slide.tissue, slide.kept).blocks()


def _prepare_task(slide: StoredSlide, shared: Normalization, place: Path, key: str) -> PrepareTask:
    return PrepareTask(
        store=slide.path.parent,
        slide_id=slide.record.slide_id,
        checkpoint=shared.model.path,
        digest=shared.model.digest,
        output=shared.output,
        device=device(),
        artifact=place / "artifact.npz",
        receipt=place / "artifact.json",
        key=key,
    )


def _block_task(slide: StoredSlide, shared: Normalization, place: Path, key: str, block: BlockIndex) -> NormalizeTask:
    name = f"{block.row}_{block.col}"
    return NormalizeTask(
        store=slide.path.parent,
        slide_id=slide.record.slide_id,
        block=block,
        checkpoint=shared.model.path,
        digest=shared.model.digest,
        output=shared.output,
        jpeg=shared.config.jpeg,
        device=device(),
        artifact=place / "artifact.npz",
        out=place / "blocks" / f"{name}.block",
        receipt=place / "blocks" / f"{name}.json",
        key=key,
    )


def _stitch_task(
    slide: StoredSlide,
    shared: Normalization,
    place: Path,
    key: str,
    files: Mapping[BlockIndex, Path],
    output: PurePosixPath,
) -> StitchTask:
    model, record = shared.model, slide.record
    return StitchTask(
        slide_id=record.slide_id,
        size=slide.size,
        mpp=slide.mpp,
        objective_power=record.objective_power,
        white=model.white,
        icc_profile=model.icc_profile,
        blocks=dict(files),
        jpeg=shared.config.jpeg,
        provenance={
            "software": f"wsi-stain {__version__}",
            "checkpoint_sha256": model.digest,
            "template": model.template,
            "output": shared.output.mode,
            "source_fingerprint": fingerprint(record.fingerprint),
            "icc_policy": record.icc_policy,
            "run_fingerprint": key,
        },
        output=shared.workspace.out / output,
        receipt=place / "ome-tiff.json",
        key=key,
    )


def _damaged_rows(found: Stored, progress: Progress) -> list[SlideRow]:
    """Rows of the slides of which nothing is known but their names, and that they are damaged."""
    rows = []
    for slide_id, error in found.damaged.items():
        progress.say(f"{slide_id}: failed: {error}")
        source = SlideSource(path=Path(slide_id), slide_id=slide_id, relative=slide_id)
        rows.append(failed_row(source, error, seconds=0))
    return rows


def _source(slide: StoredSlide) -> SlideSource:
    """A stored slide as its list entry: enough to name its row and its pyramid."""
    record = slide.record
    return SlideSource(path=Path(record.relative), slide_id=record.slide_id, relative=record.relative)
