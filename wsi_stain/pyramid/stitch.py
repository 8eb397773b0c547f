"""Stitching: block files in, one pyramid out.

    block files, row by row --+-- JPEG tiles of levels 0 to 3, copied as bytes --> sink
                              '-- mips = level 4 --> sink, halve --> level 5 --> sink, halve ...

The sink is the hybrid OME-TIFF, or an OME-Zarr whose levels 0 to 3 the blocks have left themselves. In the TIFF a pixel
of levels 0 to 3 was compressed once, when its block was made. Coarser levels are made from the lossless mips, so they
too are compressed once.

Memory bound: two block files (some 10 MB each, checked whole before a byte is copied), and of each level from 4 on two
strips of 256 rows: 21 MB for a slide of 150,000 px width. It rests on blocks coming in row-major order and on a block's
mip being one tile high.

Knows no store or generator. Of the formats it needs only that blocks and strips are put into them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

import numpy as np

from wsi_stain.core import journal
from wsi_stain.core.arrays import Rgb8, RgbImage
from wsi_stain.core.errors import OutputError
from wsi_stain.core.geometry import (
    BLOCK,
    TILE,
    BlockIndex,
    GlassPlacement,
    Mpp,
    Size,
    block_region,
    ceil_div,
    grid_shape,
    level_sizes,
)
from wsi_stain.core.icc import encode_profile
from wsi_stain.core.receipts import (
    Product,
    Receipt,
    commit_directory,
    directory_product,
    file_product,
    partial_directory,
    valid_receipt,
    write_receipt,
)
from wsi_stain.formats.block_file import LEVELS, BlockFile, JpegConfig, encode_jpeg, halve
from wsi_stain.formats.ome_tiff import PyramidTiff, ome_xml
from wsi_stain.pyramid.ome_zarr import PyramidZarr
from wsi_stain.pyramid.tiff_sink import TiffSink

_PX_PER_MIP_PX = 2**LEVELS
_BLOCKS_AHEAD = 1


Format = Literal["ome-tiff", "ome-zarr"]


class PyramidSink(Protocol):
    """Sink of a pyramid: takes its blocks, then its coarser levels."""

    def put_block(self, block: BlockIndex, content: BlockFile | None) -> None:
        """Take levels 0 to 3 of a block; blocks come row by row; None where the block is all glass."""

    def put_strip(self, level: int, row: int, strip: RgbImage) -> None:
        """Take one row of tiles, (<= 256, width, 3), of level 4 or a coarser one."""


@dataclass(frozen=True)
class StitchTask:
    """One slide to assemble in one format.

    Attributes:
        slide_id: The slide's name in receipts; it does not go into the file.
        size: Size of level 0, px.
        mpp: Resolution of level 0, um per px.
        objective_power: Nominal magnification, or None when it is not known.
        placement: How the slide lies on its glass, or None when it is not known.
        white: Colour of glass, R, G, B, 0 to 255.
        icc_profile: Profile of the pixels' colour space, or None.
        blocks: Block files by their index in the block grid; what is not listed is glass.
        jpeg: Settings for glass and for the levels made here, in a TIFF.
        provenance: How the pixels were made; goes into the metadata, so no free text of the source.
        output: The pyramid's final name.
        receipt: Where the receipt goes.
        key: Fingerprint of everything that the pyramid depends on.
        format: What to make.
        shards: For OME-Zarr, the shards that the blocks have left, as their receipts describe them.
    """

    slide_id: str
    size: Size
    mpp: Mpp
    objective_power: float | None
    placement: GlassPlacement | None
    white: Rgb8
    icc_profile: bytes | None
    blocks: Mapping[BlockIndex, Path]
    jpeg: JpegConfig
    provenance: Mapping[str, str]
    output: Path
    receipt: Path
    key: str
    format: Format = "ome-tiff"
    shards: journal.Files = field(default_factory=dict)


class PyramidReceipt(Receipt):
    """Receipt of a stitched pyramid.

    Attributes:
        slide_id: The slide's name.
        levels: How many levels it has.
        mpp: Resolution of level 0, [x, y], um per px.
        objective_power: Nominal magnification, or None when it is not known.
        placement: How the slide lies on its glass, or None when it is not known.
        provenance: How the pixels were made.
    """

    slide_id: str
    levels: int
    mpp: list[float]
    objective_power: float | None
    placement: GlassPlacement | None
    provenance: dict[str, str]


def stitch_slide(task: StitchTask) -> PyramidReceipt:
    """Assemble a slide's pyramid, unless its valid receipt says that this is done.

    Returns:
        The receipt; beside journal's keys it has slide_id, levels (their number), mpp [x, y], objective_power,
        placement and provenance.

    Raises:
        OutputError: A block file or a shard is missing or damaged, or the pyramid cannot be written.
    """
    done = valid_receipt(task.receipt, task.key, task.output, PyramidReceipt)
    if done is not None:
        return done
    if task.format == "ome-zarr":
        folder = partial_directory(task.output)
        product = directory_product(task.output.name, _write_zarr(task, folder))
        return commit_directory(folder, task.output, task.receipt, _receipt(task, product))
    journal.atomic_write(task.output, lambda file: _write_tiff(task, file))
    return write_receipt(task.receipt, _receipt(task, file_product(task.output)))


def _receipt(task: StitchTask, product: Product) -> PyramidReceipt:
    return {
        "key": task.key,
        "product": product,
        "slide_id": task.slide_id,
        "levels": len(level_sizes(task.size)),
        "mpp": list(task.mpp),
        "placement": task.placement,
        "objective_power": task.objective_power,
        "provenance": dict(task.provenance),
    }


def _write_tiff(task: StitchTask, file: BinaryIO) -> None:
    sizes = level_sizes(task.size)
    with ThreadPoolExecutor(1, "encode") as pool:
        glass = encode_jpeg(_glass(task, TILE, TILE), task.jpeg.quality, task.jpeg.subsampling)
        tiff = PyramidTiff(file, sizes, glass, task.jpeg.subsampling)
        sink = TiffSink(tiff, min(LEVELS, len(sizes)), task.white, task.jpeg, pool)
        _put_levels(task, sink)
        sink.finish()
        description = ome_xml(task.size, task.mpp, task.objective_power, task.provenance)
        tiff.finish(task.mpp, description, task.icc_profile)


def _write_zarr(task: StitchTask, folder: Path) -> journal.Files:
    pyramid = PyramidZarr(folder, level_sizes(task.size), task.white)
    _put_levels(task, pyramid)
    attributes = {
        "provenance": dict(task.provenance),
        "objective_power": task.objective_power,
        "icc_profile": encode_profile(task.icc_profile),
    }
    return pyramid.finish(task.mpp, attributes, task.shards)


def _put_levels(task: StitchTask, sink: PyramidSink) -> None:
    """Put all levels of a slide into a sink."""
    strips = _block_rows(task, sink)
    for level in range(LEVELS, len(level_sizes(task.size))):
        strips = _put_strips(sink, level, strips if level == LEVELS else halve_strips(strips))
    deque(strips, maxlen=0)


def _block_rows(task: StitchTask, sink: PyramidSink) -> Iterator[RgbImage]:
    """Put each block; yields each block row's mips side by side, (<= 256, w, 3)."""
    rows, cols = grid_shape(task.size, BLOCK)
    blocks = _read_ahead(task, [BlockIndex(row, col) for row in range(rows) for col in range(cols)])
    for _row in range(rows):
        yield np.concatenate([_put_block(task, sink, *content) for content in islice(blocks, cols)], axis=1)


def _read_ahead(task: StitchTask, blocks: Iterable[BlockIndex]) -> Iterator[tuple[BlockIndex, BlockFile | None]]:
    """Yield each block with its file; the next is read and checked while the last is being put."""
    with ThreadPoolExecutor(1, "read") as pool:
        coming: deque[tuple[BlockIndex, Future[BlockFile | None]]] = deque()
        for block in blocks:
            coming.append((block, pool.submit(_read_block, task, block)))
            if len(coming) > _BLOCKS_AHEAD:
                first, content = coming.popleft()
                yield first, content.result()
        for last, content in coming:
            yield last, content.result()


def _put_block(task: StitchTask, sink: PyramidSink, block: BlockIndex, content: BlockFile | None) -> RgbImage:
    """Put one block; returns its mip, the glass's colour where there is no such block."""
    sink.put_block(block, content)
    if content is not None:
        journal.failpoint("stitch-block")
        return content.mip
    region = block_region(block, task.size)
    return _glass(task, ceil_div(region.height, _PX_PER_MIP_PX), ceil_div(region.width, _PX_PER_MIP_PX))


def _put_strips(sink: PyramidSink, level: int, strips: Iterable[RgbImage]) -> Iterator[RgbImage]:
    """Put the strips of a level; hands each strip on."""
    for row, strip in enumerate(strips):
        sink.put_strip(level, row, strip)
        yield strip


def halve_strips(strips: Iterable[RgbImage]) -> Iterator[RgbImage]:
    """Halve a level given as strips of 256 rows (the last may have fewer); yields such strips of the coarser level."""
    upper = None
    for strip in strips:
        lower = halve(strip)
        if upper is None:
            upper = lower
        else:
            yield np.concatenate([upper, lower])
            upper = None
    if upper is not None:
        yield upper


def _read_block(task: StitchTask, block: BlockIndex) -> BlockFile | None:
    """Read and check a block's file; one that is damaged or of another slide is removed, so that a rerun makes it."""
    path, region = task.blocks.get(block), block_region(block, task.size)
    if path is None:
        return None
    try:
        block_file = BlockFile(path)
        if (block_file.size, block_file.jpeg) != (Size(region.width, region.height), task.jpeg):
            raise OutputError(
                f"{path} should hold {region.width} x {region.height} px ({task.jpeg})"
                f" and holds {block_file.size.width} x {block_file.size.height} ({block_file.jpeg})",
                "Run the same command again",
            )
    except OutputError:
        path.unlink(missing_ok=True)
        raise
    return block_file


def _glass(task: StitchTask, height: int, width: int) -> RgbImage:
    return np.full((height, width, 3), task.white, np.uint8)
