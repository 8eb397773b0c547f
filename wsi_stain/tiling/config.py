"""Settings of tiling: how slides are read, what counts as tissue, how stain is measured and tiles are stored."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from wsi_stain.core.geometry import TILE
from wsi_stain.core.records import StrictRecord
from wsi_stain.formats.zarr_shard import CodecName
from wsi_stain.slides.slide import Slide, SlideConfig
from wsi_stain.stain.statistics import StainConfig
from wsi_stain.tissue.config import TissueConfig


class TilingConfig(StrictRecord):
    """Settings of tiling. Everything here affects pixels, but for `max_holes`.

    Attributes:
        slide: How slides are read.
        tissue: What counts as tissue.
        stain: How a slide's stain is measured.
        codec: How tiles are stored: `auto` takes the JPEG tiles of the slide's file as they are, where it has tiles of
            256 px and is not resampled, else `lossless`: the same pixels, in a tenth of the room; `jpeg` compresses
            them anew (quality 95).
        max_holes: Share of a slide's tiles that may be unreadable in the file: those are shown as its next coarser
            level has them, and listed. With more of them the slide fails.
    """

    slide: SlideConfig = Field(default_factory=SlideConfig)
    tissue: TissueConfig = Field(default_factory=TissueConfig)
    stain: StainConfig = Field(default_factory=StainConfig)
    codec: Literal["auto", "lossless", "jpeg"] = "auto"
    max_holes: float = Field(default=0.05, ge=0, le=1)

    def codec_for(self, slide: Slide) -> CodecName:
        """Return how the tiles of a slide are stored."""
        if self.codec != "auto":
            return self.codec
        return "source" if slide.jpeg_tile == (TILE, TILE) else "lossless"
