"""The table output: the generator on some tiles of a slide, one colour table fitted to what it did, then that table.

Seam-free and without invented structure by construction: a pixel's new colour depends on nothing but its old one.
Knows no files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from wsi_stain.artifact import STATISTICS, Artifact, Tally, packed
from wsi_stain.colour_table import ColourPairs, apply_table, fit_table, look_up
from wsi_stain.errors import NoTissueError
from wsi_stain.geometry import TILE, Region, TileIndex
from wsi_stain.metrics import ciede2000
from wsi_stain.reader import BlockReader
from wsi_stain.recolourer import Pixels, Recolourer
from wsi_stain.stain import StainStatistics
from wsi_stain.tissue import pen_mask

TABLE, RESIDUAL, TILES = "table", "residual", "tiles"
"""Entries of the artifact: (N, N, N, 3) float32; CIEDE2000 of table to generator on tiles not fitted; (n, 2) tiles."""

T = TypeVar("T")

_CANDIDATES_PER_TILE = 4
_STRATA = 10
_PLACES = 8
_TISSUE_MIN = 0.25
_HELD_OUT_EVERY = 5
_MEASURED_PIXELS = 50_000


class LutNormalizer:
    """One 3-D colour table per slide, fitted to the generator.

    Args:
        recolourer: The generator.
        white: What the slide's glass becomes, RGB.
        size: Entries along each side of the table.
        tiles: How many tissue tiles the generator looks at.
    """

    halo, band = 0, 4 * TILE

    def __init__(self, recolourer: Recolourer, white: tuple[int, int, int], size: int = 17, tiles: int = 100) -> None:
        self._recolourer = recolourer
        self._size = size
        self._tiles = tiles
        self.white = white

    def prepare(self, slide: BlockReader, statistics: StainStatistics) -> Artifact:
        """Fit the slide's table; every fifth tile is held out and says how far the table is from the generator.

        Raises:
            NoTissueError: No tile holds tissue.
            CheckpointError: The generator does not fit the slide.
        """
        self._recolourer.check_fits(slide)
        tiles = choose_tiles(slide, self._tiles)
        held_out = tiles[_HELD_OUT_EVERY - 1 :: _HELD_OUT_EVERY]
        pairs = ColourPairs()
        for tile in tiles:
            if tile not in held_out:
                pairs.add(*self._pair(slide, tile, statistics))
        red, green, blue = self.white
        table = fit_table(pairs, statistics.white, (red, green, blue), self._size)
        return {
            STATISTICS: packed(statistics),
            TABLE: table,
            RESIDUAL: np.array(self._residual(slide, held_out or tiles, statistics, table)),
            TILES: np.array(tiles, np.int64),
        }

    def apply(
        self, pixels: Pixels, needed: NDArray[np.bool_], artifact: Artifact, tally: Tally | None = None
    ) -> Pixels:
        """Send the rows of tiles with a needed one through the table; the rest is white."""
        result = np.empty_like(pixels)
        white = np.tile(np.array(self.white, np.uint8), (pixels.shape[1], 1))  # a row is copied, three values are slow
        for row, tiles in enumerate(needed):
            rows = slice(row * TILE, (row + 1) * TILE)
            if not tiles.all():
                result[rows] = white
            if tiles.any():
                first, *_, last = np.flatnonzero(np.append(tiles, False) != np.append(False, tiles))
                place = rows, slice(first * TILE, last * TILE)
                result[place] = apply_table(artifact[TABLE], pixels[place])
        return result

    def _pair(self, slide: BlockReader, tile: TileIndex, statistics: StainStatistics) -> tuple[Pixels, Pixels]:
        """Source and generated colours, (N, 3) each, of a tile's pixels within the slide that bear no ink."""
        halo = self._recolourer.halo
        window = slide.read(Region(tile.col * TILE, tile.row * TILE, TILE, TILE).grown(halo))
        generated = self._recolourer.recolour_rounded(window, statistics)
        source = window[halo:-halo, halo:-halo]
        use = ~pen_mask(source)
        use[slide.size.height - tile.row * TILE :] = False
        use[:, slide.size.width - tile.col * TILE :] = False
        return source[use], generated[use]

    def _residual(
        self, slide: BlockReader, tiles: Sequence[TileIndex], statistics: StainStatistics, table: NDArray[np.float32]
    ) -> float:
        """Mean CIEDE2000 between the table's colours and the generator's."""
        pairs = [self._pair(slide, tile, statistics) for tile in tiles]
        source, generated = (np.concatenate(side) for side in zip(*pairs, strict=True))
        every = max(len(source) // _MEASURED_PIXELS, 1)
        found = np.round(look_up(table, source[::every])).astype(np.uint8)
        return float(ciede2000(found[None], generated[None, ::every]))


def choose_tiles(slide: BlockReader, count: int) -> list[TileIndex]:
    """Tissue tiles spread over the slide and over its shades, the same ones whenever the slide is the same.

    Args:
        slide: Where from. Four times `count` tiles are read to see how dark they are.
        count: How many; fewer where the slide has fewer.

    Returns:
        Tiles in an order whose every stretch is mixed.

    Raises:
        NoTissueError: No tile holds tissue.
    """
    candidates = _spread(_tissue_tiles(slide))[: count * _CANDIDATES_PER_TILE]
    if not candidates:
        raise NoTissueError("No tile of the slide holds tissue", "Check the tissue mask, or leave the slide out")
    shade = np.array([_shade(slide, tile) for tile in candidates])
    strata = np.array_split(np.argsort(shade, kind="stable"), min(_STRATA, len(candidates)))
    # Within a stratum the candidates' own order is the one that spreads over the slide.
    return [candidates[index] for index in _interleaved([sorted(stratum) for stratum in strata])[:count]]


def _tissue_tiles(slide: BlockReader) -> list[TileIndex]:
    """Kept tiles with at least a quarter of tissue; where there is none, with any."""
    share = np.where(slide.kept, slide.tissue, 0.0)
    wanted = share >= _TISSUE_MIN if (share >= _TISSUE_MIN).any() else share > 0
    return [TileIndex(int(row), int(col)) for row, col in np.argwhere(wanted)]


def _spread(tiles: list[TileIndex]) -> list[TileIndex]:
    """One tile from each of 8 x 8 places in turn; places, and tiles within one, by hash of their coordinates."""
    if not tiles:
        return []
    place_rows, place_cols = (max(max(axis) + 1, _PLACES) for axis in zip(*tiles, strict=True))
    places: dict[tuple[int, int], list[TileIndex]] = {}
    for tile in sorted(tiles, key=_hash):
        place = tile.row * _PLACES // place_rows, tile.col * _PLACES // place_cols
        places.setdefault(place, []).append(tile)
    return _interleaved([places[place] for place in sorted(places, key=_hash)])


def _interleaved(groups: Sequence[Sequence[T]]) -> list[T]:
    """First of each group, second of each group, and so on."""
    turns = max(map(len, groups))
    return [group[turn] for turn in range(turns) for group in groups if turn < len(group)]


def _hash(index: tuple[int, int]) -> bytes:
    row, col = index
    return hashlib.sha256(f"{row},{col}".encode()).digest()


def _shade(slide: BlockReader, tile: TileIndex) -> float:
    """Mean of a tile's RGB, 0 to 255."""
    return float(slide.read(Region(tile.col * TILE, tile.row * TILE, TILE, TILE)).mean())
