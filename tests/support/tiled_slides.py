"""Painted slides and the three steps of tiling them, for the tests of tiling."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from wsi_stain.core.geometry import BlockIndex, Size
from wsi_stain.slides.listing.find import SlideSource
from wsi_stain.store import StoredSlide, TileStore
from wsi_stain.tiling.block import BlockTask, tile_block
from wsi_stain.tiling.config import TilingConfig
from wsi_stain.tiling.tasks import FinishTask, SurveyTask, finish_slide, survey_slide

SIZE = Size(4703, 901)
"""Two blocks, and odd tiles at both far edges."""
SMALL = Size(1503, 905)
GLASS = (240, 238, 242)


@cache
def paint(size: Size, seed: int = 0) -> NDArray[np.uint8]:
    """H&E on glass: two pieces of tissue, one in each block, with eosin stroma and hematoxylin nuclei."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size.height, : size.width]
    pieces = ((x - 900) / 500) ** 2 + ((y - 400) / 350) ** 2 < 1
    pieces |= ((x - 4450) / 180) ** 2 + ((y - 600) / 180) ** 2 < 1
    nuclei = ndimage.gaussian_filter(rng.random(x.shape), 3) > 0.52
    h = np.where(nuclei, 1.1, 0.15) * pieces
    e = np.where(nuclei, 0.25, 0.6) * pieces
    od = h[..., None] * (0.65, 0.70, 0.29) + e[..., None] * (0.12, 0.92, 0.35)
    noise = rng.normal(0, 2, od.shape)
    return (np.asarray(GLASS) * np.exp(-od) + noise).clip(0, 255).astype(np.uint8)


def write(path: Path, pixels: NDArray[np.uint8], mpp: float | None = 0.5) -> SlideSource:
    """Write a tiled, lossless TIFF that OpenSlide opens."""
    resolution: dict[str, Any] = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"} if mpp else {}
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", compression="zlib", metadata=None, **resolution)
    return SlideSource(path=path, slide_id=path.name, relative=path.name)


@dataclass(frozen=True)
class Run:
    """One slide, and where it goes."""

    source: SlideSource
    store: Path
    config: TilingConfig = field(default_factory=TilingConfig)

    def survey(self) -> dict[str, Any]:
        return survey_slide(SurveyTask(self.source, self.store, self.config))

    def blocks(self, survey: dict[str, Any]) -> list[dict[str, Any]]:
        places = [BlockIndex(*block) for block in survey["blocks"]]
        return [tile_block(BlockTask(self.source, self.store, self.config, place, survey["key"])) for place in places]

    def finish(self, survey: dict[str, Any]) -> dict[str, Any]:
        return finish_slide(FinishTask(self.source, self.store, self.config, survey["key"]))

    def whole(self) -> StoredSlide:
        survey = self.survey()
        self.blocks(survey)
        self.finish(survey)
        return self.stored

    @property
    def stored(self) -> StoredSlide:
        return TileStore(self.store)[self.source.slide_id]

    @property
    def ids(self) -> list[str]:
        return TileStore(self.store).slide_ids()
