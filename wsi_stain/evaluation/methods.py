"""The methods that are compared, each by the file it is loaded from, and a slide as one of them makes it.

Memory bound of a remade slide: 32 blocks of 1024 px, 100 MB.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_stain.artifact import Artifact
from wsi_stain.evaluation.places import SIDE_TILES
from wsi_stain.geometry import TILE, Region, Size, ceil_div, cut_on_grid
from wsi_stain.output import Normalizer, OutputConfig, load_normalizer
from wsi_stain.reader import BlockReader
from wsi_stain.stain import Rgb, StainStatistics

UNTOUCHED, ORACLE, NORMALIZED = "untouched", "paired oracle", "normalized"
"""Rows without a method of their own: nothing done; the best table fitted to the truth; made by an earlier run."""

Pixels = NDArray[np.uint8]

_SIDE = SIDE_TILES * TILE
_HELD = 32


@dataclass(frozen=True)
class Method:
    """One method, ready to be sent to a worker.

    Attributes:
        name: As its row is called.
        output: What it is and does.
        model: The checkpoint's file, or the style's.
        digest: SHA-256 of that file.
        device: Where it computes, as torch names it.
    """

    name: str
    output: OutputConfig
    model: Path
    digest: str
    device: str = "cpu"

    def remade(self, slide: BlockReader, stain: StainStatistics) -> Remade:
        """A slide as the method makes it."""
        normalizer = load_normalizer(self.output, self.model, self.device, self.digest)
        return Remade(slide, normalizer, normalizer.prepare(slide, stain))


class Remade:
    """A slide as a normalizer makes it; reads like the slide.

    Attributes:
        white: The colour of its glass, RGB.

    Args:
        slide: The source.
        normalizer: What makes its pixels.
        artifact: What that has prepared for the slide.
    """

    def __init__(self, slide: BlockReader, normalizer: Normalizer, artifact: Artifact) -> None:
        self._slide, self._normalizer, self._artifact = slide, normalizer, artifact
        self._block = lru_cache(_HELD)(self._made)
        red, green, blue = (float(value) for value in normalizer.white)
        self.white: Rgb = (red, green, blue)

    def read(self, region: Region) -> Pixels:
        """RGB pixels, (height, width, 3), of a region with x, y >= 0."""
        pixels = np.empty((region.height, region.width, 3), np.uint8)
        for piece in cut_on_grid(region, Size(_SIDE, _SIDE)):
            block = self._block(piece.x // _SIDE, piece.y // _SIDE)
            top, left = piece.y % _SIDE, piece.x % _SIDE
            part = block[top : top + piece.height, left : left + piece.width]
            pixels[piece.y - region.y :, piece.x - region.x :][: piece.height, : piece.width] = part
        return pixels

    def _made(self, column: int, row: int) -> Pixels:
        region = Region(column * _SIDE, row * _SIDE, _SIDE, _SIDE)
        return applied(self._normalizer, self._slide, region, self._artifact)


def applied(normalizer: Normalizer, slide: BlockReader, region: Region, artifact: Any) -> Pixels:
    """A region as a normalizer makes it, (height, width, 3); all of it, glass as well."""
    needed = np.ones((ceil_div(region.height, TILE), ceil_div(region.width, TILE)), bool)
    return normalizer.apply(slide.read(region.grown(normalizer.halo)), needed, artifact)
