"""The protocol that all ways of normalizing stand behind. Writes no files."""

from __future__ import annotations

from typing import Protocol

from wsi_stain.core.arrays import Mask, Rgb8, RgbImage
from wsi_stain.normalizers.lut import TableFit
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.store import TiledSlide
from wsi_stain.store.artifact import Artifact, NormalizationCounts


class Normalizer(Protocol):
    """One way to normalize a slide, in two steps: once for the slide, then block by block in any order.

    Attributes:
        halo: Source pixels that `apply` needs on each side of a block, px.
        band: How many rows of a block `apply` is best given at once, px; a multiple of 256.
        white: The background of the output, RGB.
        table: What fits the colour table that is part of `prepare`'s artifact, and can do so from parts that several
            processes sampled; None where there is no table.
    """

    @property
    def halo(self) -> int: ...

    @property
    def band(self) -> int: ...

    @property
    def white(self) -> Rgb8: ...

    @property
    def table(self) -> TableFit | None: ...

    def prepare(self, slide: TiledSlide, statistics: StainStatistics) -> Artifact:
        """Measure what `apply` has to know about the slide. The same slide gives the same arrays."""

    def apply(
        self, pixels: RgbImage, needed: Mask, artifact: Artifact, tally: NormalizationCounts | None = None
    ) -> RgbImage:
        """Normalize a block, or a band of one. A pixel's result does not depend on how the slide is cut into them.

        Args:
            pixels: (h + 2 halo, w + 2 halo, 3) RGB; 255 where the slide has no tile. The origin lies on a multiple
                of `band` from the block's.
            needed: (ceil(h / 256), ceil(w / 256)): tiles whose result matters.
            artifact: From `prepare` on the same slide.
            tally: Counts what the receipt reports.

        Returns:
            (h, w, 3) RGB; anything in tiles that are not needed.
        """
