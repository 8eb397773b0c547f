"""The generator over every tissue tile, its colours held to the slide's table; or with the source's detail.

Writes no files.

Where a window can show all that its core's pixels see, the output does not depend on where a slide is cut: the window
reaches as far beyond its core as they see, both are multiples of the generator's step (2**downs), and BatchNorm uses
frozen statistics. A generator that sees too far for that (the paper's unet_256: 765 px) works on smaller
windows whose results are blended; see `windows`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import partial

import numpy as np
from torch import Tensor

from wsi_stain.core.arrays import Mask, Rgb8, RgbImage
from wsi_stain.core.geometry import BLOCK, TILE, round_up
from wsi_stain.normalizers import smooth
from wsi_stain.normalizers.lut import TableFit
from wsi_stain.normalizers.predictor import GeneratorPredictor, PendingBatch
from wsi_stain.normalizers.windows import Corner, Part, Windows
from wsi_stain.pix2pix.resample import enlarge, round_pixels
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.store import TiledSlide
from wsi_stain.store.artifact import (
    STATISTICS,
    TABLE,
    Artifact,
    NormalizationCounts,
    pack_statistics,
    unpack_statistics,
)

_BLENDED_MARGINS = 512
"""What a window of blended results shows beyond its core on both sides together, px, at least."""

HoldTarget = tuple[Tensor, Tensor]
"""The slide's colour table, (N, N, N, 3), and its white, (3,), on the device."""

_AHEAD = 2
"""Passes that may be under way, or done and not fetched."""

_EVEN_VARIANCE = 100.0
"""Variance of a window, in squared grey levels, that still counts as even; the scanner's noise has about 10."""


class GeneratorNormalizer:
    """Generated pixels over every tissue tile, their mean colour around each held to the slide's table.

    Args:
        predictor: The generator.
        white: The background where nothing is generated, RGB.
        stride_px: Side of the square that is one pass's own, px; rounded up to the generator's step. Where it is less
            than twice the generator's halo, results are blended, and it is rounded to what divides a block.
        table: What fits the slide's colour table: what the generator does beyond it is the hallucination map. Without
            it there is none, and nothing is held.
        batch: Windows of a pass; the last one of a block is filled up.
        hold_radius: Half the side of the squares that a mean is taken over, px; see `smooth`. 0 leaves generated
            pixels as they are.
    """

    _smoothing_reach = 0
    """How far a subclass's own filter looks, px."""

    def __init__(
        self,
        predictor: GeneratorPredictor,
        white: Rgb8,
        stride_px: int = 1024,
        table: TableFit | None = None,
        batch: int = 1,
        hold_radius: int = 0,
    ) -> None:
        self._predictor, self.table, self._batch, self.white = predictor, table, batch, white
        self._hold_radius = round_up(hold_radius, smooth.STEP) if table else 0
        held_reach, enlarged_reach = smooth.reach(self._hold_radius), round_up(predictor.shrink - 1, smooth.STEP)
        self._own_reach = held_reach if self._hold_radius else enlarged_reach
        self._margin = self._own_reach + self._smoothing_reach  # generated pixels beyond a result that make it
        stride_px, overlap, around = _plan_windows(stride_px, predictor, self._margin)
        self._crop = around - self._margin
        self._windows = Windows(stride_px, overlap, around)
        self.halo, self.band = self._windows.halo, self._windows.band

    def prepare(self, slide: TiledSlide, statistics: StainStatistics) -> Artifact:
        """Return the slide's stain statistics and its table; CheckpointError where the generator does not fit it."""
        self._predictor.check_fits(slide)
        return self.table.prepare(slide, statistics) if self.table else {STATISTICS: pack_statistics(statistics)}

    def apply(
        self, pixels: RgbImage, needed: Mask, artifact: Artifact, tally: NormalizationCounts | None = None
    ) -> RgbImage:
        """Generate what holds a core's needed tiles; the rest is white.

        Memory bound: the result (where it is blended, four times that), and the activations of a pass; on a GPU of two.
        """
        height, width = pixels.shape[0] - 2 * self.halo, pixels.shape[1] - 2 * self.halo
        results = self._passes(pixels, needed, artifact, tally or NormalizationCounts())
        return self._windows.join(results, (height, width), self.white)

    def _passes(
        self, pixels: RgbImage, needed: Mask, artifact: Artifact, tally: NormalizationCounts
    ) -> Iterator[tuple[Corner, RgbImage]]:
        """Yield corner and pixels of what is needed of each pass's result; a few passes are begun ahead."""
        statistics, corners = unpack_statistics(artifact), self._windows.corners(needed)
        target = self._upload_target(artifact, statistics)
        pending: deque[tuple[list[Corner], PendingBatch]] = deque()
        for first in range(0, len(corners), self._batch):
            batch = corners[first : first + self._batch]
            windows = [self._windows.crop_window(pixels, place) for place in batch]
            windows += [np.zeros_like(windows[0])] * (self._batch - len(batch))
            rows, cols = self._windows.find_needed(needed, batch)
            postprocess = partial(self._postprocess, target, (rows, cols))
            parts = [(top + rows.start, left + cols.start) for top, left in batch]
            pending.append((parts, self._predictor.start(windows, statistics, self._crop, postprocess)))
            if len(pending) == _AHEAD:
                yield from _fetch_batch(pending, tally)
        while pending:
            yield from _fetch_batch(pending, tally)

    def _upload_target(self, artifact: Artifact, statistics: StainStatistics) -> HoldTarget | None:
        """Copy what colours are held to to the device, once for all passes: within one it would make the GPU wait."""
        if not self._hold_radius:
            return None
        return self._predictor.upload(artifact[TABLE]), self._predictor.upload(np.asarray(statistics.white, np.float32))

    def _postprocess(
        self, target: HoldTarget | None, part: Part, windows_BHWC: Tensor, seen_BHWC: Tensor, generated_BHWC: Tensor
    ) -> Tensor:
        """Return what becomes of a part of the results, see `predictor.Postprocess`."""
        crop, shrink = self._crop, self._predictor.shrink
        pixels_BHWC = self._take_part(windows_BHWC, part, crop, 1)
        generated_BHWC = self._take_part(generated_BHWC, part, 0, shrink)
        if target is not None:
            table, white = target
            table_BHWC = smooth.look_up_pixels(table, pixels_BHWC)
            seen_BHWC = self._take_part(seen_BHWC, part, crop, shrink)
            made_BHWC = smooth.hold_to_table(seen_BHWC, generated_BHWC, table_BHWC, white, self._hold_radius)
        else:
            enlarged_BHWC = enlarge(generated_BHWC, shrink)
            made_BHWC = round_pixels(smooth.crop(enlarged_BHWC, self._own_reach))
        return self._smooth(smooth.crop(pixels_BHWC, self._own_reach), made_BHWC)

    def _take_part(self, image_BHWC: Tensor, part: Part, start: int, width: int) -> Tensor:
        """Take what makes a part of results from an image that begins `start` px before; its pixels are `width` px."""
        rows, cols = (
            slice((start + each.start) // width, (start + each.stop + 2 * self._margin) // width) for each in part
        )
        return image_BHWC[:, rows, cols]

    def _smooth(self, source_BHWC: Tensor, changed_BHWC: Tensor) -> Tensor:
        """Make of changed pixels what a subclass makes of them, without `_smoothing_reach` on each side."""
        return changed_BHWC


class GuardNormalizer(GeneratorNormalizer):
    """The source with the smooth part of the generator's change: colour moves, detail stays the source's.

    Args:
        predictor: The generator.
        white: The background where nothing is generated, RGB.
        stride_px: As for `GeneratorNormalizer`.
        radius: Half the side of the windows in which the change is taken for smooth, px; see `guided_filter`.
        table: As for `GeneratorNormalizer`.
        batch: As for `GeneratorNormalizer`.
        hold_radius: As for `GeneratorNormalizer`.
    """

    def __init__(
        self,
        predictor: GeneratorPredictor,
        white: Rgb8,
        stride_px: int,
        radius: int,
        table: TableFit | None = None,
        batch: int = 1,
        hold_radius: int = 0,
    ) -> None:
        self._radius = round_up(radius, smooth.STEP)
        self._smoothing_reach = smooth.reach(self._radius)
        super().__init__(predictor, white, stride_px, table, batch, hold_radius)

    def _smooth(self, source_BHWC: Tensor, changed_BHWC: Tensor) -> Tensor:
        source_BCHW, changed_BCHW = (image.float().permute(0, 3, 1, 2) for image in (source_BHWC, changed_BHWC))
        made_BCHW = smooth.guided_filter(source_BCHW, changed_BCHW, self._radius, _EVEN_VARIANCE)
        return round_pixels(smooth.crop(made_BCHW.permute(0, 2, 3, 1), self._smoothing_reach))


def _plan_windows(stride_px: int, predictor: GeneratorPredictor, margin: int) -> tuple[int, int, int]:
    """Return stride, overlap, and what a window shows beyond its result, of which `margin` is computed.

    Results are exact where the halo is at most half the stride, else blended. Then, without the margin, a quarter of
    what a window shows beyond its core is thrown away on each side at least, and a quarter is overlap.
    """
    stride_px = round_up(stride_px, predictor.step)
    if 2 * predictor.halo <= stride_px:
        return stride_px, 0, predictor.aligned_halo(margin)
    while BLOCK % stride_px:
        stride_px -= TILE
    stride_px = max(stride_px, predictor.step)
    quarter = round_up(_BLENDED_MARGINS, predictor.step) // 4
    return stride_px, quarter, round_up(quarter + margin, predictor.step)


def _fetch_batch(
    pending: deque[tuple[list[Corner], PendingBatch]], tally: NormalizationCounts
) -> Iterator[tuple[Corner, RgbImage]]:
    corners, fetch = pending.popleft()
    yield from zip(corners, fetch(tally), strict=False)  # without what filled the batch up
