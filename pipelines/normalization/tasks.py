"""The tasks that normalize one slide: prepare it, normalize its blocks, stitch its pyramids, make its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.normalization.context import RunContext
from pipelines.run_directory.slide_outputs import SlideOutput, SlideOutputs
from wsi_stain import __version__
from wsi_stain.core.geometry import BlockIndex, GlassPlacement, Mpp
from wsi_stain.core.journal import fingerprint
from wsi_stain.core.receipts import Receipt, partial_directory, valid_receipt
from wsi_stain.executor import Flow, Pool, Task, single_task
from wsi_stain.normalize.preparation import (
    PartTask,
    PrepareReceipt,
    PrepareTask,
    find_valid_sample,
    prepare_slide,
    sample_slide,
    sum_beliefs,
)
from wsi_stain.normalize.table_files import TableKind, TableTask, write_table_file
from wsi_stain.normalize.tasks import BlockReceipt, NormalizeTask, normalize_block
from wsi_stain.normalizers.config import NormalizeConfig
from wsi_stain.pyramid.dicom import DicomReceipt, DicomTask, write_dicom
from wsi_stain.pyramid.stitch import PyramidReceipt, StitchTask, stitch_slide
from wsi_stain.report import PictureTask, make_pictures
from wsi_stain.store import TiledSlide


def prepare_flow(context: RunContext, slide: TiledSlide, slide_id: str, outputs: SlideOutputs) -> Flow[PrepareReceipt]:
    """Measure what a slide's blocks share; parts of it first, where there is a generator to wait for.

    Returns:
        The receipt of `prepare_slide`.
    """
    task = _prepare_task(context, slide, slide_id, outputs)
    if done := valid_receipt(task.receipt, task.key, task.artifact, PrepareReceipt):
        return done
    parts = [_part_task(task, outputs, part) for part in range(context.settings.sample_parts)]
    if not all(map(find_valid_sample, parts)):
        yield from _sample_flow(parts, context.target.stain_passes)
    task = replace(task, samples=tuple(part.artifact for part in parts))
    return (yield from single_task(Task(prepare_slide, task, "prepare")))


def _sample_flow(parts: Sequence[PartTask], passes: int) -> Flow[None]:
    """Refine a slide's statistics in so many passes, then sample it: each over all parts."""
    for _ in range(passes):
        sums = yield [Task(sum_beliefs, part, "prepare", pool="gpu") for part in parts]
        beliefs = *parts[0].beliefs, tuple(receipt["beliefs"] for receipt in sums)
        parts = [replace(part, beliefs=beliefs) for part in parts]
    yield [Task(sample_slide, part, "prepare", pool="gpu") for part in parts]


def _part_task(task: PrepareTask, outputs: SlideOutputs, part: int) -> PartTask:
    artifact, receipt = (outputs.blocks / "samples" / f"{part}{suffix}" for suffix in (".npz", ".json"))
    return PartTask(part=part, **vars(task) | {"artifact": artifact, "receipt": receipt})


def _prepare_task(context: RunContext, slide: TiledSlide, slide_id: str, outputs: SlideOutputs) -> PrepareTask:
    return PrepareTask(
        slide=slide.opener,
        checkpoint=context.target.path,
        digest=context.target.digest,
        normalize=context.settings,
        device=context.device,
        artifact=outputs.artifact,
        receipt=outputs.artifact.with_suffix(".json"),
        key=outputs.key,
        stain=context.group_stains.get(slide_id),
    )


def block_tasks(context: RunContext, slide: TiledSlide, outputs: SlideOutputs) -> list[Task[BlockReceipt]]:
    """Return the tasks that normalize a slide's blocks; they leave lossless shards too where an OME-Zarr is missing."""
    zarr = partial_directory(outputs.output("ome-zarr").path) if "ome-zarr" in outputs.missing else None
    tasks = [_block_task(context, slide, outputs, block, zarr) for block in slide.grid.blocks()]
    return [Task(normalize_block, task, "normalize", pool=block_pool(context.settings)) for task in tasks]


def block_pool(settings: NormalizeConfig) -> Pool:
    """Return the workers that blocks are for: those with a GPU only where the generator is run on every block."""
    return "gpu" if settings.needs_generator else "cpu"


def block_receipt(outputs: SlideOutputs, block: BlockIndex) -> Path:
    """Return where the receipt of a block goes."""
    return outputs.blocks / f"{block.row}_{block.col}.json"


def _block_task(
    context: RunContext, slide: TiledSlide, outputs: SlideOutputs, block: BlockIndex, zarr: Path | None
) -> NormalizeTask:
    receipt = block_receipt(outputs, block)
    return NormalizeTask(
        slide=slide.opener,
        block=block,
        checkpoint=context.target.path,
        digest=context.target.digest,
        normalize=context.settings,
        jpeg=context.config.jpeg,
        device=context.device,
        artifact=outputs.artifact,
        out=receipt.with_suffix(".block"),
        receipt=receipt,
        key=outputs.key,
        zarr=zarr,
    )


def stitch_tasks(
    context: RunContext, slide: TiledSlide, outputs: SlideOutputs, receipts: Sequence[BlockReceipt]
) -> list[Task[PyramidReceipt]]:
    """Return the tasks that assemble a slide's pyramids, the TIFF first, given the blocks' receipts."""
    pyramids = [outputs.tiff]
    if "ome-zarr" in outputs.missing:
        pyramids.append(outputs.output("ome-zarr"))
    tasks = [_stitch_task(context, slide, outputs, pyramid, receipts) for pyramid in pyramids]
    size = sum(receipt["product"]["size"] for receipt in receipts if receipt["product"])
    return [Task(stitch_slide, task, "stitch", _copy_cost(size)) for task in tasks]


def _stitch_task(
    context: RunContext,
    slide: TiledSlide,
    outputs: SlideOutputs,
    output: SlideOutput,
    receipts: Sequence[BlockReceipt],
) -> StitchTask:
    target, record = context.target, slide.record
    assert output.kind == "ome-tiff" or output.kind == "ome-zarr"
    return StitchTask(
        slide_id=record.slide_id,
        size=slide.size,
        mpp=slide.mpp,
        objective_power=record.objective_power,
        placement=record.placement,
        white=target.white,
        icc_profile=target.icc_profile,
        blocks={
            BlockIndex(*receipt["block"]): outputs.blocks / block_file["name"]
            for receipt in receipts
            if (block_file := receipt["product"])
        },
        jpeg=context.config.jpeg,
        provenance=_provenance(context, record.fingerprint, record.icc_policy, outputs),
        output=output.path,
        receipt=output.receipt,
        key=outputs.key,
        format=output.kind,
        shards={name: file for receipt in receipts for name, file in receipt["shards"].items()},
    )


def _provenance(
    context: RunContext, source: Mapping[str, str | int], icc_policy: str, outputs: SlideOutputs
) -> dict[str, str]:
    """Describe how a slide's outputs are made, given its file's fingerprint and how its profile was read."""
    return {
        "software": f"wsi-stain {__version__}",
        "checkpoint_sha256": context.target.digest,
        "template": context.target.template,
        "output": context.settings.name,
        "source_fingerprint": fingerprint(source),
        "icc_policy": icc_policy,
        "run_fingerprint": outputs.key,
    }


def table_tasks(
    context: RunContext, source: Mapping[str, str | int], icc_policy: str, outputs: SlideOutputs
) -> list[Task[Receipt]]:
    """Return the tasks that write a prepared slide's colour table where it is missing.

    Args:
        context: What all slides of the run share.
        source: Fingerprint of the slide's file.
        icc_policy: What was done with its own profile: `keep` or `srgb`.
        outputs: Its outputs.
    """
    kinds: list[TableKind] = [kind for kind in outputs.missing if kind == "icc" or kind == "cube"]
    tasks = [
        TableTask(
            kind=kind,
            artifact=outputs.artifact,
            provenance=_provenance(context, source, icc_policy, outputs),
            output=outputs.output(kind).path,
            receipt=outputs.output(kind).receipt,
            key=outputs.key,
        )
        for kind in kinds
    ]
    return [Task(write_table_file, task, "table") for task in tasks]


def pictures_task(
    context: RunContext, slide: TiledSlide, outputs: SlideOutputs, hallucination: bytes | None
) -> Task[dict[str, Any]]:
    """Return the task that makes the pictures of a slide from its finished TIFF, or from its table where there is none.

    Args:
        context: What all slides of the run share.
        slide: The slide.
        outputs: Its outputs.
        hallucination: Its hallucination map, where there is one: PNG.
    """
    task = PictureTask(
        opener=slide.opener,
        pyramid=outputs.tiff.path if outputs.has_pyramids else None,
        artifact=outputs.artifact,
        stain=context.group_stains.get(slide.slide_id),
        reference=context.target.reference,
        hallucination=hallucination,
        out=outputs.blocks / "pictures.json",
    )
    return Task(make_pictures, task, "pictures")


def dicom_task(
    context: RunContext, slide_id: str, outputs: SlideOutputs, tiff_receipt: PyramidReceipt
) -> Task[DicomReceipt]:
    """Return the task that copies a slide's TIFF into DICOM, given the TIFF's receipt."""
    output = outputs.output("dicom")
    task = DicomTask(
        slide_id=slide_id,
        pyramid=outputs.tiff.path,
        mpp=Mpp(*tiff_receipt["mpp"]),
        objective_power=tiff_receipt["objective_power"],
        placement=GlassPlacement(*tiff_receipt["placement"]) if tiff_receipt["placement"] else None,
        icc_profile=context.target.icc_profile,
        provenance=tiff_receipt["provenance"],
        output=output.path,
        receipt=output.receipt,
        key=outputs.key,
    )
    return Task(
        write_dicom, task, "dicom", _copy_cost(tiff_receipt["product"]["size"] if tiff_receipt["product"] else 0)
    )


def _copy_cost(size: int) -> float:
    """Return the work of copying so many bytes, in blocks: even a slow disk copies a gigabyte in the time of one."""
    return 1 + size / 1e9
