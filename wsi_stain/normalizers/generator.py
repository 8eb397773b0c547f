"""The generator over every tissue tile: as it is, or with the source's own detail. Knows no files.

Where a window can show all that its core's pixels see, the output does not depend on where a slide is cut: the margin
is at least the receptive field's reach, core and margin are multiples of the generator's step (2**downs), and
BatchNorm uses frozen statistics. A generator that sees too far for that (the paper's unet_256: 765 px) works on smaller
windows whose results are blended; see `windows`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_stain.core.geometry import BLOCK, TILE
from wsi_stain.normalizers import guided_filter
from wsi_stain.normalizers.predictor import Pixels, Recolourer, Started, rounded_up
from wsi_stain.normalizers.windows import Place, Windows
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.store.artifact import STATISTICS, Artifact, Tally, packed, statistics_of
from wsi_stain.store.block_reader import BlockReader

_BLENDED_BEYOND = 512
"""What a window of blended results shows beyond its core on both sides together, px, at least."""

_AHEAD = 2
"""Passes that may be under way, or done and not fetched."""

_EVEN = 100.0
"""Variance of a window, in squared grey levels, that still counts as even; the scanner's noise has about 10."""


class TableFitter(Protocol):
    """What finds a slide's colour table: at once, or from parts that several processes looked at."""

    def prepare(self, slide: BlockReader, statistics: StainStatistics) -> Artifact: ...

    def sample(self, slide: BlockReader, statistics: StainStatistics, part: int) -> Artifact: ...

    def fit(self, statistics: StainStatistics, samples: Sequence[Artifact]) -> Artifact: ...


class GeneratorNormalizer:
    """Generated pixels as they are, over every tissue tile.

    Args:
        recolourer: The generator.
        white: The background where nothing is generated, RGB.
        core: Side of the square that is one pass's own, px; rounded up to the generator's step. Where it is less than
            twice the generator's halo, results are blended, and it is rounded to what divides a block.
        table: What finds the slide's colour table, as `LutNormalizer` does: what the generator does beyond it is the
            hallucination map. Without it there is none.
        batch: Windows of a pass; the last one of a block is filled up.
    """

    _margin = 0
    """Generated pixels on each side of a result that are needed to make it."""

    def __init__(
        self,
        recolourer: Recolourer,
        white: tuple[int, int, int],
        core: int = 1024,
        table: TableFitter | None = None,
        batch: int = 1,
    ) -> None:
        self._recolourer, self._table, self._batch, self.white = recolourer, table, batch, white
        core, overlap, self._crop = _cut(core, recolourer)
        self._windows = Windows(core, overlap, self._crop + self._margin)
        self.halo, self.band = self._windows.halo, self._windows.band

    def prepare(self, slide: BlockReader, statistics: StainStatistics) -> Artifact:
        """The slide's stain statistics, and its table; CheckpointError where the generator does not fit the slide."""
        self._recolourer.check_fits(slide)
        return {STATISTICS: packed(statistics), **(self._table.prepare(slide, statistics) if self._table else {})}

    def sample(self, slide: BlockReader, statistics: StainStatistics, part: int) -> Artifact:
        """A part of what the table is fitted to; CheckpointError where the generator does not fit the slide."""
        self._recolourer.check_fits(slide)
        return self._table.sample(slide, statistics, part) if self._table else {}

    def fit(self, statistics: StainStatistics, samples: Sequence[Artifact]) -> Artifact:
        """What `prepare` gives, from what `sample` gave."""
        return {STATISTICS: packed(statistics), **(self._table.fit(statistics, samples) if self._table else {})}

    def apply(
        self, pixels: Pixels, needed: NDArray[np.bool_], artifact: Artifact, tally: Tally | None = None
    ) -> Pixels:
        """Generate the cores in which a needed tile lies; the rest is white.

        Memory bound: the result (where it is blended, four times that), and the activations of a pass; on a GPU of two.
        """
        height, width = pixels.shape[0] - 2 * self.halo, pixels.shape[1] - 2 * self.halo
        made = self._passes(pixels, self._windows.places(needed), statistics_of(artifact), tally or Tally())
        return self._windows.joined(made, (height, width), self.white)

    def _passes(
        self, pixels: Pixels, places: list[Place], statistics: StainStatistics, tally: Tally
    ) -> Iterator[tuple[Place, Pixels]]:
        """Each core's place and result, in the order of `places`; a few passes are begun ahead."""
        started: deque[tuple[list[Place], Started]] = deque()
        for first in range(0, len(places), self._batch):
            batch = places[first : first + self._batch]
            windows = [self._windows.cut(pixels, place) for place in batch]
            windows += [np.zeros_like(windows[0])] * (self._batch - len(batch))
            started.append((batch, self._recolourer.start(windows, statistics, self._crop, self._finished)))
            if len(started) == _AHEAD:
                yield from _ended(started, tally)
        while started:
            yield from _ended(started, tally)

    def _finished(self, windows_BHWC: Tensor, generated_BHWC: Tensor) -> Tensor:
        """What becomes of generated pixels: see `recolourer.Finish`."""
        return generated_BHWC


class GuardNormalizer(GeneratorNormalizer):
    """The source with the smooth part of the generator's change: colour moves, detail stays the source's.

    Args:
        recolourer: The generator.
        white: The background where nothing is generated, RGB.
        core: As for `GeneratorNormalizer`.
        radius: Half the side of the windows in which the change is taken for smooth, px; see `guided`.
        table: As for `GeneratorNormalizer`.
        batch: As for `GeneratorNormalizer`.
    """

    def __init__(
        self,
        recolourer: Recolourer,
        white: tuple[int, int, int],
        core: int,
        radius: int,
        table: TableFitter | None = None,
        batch: int = 1,
    ) -> None:
        self._radius = rounded_up(radius, guided_filter.STEP)
        self._margin = rounded_up(guided_filter.reach(self._radius), max(32, recolourer.step))
        super().__init__(recolourer, white, core, table, batch)

    def _finished(self, windows_BHWC: Tensor, generated_BHWC: Tensor) -> Tensor:
        crop, margin = self._crop, self._margin
        source_BHWC = windows_BHWC[:, crop:-crop, crop:-crop].to(generated_BHWC)
        source_BCHW, changed_BCHW = (image.permute(0, 3, 1, 2) for image in (source_BHWC, generated_BHWC))
        with torch.inference_mode():
            kept_BCHW = guided_filter.guided(source_BCHW, changed_BCHW, self._radius, _EVEN)
        return kept_BCHW[:, :, margin:-margin, margin:-margin].permute(0, 2, 3, 1)


def _cut(core: int, recolourer: Recolourer) -> tuple[int, int, int]:
    """Core, overlap and crop: exact where the halo is at most half the core, else blended.

    Blended, a quarter of what a window shows beyond its core is thrown away on each side and a quarter is overlap.
    """
    core = rounded_up(core, recolourer.step)
    if 2 * recolourer.halo <= core:
        return core, 0, recolourer.halo
    while BLOCK % core:
        core -= TILE
    core = max(core, recolourer.step)
    quarter = rounded_up(_BLENDED_BEYOND, recolourer.step) // 4
    return core, quarter, quarter


def _ended(started: deque[tuple[list[Place], Started]], tally: Tally) -> Iterator[tuple[Place, Pixels]]:
    places, fetch = started.popleft()
    yield from zip(places, fetch(tally), strict=False)  # without what filled the batch up
