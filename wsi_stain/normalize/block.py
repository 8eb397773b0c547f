"""One block on its way through a normalizer: read, normalized, measured, faded into white, encoded. Writes no files.

The block is worked on in bands of rows. One thread reads ahead, others take the bands: while one band is read, the
next is with the generator and another is encoded. With one thread all of it happens in turn. A pixel's result depends
on no band, so the bytes are the same.

Memory bound, whatever the slide's size: the block with its halo (57 MB at a halo of 128 px), 90 MB for reading, the
coarser levels and the encoded tiles, the result of a band for each thread (17 MB at 1024 rows) or where it is kept of
the block (67 MB), and for each thread a pass of the generator: with the `small` configuration (16 channels, at half of
the slide's resolution) 50 MB in bfloat16, 70 in float32. Where passes are blended, 200 MB more and a larger halo.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_stain.core.arrays import Mask, RgbImage, RgbxImage
from wsi_stain.core.geometry import TILE, BlockIndex, Region, block_region, ceil_div, tile_slices
from wsi_stain.formats.block_file import JpegConfig, block_tiles, encode_jpeg, halve
from wsi_stain.metrics.hallucination import hallucination, pack_map
from wsi_stain.metrics.seams import SeamLines, SeamSums
from wsi_stain.normalizers.background import fade_to_white, show_exempt, with_ring
from wsi_stain.normalizers.base import Normalizer
from wsi_stain.normalizers.config import NormalizeConfig
from wsi_stain.normalizers.lut import LutNormalizer
from wsi_stain.store import TiledSlide
from wsi_stain.store.artifact import TABLE, Artifact, NormalizationCounts

T = TypeVar("T")


@dataclass(frozen=True)
class BlockWorkers:
    """Threads that do the work of one task.

    Attributes:
        reader: Reads the slide, one thing at a time.
        band_workers: Do everything else.
    """

    reader: Executor
    band_workers: Executor


@dataclass(frozen=True)
class NormalizedBlock:
    """A normalized block.

    Attributes:
        pixels: (h, w, 4) RGBX, faded into the reference's white; None where nobody asked for them.
        half: The same at level 1, (ceil(h / 2), ceil(w / 2), 4).
        streams: JPEG of the kept tiles of level 0, row-major.
        seams: See `metrics/seams.py`.
        retried: Passes of the generator that were computed again in float32.
        hallucination: See `metrics/hallucination.py`; None where the output is a colour table, which explains itself.
    """

    pixels: RgbxImage | None
    half: RgbxImage
    streams: list[bytes]
    seams: SeamSums
    retried: int
    hallucination: str | None


_IDLE: defaultdict[int, list[BlockWorkers]] = defaultdict(list)
"""Threads that no task has now, by their number: a process keeps what it started, since cuDNN plans its convolutions
anew in each thread, and a thread's plans are never freed."""


@contextmanager
def block_workers(threads: int) -> Iterator[BlockWorkers]:
    """Give a task as many threads of its own; with one, the caller's does all. Torch itself takes one thread.

    A task that fails waits until its threads have ended what they do, and they are not used again.
    """
    torch.set_num_threads(1)  # with more, sums within a convolution come out differently
    if threads == 1:
        yield BlockWorkers(_InlineExecutor(), _InlineExecutor())
        return
    idle = _IDLE[threads]
    try:
        workers = idle.pop()  # tasks are threads of one process: this and append are atomic
    except IndexError:
        workers = BlockWorkers(ThreadPoolExecutor(1, "read"), ThreadPoolExecutor(threads, "block"))
    try:
        yield workers
    except BaseException:
        workers.reader.shutdown(cancel_futures=True)
        workers.band_workers.shutdown(cancel_futures=True)
        raise
    idle.append(workers)


class _InlineExecutor(Executor):
    """Executor that runs what is submitted at once, in the thread that submits it."""

    def submit(self, function: Callable[..., T], /, *arguments: Any, **keywords: Any) -> Future[T]:
        results: Future[T] = Future()
        results.set_result(function(*arguments, **keywords))
        return results


def kept_ring(slide: TiledSlide, block: BlockIndex) -> Mask:
    """Return which tiles of a block are kept, and of one more row and column on each side: (rows + 2, cols + 2)."""
    return with_ring(slide.kept, *tile_slices(block_region(block, slide.size)))


def normalize_block_pixels(
    slide: TiledSlide,
    block: BlockIndex,
    normalizer: Normalizer,
    artifact: Artifact,
    config: NormalizeConfig,
    jpeg: JpegConfig,
    workers: BlockWorkers,
    keep_pixels: bool = False,
) -> NormalizedBlock:
    """Normalize a block, measure it, fade it and encode its tiles.

    Args:
        slide: Where the source's pixels come from.
        block: Place in the block grid.
        normalizer: What makes the new pixels.
        artifact: From its `prepare` for this slide.
        config: The settings it was loaded with.
        jpeg: How the tiles are encoded.
        workers: Who works.
        keep_pixels: Whether they are wanted.
    """
    work = _BlockJob(slide, block, normalizer, artifact, config, jpeg, keep_pixels)
    reads = [workers.reader.submit(work.read, *span) for span in work.spans()]
    bands = [workers.band_workers.submit(work.band, index, reads[: index + 1]) for index in range(len(reads))]
    results = [band.result() for band in bands]
    return NormalizedBlock(
        pixels=work.pixels,
        half=work.half,
        streams=[stream for band in results for stream in band.streams],
        seams=work.seams.measure(work.tissue),
        retried=sum(band.retried for band in results),
        hallucination=(
            None if work.table is None else pack_map(np.concatenate([band.hallucination for band in results]))
        ),
    )


@dataclass(frozen=True)
class _BandResult:
    streams: list[bytes]
    hallucination: NDArray[np.uint8]
    retried: int


class _BlockJob:
    """The block while it is worked on; each band's rows are written by who has that band."""

    def __init__(
        self,
        slide: TiledSlide,
        block: BlockIndex,
        normalizer: Normalizer,
        artifact: Artifact,
        config: NormalizeConfig,
        jpeg: JpegConfig,
        keep_pixels: bool,
    ) -> None:
        self._slide, self._normalizer, self._artifact, self._jpeg = slide, normalizer, artifact, jpeg
        self._region, halo = block_region(block, slide.size), normalizer.halo
        self._ring, self.tissue = kept_ring(slide, block), slide.tissue[tile_slices(self._region)]
        self.table = artifact.get(TABLE) if config.mode != "lut" else None
        height, width = self._region.height, self._region.width
        self._window = np.empty((height + 2 * halo, width + 2 * halo, 3), np.uint8)
        self._source = self._window[halo : halo + height, halo : halo + width]
        self.seams = SeamLines((height, width), config.stride_px)
        self.pixels: RgbxImage | None = np.empty((height, width, 4), np.uint8) if keep_pixels else None
        self.half: RgbxImage = np.empty((ceil_div(height, 2), ceil_div(width, 2), 4), np.uint8)

    def spans(self) -> list[tuple[int, int]]:
        """List, for each band, the first row to read and the one after the last, from the window's top.

        They are cut between tiles of the slide, so that each tile is decoded once.
        """
        halo, height = self._normalizer.halo, self._region.height
        beyond = ceil_div(halo, TILE) * TILE
        ends = [
            min(bottom + beyond, height + halo) + halo
            for bottom in range(self._normalizer.band, height, self._normalizer.band)
        ]
        ends.append(height + 2 * halo)
        return list(zip([0, *ends], ends, strict=False))

    def read(self, start: int, end: int) -> None:
        """Read rows of the window."""
        whole = self._region.expand(self._normalizer.halo)
        self._slide.read(Region(whole.x, whole.y + start, whole.width, end - start), self._window[start:end])

    def band(self, index: int, reads: Sequence[Future[None]]) -> _BandResult:
        """Do all work on one band, once its rows are there."""
        for read in reads:
            read.result()
        top, rows = index * self._normalizer.band, self._normalizer.band // TILE
        bottom = min(top + self._normalizer.band, self._region.height)
        window = self._window[top : bottom + 2 * self._normalizer.halo]
        source, words = self._source[top:bottom], self._band_words(top, bottom)
        pixels = words[..., :3]
        ring = self._ring[index * rows : (index + 1) * rows + 2]
        kept, tally = ring[1:-1, 1:-1], NormalizationCounts()
        self._normalize(window, kept, tally, words)
        beyond = (
            np.zeros(kept.shape, np.uint8) if self.table is None else hallucination(source, pixels, kept, self.table)
        )
        region = Region(self._region.x, self._region.y + top, self._region.width, bottom - top)
        show_exempt(self._slide, region, pixels, source, self._normalizer.white)
        fade_to_white(words, ring, self._normalizer.white)
        self.seams.add(top, source, pixels)
        self.half[top // 2 : ceil_div(bottom, 2)] = halve(words)  # a band begins at an even row
        tiles = block_tiles(words, kept).values()
        streams = [encode_jpeg(tile, self._jpeg.quality, self._jpeg.subsampling) for tile in tiles]
        return _BandResult(streams, beyond, tally.retried)

    def _band_words(self, top: int, bottom: int) -> RgbxImage:
        """Return room for a band: of the block where that is kept, else of its own, which the next band takes over."""
        if self.pixels is not None:
            return self.pixels[top:bottom]
        return np.empty((bottom - top, self._region.width, 4), np.uint8)

    def _normalize(self, window: RgbImage, kept: Mask, tally: NormalizationCounts, out: RgbxImage) -> None:
        """Normalize a band; a table gives RGBX, of which a pixel is written as one word."""
        if isinstance(self._normalizer, LutNormalizer):
            self._normalizer.apply_to(window, kept, self._artifact, out)
            return
        made = self._normalizer.apply(window, kept, self._artifact, tally)
        for channel in range(3):  # five times as fast as three bytes at a time
            out[..., channel] = made[..., channel]
