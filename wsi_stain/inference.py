"""The normalization as tasks: a slide is prepared once, then its blocks are normalized in any order, in any process.

A task carries paths, coordinates and settings; it leaves one file and a receipt, and doing it again does nothing. Knows
nothing of schedulers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsi_stain import journal
from wsi_stain.artifact import Artifact, load_artifact, save_artifact
from wsi_stain.blockfile import JpegConfig, Run, write_block
from wsi_stain.feather import Kept, Pixels, fade_into, with_ring
from wsi_stain.geometry import TILES_PER_BLOCK, BlockIndex, block_of, block_region, level_sizes
from wsi_stain.ome_zarr import write_block_shards
from wsi_stain.output import Normalizer, OutputConfig, load_normalizer
from wsi_stain.reader import BlockReader
from wsi_stain.seams import measure_seams
from wsi_stain.stain import StainStatistics
from wsi_stain.store import TiledSlide
from wsi_stain.table_output import TABLE
from wsi_stain.unexplained import unexplained


@dataclass(frozen=True, kw_only=True)
class PrepareTask:
    """Learn what a normalizer has to know about one slide.

    Attributes:
        slide: Opens the slide, stored or streamed: its `opener`.
        checkpoint: The checkpoint's file.
        digest: SHA-256 of that file, as the run knows it.
        output: What becomes of the generated pixels.
        device: Where the generator runs, as torch names it.
        artifact: Where the arrays go.
        receipt: Where the receipt goes.
        key: Fingerprint of everything that the arrays depend on.
        stain: What to take for the slide's stain; None takes its own.
    """

    slide: Callable[[], TiledSlide]
    checkpoint: Path
    digest: str
    output: OutputConfig
    device: str = "cpu"
    artifact: Path
    receipt: Path
    key: str
    stain: StainStatistics | None = None


@dataclass(frozen=True, kw_only=True)
class NormalizeTask:
    """Normalize one block of one slide.

    Attributes:
        slide: Opens the slide, stored or streamed: its `opener`.
        block: Place in the block grid.
        checkpoint: The checkpoint's file.
        digest: SHA-256 of that file, as the run knows it.
        output: What becomes of the generated pixels.
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
    output: OutputConfig
    jpeg: JpegConfig = field(default_factory=JpegConfig)
    device: str = "cpu"
    artifact: Path
    out: Path
    receipt: Path
    key: str
    zarr: Path | None = None


def prepare_slide(task: PrepareTask) -> dict[str, Any]:
    """Do a `PrepareTask`, unless it is done.

    Returns:
        The receipt: key, product (the artifact), white [r, g, b] of the output, and `residual`, the mean CIEDE2000
        of the slide's table to the generator on tiles that were not fitted.

    Raises:
        StainError: The slide's stain was not measured.
        CheckpointError: The checkpoint changed, or does not fit the slide.
        StoreError: The slide is not in the store, or is damaged there.
        SlideError: Its file can no longer be read.
    """
    if done := journal.valid_receipt(task.receipt, task.key, task.artifact):
        return done
    with task.slide() as slide:
        normalizer = load_normalizer(task.output, task.checkpoint, task.device, task.digest)
        artifact = normalizer.prepare(slide, task.stain or slide.measured_stain())
    task.receipt.unlink(missing_ok=True)  # until the new one is written, none may vouch for these bytes
    save_artifact(task.artifact, artifact)
    details = {"residual": float(artifact["residual"])} if "residual" in artifact else {}
    return journal.write_receipt(task.receipt, task.key, task.artifact, white=list(normalizer.white), **details)


def normalize_block(task: NormalizeTask) -> dict[str, Any]:
    """Do a `NormalizeTask`, unless it is done.

    Memory bound: the block with its halo (55 MB at a halo of 96 px), its result (50 MB), one pass of the generator.

    Returns:
        The receipt: key, product (the block file; None where no tile of the block is kept), block [row, col], tiles,
        shards (those left in the OME-Zarr, as receipts describe files), holes ([[row, col], ...] of the tiles that were
        found unreadable in the slide's file and show its next coarser level), and where there are pixels what
        `normalized` says of them.

    Raises:
        CheckpointError: The checkpoint changed, or gave values that are no numbers.
        StoreError: The slide is not in the store, or is damaged there.
        SlideError: Its file can no longer be read.
        OutputError: The block file cannot be written, or the artifact cannot be read.
    """
    if done := _valid_receipt(task):
        return done
    with task.slide() as slide:
        ring = kept_ring(slide, task.block)
        kept, details = ring[1:-1, 1:-1], {"block": list(task.block), "tiles": int(ring[1:-1, 1:-1].sum())}
        if not kept.any():
            return journal.write_receipt(task.receipt, task.key, None, shards={}, holes=[], **details)
        normalizer = load_normalizer(task.output, task.checkpoint, task.device, task.digest)
        artifact = load_artifact(task.artifact)
        pixels, measured = normalized(slide, task.block, ring, normalizer, artifact, task.output)
    details["holes"] = [list(tile) for tile in sorted(slide.mended) if block_of(tile) == task.block]
    with _mapping(task.output.threads) as run:
        write_block(task.out, pixels, kept, task.jpeg, run)
    shards = {}
    if task.zarr is not None:
        levels = len(level_sizes(slide.size))
        shards = write_block_shards(task.zarr, task.block, pixels, kept, normalizer.white, levels)
    return journal.write_receipt(task.receipt, task.key, task.out, shards=shards, **measured, **details)


def _valid_receipt(task: NormalizeTask) -> dict[str, Any] | None:
    """The receipt of a block that is done, its shards included where they are wanted."""
    if glass := journal.valid_receipt(task.receipt, task.key, None):
        return glass
    done = journal.valid_receipt(task.receipt, task.key, task.out)
    if done is None or task.zarr is None:
        return done
    return done if done["shards"] and journal.files_hold(task.zarr, done["shards"]) else None


def kept_ring(slide: BlockReader, block: BlockIndex) -> Kept:
    """Which tiles of a block are kept, and of one more row and column on each side: (rows + 2, cols + 2)."""
    return with_ring(slide.kept, *_tiles(slide, block))


def _tiles(slide: BlockReader, block: BlockIndex) -> tuple[slice, slice]:
    """Rows and columns of the slide's tile grid that are a block's."""
    rows, cols = (
        slice(first * TILES_PER_BLOCK, min((first + 1) * TILES_PER_BLOCK, count))
        for first, count in zip(block, slide.kept.shape, strict=True)
    )
    return rows, cols


def normalized(
    slide: BlockReader,
    block: BlockIndex,
    ring: Kept,
    normalizer: Normalizer,
    artifact: Artifact,
    config: OutputConfig,
) -> tuple[Pixels, dict[str, Any]]:
    """A block in the reference's stain, faded into the reference's white, and what there is to say of its quality.

    Args:
        slide: Where the source's pixels come from.
        block: Place in the block grid.
        ring: From `kept_ring`.
        normalizer: What makes the new pixels.
        artifact: From its `prepare` for this slide.
        config: The settings it was loaded with.

    Returns:
        (h, w, 3) RGB; and for the receipt `seams` (see `seams`) and, except for a table, `unexplained`.
    """
    halo, kept = normalizer.halo, ring[1:-1, 1:-1]
    region = block_region(block, slide.size)
    window = slide.read(region.grown(halo))
    source = window[halo : halo + region.height, halo : halo + region.width]
    pixels = normalizer.apply(window, kept, artifact)
    measured: dict[str, Any] = {}
    if TABLE in artifact and config.mode != "lut":  # a table explains itself
        measured["unexplained"] = unexplained(source, pixels, kept, artifact[TABLE])
    fade_into(pixels, ring, normalizer.white)
    measured["seams"] = measure_seams(source, pixels, slide.tissue[_tiles(slide, block)], config.core)
    return pixels, measured


@contextmanager
def _mapping(threads: int) -> Iterator[Run]:
    """Something like `map`, in order, on a number of threads."""
    if threads == 1:
        yield map
        return
    with ThreadPoolExecutor(threads, "encode") as pool:
        yield pool.map
