"""Stitching: block files in, one pyramid out.

    block files, row by row --+-- JPEG tiles of levels 0 to 3, copied as bytes --> PyramidTiff
                              '-- mips = level 4 --> its tiles, halve --> level 5 --> its tiles, halve ...

A pixel of levels 0 to 3 was compressed once, when its block was made. Coarser levels are made from the lossless mips,
so they too are compressed once.

Memory bound: one block file (some 10 MB, checked whole before a byte of it is copied), and of each level from 4 on two
strips of 256 rows: 21 MB for a slide of 150,000 px width. It rests on blocks coming in row-major order and on a block's
mip being one tile high.

Knows neither stores nor generators, and of the TIFF only that tiles are put into it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from wsi_stain import journal
from wsi_stain.blockfile import LEVELS, BlockFile, JpegConfig, encode_jpeg, halve
from wsi_stain.errors import OutputError
from wsi_stain.geometry import (
    BLOCK,
    TILE,
    TILES_PER_BLOCK,
    BlockIndex,
    Mpp,
    Size,
    TileIndex,
    block_region,
    ceil_div,
    grid_shape,
    level_sizes,
)
from wsi_stain.ome_tiff import PyramidTiff
from wsi_stain.ome_xml import ome_xml

_PX_PER_MIP_PX = 2**LEVELS

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class StitchTask:
    """One slide to assemble.

    Attributes:
        slide_id: The slide's name in receipts; it does not go into the file.
        size: Size of level 0, px.
        mpp: Resolution of level 0, um per px.
        objective_power: Nominal magnification, or None when it is not known.
        white: Colour of glass, R, G, B, 0 to 255.
        icc_profile: Profile of the pixels' colour space, or None.
        blocks: Block files by their place in the block grid; what is not listed is glass.
        jpeg: Settings for glass and for the levels made here.
        provenance: How the pixels were made; goes into the OME-XML, so no free text of the source.
        output: The pyramid's final name.
        receipt: Where the receipt goes.
        key: Fingerprint of everything that the pyramid depends on.
    """

    slide_id: str
    size: Size
    mpp: Mpp
    objective_power: float | None
    white: tuple[int, int, int]
    icc_profile: bytes | None
    blocks: Mapping[BlockIndex, Path]
    jpeg: JpegConfig
    provenance: Mapping[str, str]
    output: Path
    receipt: Path
    key: str


def stitch_slide(task: StitchTask) -> dict[str, Any]:
    """Assemble a slide's pyramid, unless its valid receipt says that this is done.

    Returns:
        The receipt; beside journal's keys it has slide_id and levels (their number).

    Raises:
        OutputError: A block file is missing or damaged, or the pyramid cannot be written.
    """
    done = journal.valid_receipt(task.receipt, task.key, task.output)
    if done is not None:
        return done
    journal.atomic_write(task.output, partial(_write_pyramid, task))
    levels = len(level_sizes(task.size))
    return journal.write_receipt(task.receipt, task.key, task.output, slide_id=task.slide_id, levels=levels)


def _write_pyramid(task: StitchTask, file: BinaryIO) -> None:
    sizes = level_sizes(task.size)
    tiff = PyramidTiff(file, sizes, _encoded(task, _glass(task, TILE, TILE)), task.jpeg.subsampling)
    strips = _block_rows(task, tiff, min(LEVELS, len(sizes)))
    for level in range(LEVELS, len(sizes)):
        strips = _put_strips(task, tiff, level, strips if level == LEVELS else halved_strips(strips))
    deque(strips, maxlen=0)
    description = ome_xml(task.size, task.mpp, task.objective_power, task.provenance)
    tiff.finish(task.mpp, description, task.icc_profile)


def halved_strips(strips: Iterable[Pixels]) -> Iterator[Pixels]:
    """A level as strips of 256 rows (the last may have fewer), as such strips of the next coarser level."""
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


def _block_rows(task: StitchTask, tiff: PyramidTiff, levels: int) -> Iterator[Pixels]:
    """Copy the tiles of `levels` levels from each block; yields each block row's mips side by side, (<= 256, w, 3)."""
    rows, cols = grid_shape(task.size, BLOCK)
    for row in range(rows):
        mips = [_copy_block(task, tiff, levels, BlockIndex(row, col)) for col in range(cols)]
        yield np.concatenate(mips, axis=1)


def _copy_block(task: StitchTask, tiff: PyramidTiff, levels: int, block: BlockIndex) -> Pixels:
    """Copy one block's tiles; returns its mip, the glass's colour where there is no such block."""
    region = block_region(block, task.size)
    path = task.blocks.get(block)
    if path is None:
        return _glass(task, ceil_div(region.height, _PX_PER_MIP_PX), ceil_div(region.width, _PX_PER_MIP_PX))
    block_file = _whole_block(path, Size(region.width, region.height), task.jpeg)
    for level in range(levels):
        _copy_level(block_file, tiff, level, block)
    journal.failpoint("stitch-block")
    return block_file.mip


def _copy_level(block_file: BlockFile, tiff: PyramidTiff, level: int, block: BlockIndex) -> None:
    rows, cols = block_file.shape(level)
    side = TILES_PER_BLOCK >> level
    for row, col in product(range(rows), range(cols)):
        jpeg = block_file.tile(level, row, col)
        if jpeg:
            tiff.put(level, TileIndex(block.row * side + row, block.col * side + col), jpeg)


def _whole_block(path: Path, size: Size, jpeg: JpegConfig) -> BlockFile:
    """A block's file, checked; one that is damaged or of another slide is removed, so that a rerun makes it anew."""
    try:
        block_file = BlockFile(path)
        if (block_file.size, block_file.jpeg) != (size, jpeg):
            raise OutputError(
                f"{path} should hold {size.width} x {size.height} px ({jpeg})"
                f" and holds {block_file.size.width} x {block_file.size.height} ({block_file.jpeg})",
                "Run the same command again",
            )
    except OutputError:
        path.unlink(missing_ok=True)
        raise
    return block_file


def _put_strips(task: StitchTask, tiff: PyramidTiff, level: int, strips: Iterable[Pixels]) -> Iterator[Pixels]:
    """Encode the strips of a level and put their tiles; hands each strip on."""
    for row, strip in enumerate(strips):
        for col in range(ceil_div(strip.shape[1], TILE)):
            pixels = strip[:, col * TILE : (col + 1) * TILE]
            if (pixels != task.white).any():
                tiff.put(level, TileIndex(row, col), _encoded(task, _padded(pixels)))
        yield strip


def _encoded(task: StitchTask, tile: Pixels) -> bytes:
    return encode_jpeg(tile, task.jpeg.quality, task.jpeg.subsampling)


def _padded(pixels: Pixels) -> Pixels:
    height, width, _ = pixels.shape
    return np.pad(pixels, ((0, TILE - height), (0, TILE - width), (0, 0)), mode="edge")


def _glass(task: StitchTask, height: int, width: int) -> Pixels:
    return np.full((height, width, 3), task.white, np.uint8)
