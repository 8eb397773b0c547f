"""Nuclei of slides as their tiles show them: of the reference, to compare normalized slides with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.geometry import TILE, TileIndex
from wsi_stain.metrics.chromatin import NuclearDetail, mean_detail, nuclear_detail
from wsi_stain.metrics.nuclei import nuclei_mask
from wsi_stain.store import TiledSlide
from wsi_stain.store.stain_sample import sample_tiles

_TILES = 16


def nuclear_tiles(slide: TiledSlide) -> list[TileIndex]:
    """Choose at most 16 tiles rich in tissue for nuclei, none cut by the slide's edge; always the same."""
    rows, cols = slide.size.height // TILE, slide.size.width // TILE
    within = [tile for tile in sample_tiles(slide.kept, slide.tissue) if tile.row < rows and tile.col < cols]
    return within[:_TILES]


def find_nuclei(slide: TiledSlide) -> tuple[list[TileIndex], NDArray[np.uint8], NDArray[np.bool_]] | None:
    """Return the `nuclear_tiles`, their pixels (n, 256, 256, 3), and where nuclei are; None without any tissue."""
    tiles = nuclear_tiles(slide)
    if not tiles:
        return None
    pixels = np.stack([slide.read_tile(tile) for tile in tiles])
    nuclei = nuclei_mask(pixels, slide.mpp.mean)
    return None if nuclei is None else (tiles, pixels, nuclei)


def reference_nuclei(slides: Sequence[TiledSlide]) -> NuclearDetail | None:
    """Measure the nuclei of the reference's slides, all counting the same; None where these show hardly any."""
    found = [(slide.mpp.mean, find_nuclei(slide)) for slide in slides]
    details = [nuclear_detail(nuclei[1], nuclei[2], mpp) for mpp, nuclei in found if nuclei]
    return mean_detail([detail for detail in details if detail])
