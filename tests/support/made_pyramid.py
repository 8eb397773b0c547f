"""Slides as the block stage leaves them, to be stitched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.geometry import BLOCK, BlockIndex, Mpp, Size, block_region, grid_shape
from wsi_stain.formats.block_file import JpegConfig, halve, write_block
from wsi_stain.pyramid.stitch import StitchTask

Pixels = NDArray[np.uint8]
WHITE = (243, 240, 245)
"""What their glass has."""

STITCH = """
import pickle, sys
from wsi_stain.pyramid.stitch import stitch_slide
stitch_slide(pickle.load(sys.stdin.buffer))
"""
"""A program that does the pickled task on its standard input, to be killed."""

_JPEG = JpegConfig(quality=95)


def picture(size: Size) -> Pixels:
    """Smooth and colourful, nowhere symmetric."""
    y, x = np.mgrid[0 : size.height, 0 : size.width].astype(np.float32)
    channels = [np.sin(x / 61) * 50, np.cos(y / 47 + x / 200) * 60, np.sin((x + 2 * y) / 90) * 40]
    return np.stack([150 + channel for channel in channels], axis=-1).astype(np.uint8)


def levels_of(pixels: Pixels) -> Iterator[Pixels]:
    """The levels of a pyramid, without end."""
    while True:
        yield pixels
        pixels = halve(pixels)


def stitch_task(
    directory: Path,
    pixels: Pixels,
    missing: frozenset[BlockIndex] = frozenset(),
    jpeg: JpegConfig = _JPEG,
    **other: Any,
) -> StitchTask:
    """Write the blocks of a slide, the top left tile of each being glass.

    Args:
        directory: Where to.
        pixels: Level 0, (h, w, 3); it is changed to what the blocks show.
        missing: Blocks without tissue.
        jpeg: How tiles are encoded.
        other: Fields of the task that differ.
    """
    size, blocks = Size(pixels.shape[1], pixels.shape[0]), {}
    for index in map(BlockIndex._make, np.ndindex(grid_shape(size, BLOCK))):
        block = block_pixels(pixels, index)
        if index in missing:
            block[:] = WHITE
            continue
        block[:256, :256] = WHITE
        blocks[index] = directory / "blocks" / f"{index.row}-{index.col}"
        write_block(blocks[index], np.ascontiguousarray(block), kept_tiles(block), jpeg)
    task = StitchTask(
        slide_id="slide",
        size=size,
        mpp=Mpp(0.25, 0.26),
        objective_power=40.0,
        placement=None,
        white=WHITE,
        icc_profile=None,
        blocks=blocks,
        jpeg=jpeg,
        provenance={"checkpoint": "digest"},
        output=directory / "slides" / "slide.ome.tif",
        receipt=directory / "receipts" / "slide.json",
        key="key",
    )
    return replace(task, **other)


def block_pixels(pixels: Pixels, index: BlockIndex) -> Pixels:
    """A block of a slide; a view."""
    region = block_region(index, Size(pixels.shape[1], pixels.shape[0]))
    return pixels[region.y : region.y + region.height, region.x : region.x + region.width]


def kept_tiles(block: Pixels) -> NDArray[np.bool_]:
    """All tiles of a block but the first."""
    kept = np.ones(grid_shape(Size(block.shape[1], block.shape[0])), np.bool_)
    kept[0, 0] = False
    return kept
