"""The normalization as tasks: the blocks of a slide that was prepared, in any order, in any process.

A task carries paths, coordinates and settings; it leaves one file and a receipt, and doing it again does nothing. Knows
no executor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from wsi_stain.core.geometry import BlockIndex, Size, block_of, block_region, level_sizes
from wsi_stain.core.journal import Files, are_files_whole
from wsi_stain.core.receipts import Receipt, file_product, valid_receipt, write_receipt
from wsi_stain.formats.block_file import JpegConfig, finish_block
from wsi_stain.metrics.seams import SeamSums
from wsi_stain.normalize.block import block_workers, kept_ring, normalize_block_pixels
from wsi_stain.normalizers.config import NormalizeConfig
from wsi_stain.normalizers.load import load_normalizer
from wsi_stain.pix2pix.gpu import translate_device_errors
from wsi_stain.pyramid.ome_zarr import write_block_shards
from wsi_stain.store import TiledSlide
from wsi_stain.store.artifact import load_artifact


@dataclass(frozen=True, kw_only=True)
class NormalizeTask:
    """Normalize one block of one slide.

    Attributes:
        slide: Opens the slide, stored or streamed: its `opener`.
        block: Place in the block grid.
        checkpoint: The checkpoint's file.
        digest: SHA-256 of that file, as the run knows it.
        normalize: Settings of the normalization, `auto` resolved.
        jpeg: How the tiles are encoded.
        device: Where the generator runs, as torch names it.
        artifact: What `prepare_slide` left.
        out: Where the block file goes.
        receipt: Where the receipt goes.
        key: Fingerprint of everything that the block depends on.
        zarr: The OME-Zarr that is being made, to leave lossless shards in; None where none is wanted.
    """

    slide: Callable[[], TiledSlide]
    block: BlockIndex
    checkpoint: Path
    digest: str
    normalize: NormalizeConfig
    jpeg: JpegConfig = field(default_factory=JpegConfig)
    device: str = "cpu"
    artifact: Path
    out: Path
    receipt: Path
    key: str
    zarr: Path | None = None


class BlockReceipt(Receipt):
    """Receipt of a normalized block; its product is the block file, None where no tile is kept.

    Attributes:
        block: [row, col] in the block grid.
        tiles: How many of its tiles are kept.
        holes: [[row, col], ...] of the tiles that were found unreadable in the slide's file and show its next coarser
            level.
        shards: Those left in the OME-Zarr, by their path in it.
        seams: See `metrics/seams.py`; None where there are no pixels.
        retried: Passes of the generator that were computed again in float32.
        hallucination: See `metrics/hallucination.py`; None where there are no pixels, and where the output is a colour
            table, which explains itself.
    """

    block: list[int]
    tiles: int
    holes: list[list[int]]
    shards: Files
    seams: SeamSums | None
    retried: int
    hallucination: str | None


@translate_device_errors
def normalize_block(task: NormalizeTask) -> BlockReceipt:
    """Do a `NormalizeTask`, unless it is done.

    Memory bound: that of `normalize_block_pixels` and `finish_block` together.

    Raises:
        CheckpointError: The checkpoint changed, or gave values that are no numbers.
        DeviceMemoryError: The device's memory does not suffice for `normalize.stride_px`.
        BrokenDeviceError: The GPU failed.
        StoreError: The slide is not in the store, or is damaged there.
        SlideError: Its file can no longer be read.
        OutputError: The block file cannot be written, or the artifact cannot be read.
    """
    if done := find_valid_block(task):
        return done
    with task.slide() as slide, block_workers(task.normalize.threads or 1) as workers:
        kept = kept_ring(slide, task.block)[1:-1, 1:-1]
        if not kept.any():
            return write_receipt(task.receipt, _empty_receipt(task))
        normalizer = load_normalizer(task.normalize, task.checkpoint, task.device, task.digest)
        artifact = load_artifact(task.artifact)
        result = normalize_block_pixels(
            slide, task.block, normalizer, artifact, task.normalize, task.jpeg, workers, task.zarr is not None
        )
        _, _, width, height = block_region(task.block, slide.size)
        run = workers.band_workers.map
        facts = finish_block(task.out, Size(width, height), kept, task.jpeg, result.streams, result.half, run)
    shards: Files = {}
    if task.zarr is not None and result.pixels is not None:
        levels = len(level_sizes(slide.size))
        shards = write_block_shards(task.zarr, task.block, result.pixels, kept, normalizer.white, levels)
    receipt: BlockReceipt = {
        "key": task.key,
        "product": file_product(task.out, facts),
        "block": list(task.block),
        "tiles": int(kept.sum()),
        "holes": [list(tile) for tile in sorted(slide.repaired) if block_of(tile) == task.block],
        "shards": shards,
        "seams": result.seams,
        "retried": result.retried,
        "hallucination": result.hallucination,
    }
    return write_receipt(task.receipt, receipt)


def _empty_receipt(task: NormalizeTask) -> BlockReceipt:
    """Make the receipt of a block without kept tiles."""
    return {
        "key": task.key,
        "product": None,
        "block": list(task.block),
        "tiles": 0,
        "holes": [],
        "shards": {},
        "seams": None,
        "retried": 0,
        "hallucination": None,
    }


def find_valid_block(task: NormalizeTask) -> BlockReceipt | None:
    """Return the receipt of a block that is done, with its shards where they are wanted; None where it is not."""
    if glass := valid_receipt(task.receipt, task.key, None, BlockReceipt):
        return glass
    done = valid_receipt(task.receipt, task.key, task.out, BlockReceipt)
    if done is None or task.zarr is None:
        return done
    return done if done["shards"] and are_files_whole(task.zarr, done["shards"]) else None
