"""The methods that are compared, each by the file it is loaded from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wsi_stain.normalize.region import RegionNormalizer
from wsi_stain.normalizers.config import NormalizeConfig
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.store import TiledSlide

UNTOUCHED, ORACLE, NORMALIZED = "untouched", "paired oracle", "normalized"
"""Rows without a method of their own: nothing done; the best table fitted to the truth; made by an earlier run."""

STATISTICS, OTHERS = "statistics alone", "paired table of the others"
"""Likewise: what a slide's stain statistics make of it without a network; the best table for all pairs but its own."""


@dataclass(frozen=True)
class Method:
    """One method, ready to be sent to a worker.

    Attributes:
        name: As its row is called.
        normalize: What it is and does.
        model: The file of the checkpoint, or of the classical reference.
        device: Where it computes, as torch names it.
    """

    name: str
    normalize: NormalizeConfig
    model: Path
    device: str = "cpu"

    def open_normalized(self, slide: TiledSlide, stain: StainStatistics) -> RegionNormalizer:
        """Open a slide as the method makes it, to be read by region; not faded into glass."""
        return RegionNormalizer(slide, self.model, self.normalize, stain, self.device, fade=False)
