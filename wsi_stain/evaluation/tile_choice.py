"""Tiles and patches that are scored. They depend on the slide alone, so that all methods are scored on the same."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.errors import SlideError
from wsi_stain.core.geometry import TILE, Region, TileIndex, tile_region
from wsi_stain.datasets.pictures import SUFFIXES
from wsi_stain.store import StoredSlide, TiledSlide
from wsi_stain.store.patches import PATCH_TABLE, from_csv

SIDE_TILES = 4
"""Side of a scored block in tiles; blocks lie on multiples of it."""

_RICH = 0.7
_TISSUE_MIN = 0.25
_LEAST_SIDE = 32


def rich_blocks(tissue: NDArray[np.float32], count: int) -> list[TileIndex]:
    """Choose first tiles of blocks of 4 x 4 that are mostly tissue, by their places alone.

    Args:
        tissue: (rows, cols), share of tissue in each tile; 0 in tiles that are not to be scored.
        count: Most blocks. Where no block is mostly tissue, those with more than half as much as the best one.
    """
    missing = [(0, max(0, SIDE_TILES - length)) for length in tissue.shape]
    share = np.pad(tissue, missing)
    rows, cols = (length // SIDE_TILES for length in share.shape)
    whole_blocks = share[: rows * SIDE_TILES, : cols * SIDE_TILES]
    means = whole_blocks.reshape(rows, SIDE_TILES, cols, SIDE_TILES).mean(axis=(1, 3))
    least = min(_RICH, float(means.max()) / 2)
    rich = [TileIndex(int(row) * SIDE_TILES, int(col) * SIDE_TILES) for row, col in np.argwhere(means > least)]
    return sorted(rich, key=lambda tile: hashlib.sha256(repr(tile).encode()).digest())[:count]


def choose_scored_tiles(slide: TiledSlide, count: int) -> list[TileIndex]:
    """Choose the tiles with tissue of up to `count` blocks rich in it, within the slide; none cut by its edge."""
    share = np.where(slide.kept, slide.tissue, 0).astype(np.float32)
    rows, cols = slide.size.height // TILE, slide.size.width // TILE
    chosen = []
    for first in rich_blocks(share, count):
        for row in range(first.row, min(first.row + SIDE_TILES, rows)):
            for col in range(first.col, min(first.col + SIDE_TILES, cols)):
                if share[row, col] >= _TISSUE_MIN:
                    chosen.append(TileIndex(row, col))
    return chosen


def scored_places(slides: Sequence[StoredSlide], blocks: int) -> list[tuple[Region, ...]]:
    """List what is scored of a pair: tiles of up to `blocks` blocks, or the patches of at least 32 px that all have.

    Args:
        slides: The source, its truth, and what else is read at the same places.
        blocks: Most blocks of 1024 px.

    Returns:
        For each place where it lies in each of the slides.

    Raises:
        SlideError: The source and its truth have different frames, or nothing to compare.
    """
    source, truth = slides[:2]
    matches = match_patches(slides)
    if matches is not None:
        places = matches.places
    elif source.size != truth.size:
        sizes = [f"{slide.size.width} x {slide.size.height} px" for slide in (source, truth)]
        raise SlideError(
            f"{source.slide_id} has {sizes[0]}, its truth {sizes[1]}",
            "Give pairs that are registered to one frame, pixel by pixel; --mpp brings both to one resolution",
        )
    else:
        tiles = [tile for tile in choose_scored_tiles(source, blocks) if truth.kept[tile]]
        places = [(tile_region(tile),) * len(slides) for tile in tiles]
    places = [place for place in places if min(place[0].width, place[0].height) >= _LEAST_SIDE]
    if not places:
        raise SlideError(f"{source.slide_id} has no tissue where its truth has some", "Check that they are a pair")
    return places


class PatchMatches(NamedTuple):
    """The patches that several imports have.

    Attributes:
        places: For each patch that all have at one size, where it lies in each of them.
        left_out: Names of the others.
    """

    places: list[tuple[Region, ...]]
    left_out: list[str]


def match_patches(slides: Sequence[StoredSlide]) -> PatchMatches | None:
    """Match the patches of imports by name; None where no slide is an import of patches."""
    if not any(has_patches(slide) for slide in slides):
        return None
    regions = [_place_patches(slide) for slide in slides]
    matches = PatchMatches([], [])
    for name in dict.fromkeys(name for placed in regions for name in placed):
        place = tuple(placed[name] for placed in regions if name in placed)
        if len(place) == len(slides) and len({region[2:] for region in place}) == 1:
            matches.places.append(place)
        else:
            matches.left_out.append(name)
    return matches


def has_patches(slide: StoredSlide) -> bool:
    """Check whether a slide is an import of patches."""
    return PATCH_TABLE in slide.tables()


def _place_patches(slide: StoredSlide) -> dict[str, Region]:
    """Return where a slide's patches lie, by name; without what a picture's name ends in where that tells no two apart,
    since `normalize` writes PNG whatever it reads.
    """
    if not has_patches(slide):
        return {}
    regions = {patch.name: patch.region for patch in from_csv(slide.table(PATCH_TABLE)) if patch.region}
    stems = Counter(map(_picture_stem, regions))
    return {name if stems[stem := _picture_stem(name)] > 1 else stem: region for name, region in regions.items()}


def _picture_stem(name: str) -> str:
    suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]
