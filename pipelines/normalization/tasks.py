"""What the slides of a run share while they are normalized: the settings, the model, and from these every task."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pipelines.run_directory.workspace import Workspace
from pipelines.shared.config import RunConfig
from pipelines.shared.device import tasks_device
from pipelines.shared.slide_outputs import SUFFIXES, SlideOutput, SlideOutputs, output_name
from pipelines.shared.target import NormalizationTarget
from wsi_stain import __version__
from wsi_stain.core.errors import DeviceMemoryError, UnreadableError
from wsi_stain.core.geometry import TILE, BlockIndex, GlassPlacement, Mpp, ceil_div
from wsi_stain.core.icc import input_profile, srgb_profile
from wsi_stain.core.journal import fingerprint, read_json, write_json
from wsi_stain.core.receipts import partial_directory
from wsi_stain.executor import Flow, Task, single_task
from wsi_stain.formats import block_file
from wsi_stain.normalize.tasks import (
    BlockReceipt,
    NormalizeTask,
    PrepareReceipt,
    PrepareTask,
    SampleTask,
    normalize_block,
    prepare_slide,
    sample_slide,
)
from wsi_stain.normalizers.config import NormalizeConfig
from wsi_stain.pyramid.dicom import DicomReceipt, DicomTask, write_dicom
from wsi_stain.pyramid.stitch import PyramidReceipt, StitchTask, stitch_slide
from wsi_stain.report import PictureTask, make_pictures
from wsi_stain.results.finished import Origin
from wsi_stain.slides.find import SlideSource
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.store import StoredSlide, TiledSlide
from wsi_stain.tiling.config import config_for_slide
from wsi_stain.tiling.tasks import check_holes

R = TypeVar("R")


@dataclass(frozen=True)
class Normalization:
    """What all slides of a run share.

    Attributes:
        workspace: Where things lie.
        model: The checkpoint in use.
        config: The run's configuration, settled: see `device.settled`.
        stems: What each slide id's products are called, relative to OUT, without suffix.
        check_lease: Raises LeaseError when another run took the output directory.
        say: Prints a line.
        stains: What to take for the stain of slides that share a group, by slide id.
        asked: The same as it was asked for, where a slide is made in a smaller shape.
    """

    workspace: Workspace
    target: NormalizationTarget
    config: RunConfig
    stems: Mapping[str, PurePosixPath]
    check_lease: Callable[[], None]
    report: Callable[[str], None]
    stains: Mapping[str, StainStatistics] = field(default_factory=dict)
    asked: Normalization | None = None

    @property
    def normalize(self) -> NormalizeConfig:
        """The settings of the normalization."""
        return self.config.normalize

    @property
    def device(self) -> str:
        """Where the generator runs, as torch names it."""
        return tasks_device(self.config.executor)

    def key(self, slide_id: str, tiles_key: str) -> str:
        """Fingerprint of everything that decides the bytes of a slide's products."""
        pooled = self.stains.get(slide_id)
        settings = {
            "normalize": self.normalize.model_dump(mode="json", exclude={"threads", "lut_outside"}),
            "jpeg": self.config.jpeg.model_dump(mode="json"),
            "device": self.device,
            "block_format": block_file.VERSION,
            "stain": pooled.model_dump(mode="json") if pooled else None,
        }
        return fingerprint({"tiles": tiles_key, "checkpoint": self.target.digest, "version": __version__, **settings})

    def shaped(self, slide_id: str) -> Normalization:
        """The same, in the smaller shape that was recorded for a slide for want of memory, if one was."""
        recorded = read_json(self._shape_file(slide_id))
        if not isinstance(recorded, dict) or recorded.get("key") != self._shape_key:
            return self
        settings = self.config.normalize.model_copy(update={"stride_px": recorded["stride_px"]})
        return replace(self, config=self.config.model_copy(update={"normalize": settings}), asked=self)

    def in_memory(self, slide_id: str, made: Callable[[Normalization], Flow[R]]) -> Flow[R]:
        """What `made` does, in the shape recorded for a slide, or in a smaller one until the device's memory suffices.

        Args:
            slide_id: Whose flow it is.
            made: The flow, given what to use in place of this.

        Returns:
            What the flow returns.

        Raises:
            DeviceMemoryError: The shape cannot be smaller.
        """
        while True:
            shaped = self.shaped(slide_id)
            try:
                return (yield from made(shaped))
            except DeviceMemoryError as error:
                shaped.shrink(slide_id, error)

    def shrink(self, slide_id: str, error: DeviceMemoryError) -> None:
        """Record half the side of the generator's squares for a slide, so that a rerun gives the same bytes.

        Raises:
            DeviceMemoryError: They cannot be smaller.
        """
        stride_px = ceil_div(self.normalize.stride_px, 2 * TILE) * TILE
        if stride_px >= self.normalize.stride_px:
            raise error
        asked = self.asked or self
        write_json(asked._shape_file(slide_id), {"key": asked._shape_key, "stride_px": stride_px})
        self.report(f"{slide_id}: begun again in squares of {stride_px} px. {error.problem}")

    def _shape_file(self, slide_id: str) -> Path:
        return self.workspace.slide(slide_id) / "shape.json"

    @property
    def _shape_key(self) -> str:
        """Fingerprint of what the generator's need of memory depends on."""
        settings = self.normalize.model_dump(mode="json")
        return fingerprint({"normalize": settings, "checkpoint": self.target.digest, "device": self.device})

    @property
    def remark(self) -> str:
        """What to say of a slide that is made in another shape than asked for."""
        return f"generated in squares of {self.normalize.stride_px} px for want of memory" if self.asked else ""

    def products(self, slide_id: str, key: str) -> SlideOutputs:
        """The products of a slide, under a key from `key`."""
        place = self.workspace.slide(slide_id)
        return SlideOutputs(self.workspace.out, place, self.stems[slide_id], self.config.formats, key)

    def is_known(self, slide_id: str) -> bool:
        """Whether there is any product of the slide, of this run or of an earlier one."""
        names = (output_name(self.stems[slide_id], kind) for kind in SUFFIXES)
        return any((self.workspace.out / name).exists() for name in names)

    def origin(self, slide: TiledSlide, source: SlideSource, file: Path | None) -> Origin:
        """What a slide's products are made from; `file` is None where only its tiles are known."""
        profile = self.target.icc_profile
        return Origin(
            slide=file and file.absolute(),
            tiles=str(slide.path) if isinstance(slide, StoredSlide) else None,
            reading=config_for_slide(source, self.config.tiling).slide,
            fingerprint=slide.record.fingerprint,
            icc_sha256=hashlib.sha256(profile).hexdigest() if profile else None,
            dicom_icc_sha256=hashlib.sha256(input_profile(profile or srgb_profile())).hexdigest(),
            mode=self.normalize.name,
            tiles_key=slide.record.key,
            stain=slide.record.stain,
        )

    def prepare(self, slide: TiledSlide, slide_id: str, products: SlideOutputs) -> Flow[PrepareReceipt]:
        """Measure what a slide's blocks share; parts of it first, where there is a generator to wait for.

        Returns:
            The receipt of `prepare_slide`.
        """
        task = self._prepare_task(slide, slide_id, products)
        samples = []
        for part in range(self.normalize.sample_parts):
            artifact, receipt = (products.blocks / "samples" / f"{part}{suffix}" for suffix in (".npz", ".json"))
            samples.append(SampleTask(part=part, **vars(task) | {"artifact": artifact, "receipt": receipt}))
        yield [Task(sample_slide, sample, "prepare") for sample in samples]
        task = replace(task, samples=tuple(sample.artifact for sample in samples))
        return (yield from single_task(Task(prepare_slide, task, "prepare")))

    def _prepare_task(self, slide: TiledSlide, slide_id: str, products: SlideOutputs) -> PrepareTask:
        return PrepareTask(
            slide=slide.opener,
            checkpoint=self.target.path,
            digest=self.target.digest,
            normalize=self.normalize,
            device=self.device,
            artifact=products.place / "artifact.npz",
            receipt=products.place / "artifact.json",
            key=products.key,
            stain=self.stains.get(slide_id),
        )

    def blocks(self, slide: TiledSlide, products: SlideOutputs) -> list[Task[BlockReceipt]]:
        """The tasks that normalize a slide's blocks; all leave lossless shards where these miss."""
        zarr = partial_directory(products.product("ome-zarr").path) if "ome-zarr" in products.missing else None
        tasks = [self._block_task(slide, products, block, zarr) for block in slide.grid.blocks()]
        return [Task(normalize_block, task, "normalize") for task in tasks]

    def _block_task(
        self, slide: TiledSlide, products: SlideOutputs, block: BlockIndex, zarr: Path | None
    ) -> NormalizeTask:
        name = f"{block.row}_{block.col}"
        return NormalizeTask(
            slide=slide.opener,
            block=block,
            checkpoint=self.target.path,
            digest=self.target.digest,
            normalize=self.normalize,
            jpeg=self.config.jpeg,
            device=self.device,
            artifact=products.place / "artifact.npz",
            out=products.blocks / f"{name}.block",
            receipt=products.blocks / f"{name}.json",
            key=products.key,
            zarr=zarr,
        )

    def holes(
        self, slide: TiledSlide, source: SlideSource, products: SlideOutputs, receipts: Sequence[BlockReceipt]
    ) -> int:
        """How many of a slide's tiles cannot be read from its file: known of a stored one, found in a streamed one's.

        Raises:
            UnreadableError: There are too many; their blocks will be read anew.
        """
        found = sum(len(receipt["holes"]) for receipt in receipts)
        try:
            check_holes(source.relative, found, int(slide.kept.sum()), self.config.tiling.max_holes)
        except UnreadableError:
            for receipt in receipts:
                if receipt["holes"]:  # a fault of the network may be over when the command is run again
                    row, col = receipt["block"]
                    (products.blocks / f"{row}_{col}.json").unlink(missing_ok=True)
            raise
        return slide.record.holes + found

    def stitches(
        self, slide: TiledSlide, products: SlideOutputs, receipts: Sequence[BlockReceipt]
    ) -> list[Task[PyramidReceipt]]:
        """The tasks that assemble a slide's pyramids, given the blocks' receipts."""
        pyramids = [products.tiff]
        if "ome-zarr" in products.missing:
            pyramids.append(products.product("ome-zarr"))
        tasks = [self._stitch_task(slide, products, pyramid, receipts) for pyramid in pyramids]
        return [Task(stitch_slide, task, "stitch") for task in tasks]

    def _stitch_task(
        self, slide: TiledSlide, products: SlideOutputs, product: SlideOutput, receipts: Sequence[BlockReceipt]
    ) -> StitchTask:
        target, record = self.target, slide.record
        assert product.kind != "dicom"
        return StitchTask(
            slide_id=record.slide_id,
            size=slide.size,
            mpp=slide.mpp,
            objective_power=record.objective_power,
            placement=record.placement,
            white=target.white,
            icc_profile=target.icc_profile,
            blocks={
                BlockIndex(*receipt["block"]): products.blocks / block_file["name"]
                for receipt in receipts
                if (block_file := receipt["product"])
            },
            jpeg=self.config.jpeg,
            provenance={
                "software": f"wsi-stain {__version__}",
                "checkpoint_sha256": target.digest,
                "template": target.template,
                "output": self.normalize.name,
                "source_fingerprint": fingerprint(record.fingerprint),
                "icc_policy": record.icc_policy,
                "run_fingerprint": products.key,
            },
            output=product.path,
            receipt=product.receipt,
            key=products.key,
            format=product.kind,
            shards={name: file for receipt in receipts for name, file in receipt["shards"].items()},
        )

    def pictures(self, slide: TiledSlide, products: SlideOutputs, hallucination: bytes | None) -> Task[dict[str, Any]]:
        """The task that takes the pictures of a slide whose TIFF stands, given its hallucination map."""
        task = PictureTask(
            opener=slide.opener,
            pyramid=products.tiff.path,
            white=self.target.white,
            tissue=self.config.tiling.tissue,
            hallucination=hallucination,
            out=products.blocks / "pictures.json",
        )
        return Task(make_pictures, task, "pictures")

    def dicom(self, slide_id: str, products: SlideOutputs, pyramid: PyramidReceipt) -> Task[DicomReceipt]:
        """The task that copies a slide's TIFF into DICOM, given the TIFF's receipt."""
        product = products.product("dicom")
        task = DicomTask(
            slide_id=slide_id,
            pyramid=products.tiff.path,
            mpp=Mpp(*pyramid["mpp"]),
            objective_power=pyramid["objective_power"],
            placement=GlassPlacement(*pyramid["placement"]) if pyramid["placement"] else None,
            icc_profile=self.target.icc_profile,
            provenance=pyramid["provenance"],
            output=product.path,
            receipt=product.receipt,
            key=products.key,
        )
        return Task(write_dicom, task, "dicom")
