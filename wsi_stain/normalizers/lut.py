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

from wsi_stain.core.arrays import Mask, Rgb, Rgb8, RgbImage
from wsi_stain.core.errors import NoTissueError
from wsi_stain.core.geometry import TILE, TileIndex, tile_region
from wsi_stain.metrics.image import ciede2000
from wsi_stain.normalizers.predictor import GeneratorPredictor
from wsi_stain.stain.colour_bins import BINS, ColourPairs, colour_counts
from wsi_stain.stain.colour_table import Table, apply_table, fit_table, look_up
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.store import TiledSlide
from wsi_stain.store.artifact import STATISTICS, Artifact, NormalizationCounts, pack_statistics
from wsi_stain.tissue.mask import pen_mask

TABLE, RESIDUAL, TILES, OUTSIDE = "table", "residual", "tiles", "outside"
"""Entries of the artifact: (N, N, N, 3) float32; CIEDE2000 of table to generator on tiles not fitted; (n, 2) tiles; the
share of tissue pixels whose colours are far from all that the table was fitted to."""

PARTS = 4
"""A slide is sampled in so many parts, which may be looked at in any order, by any process."""

PAIRS, HELD_SOURCE, HELD_WANTED, SEEN = "pairs", "held_source", "held_wanted", "seen"
"""Entries of a part: `ColourPairs.pack` of the tiles fitted; (n, 3) RGB of tiles not fitted, and what the generator
made of them; (2, n): bins and counts of the tissue in all tiles that were looked at."""

T = TypeVar("T")

_NONE = np.zeros((0, 3), np.uint8)
_CANDIDATES_PER_TILE = 4
_STRATA = 10
_CELLS = 8
_TISSUE_MIN = 0.25
_HELD_OUT_EVERY = 5
_HELD_PIXELS = 2_500
_THIN = 4
"""One pixel in so many, along and across, tells a tile's shade and its colours."""

_STAINED = float(np.exp(-0.15))
"""Share of the glass's light below which, in one channel at least, a pixel is tissue: OD 0.15, as in Macenko 2009."""


class LutNormalizer:
    """One 3-D colour table per slide, fitted to the generator.

    Args:
        predictor: The generator.
        white: What the slide's glass becomes, RGB.
        size: Entries along each side of the table.
        tiles: How many tissue tiles the generator looks at.
    """

    halo, band = 0, 4 * TILE

    def __init__(self, predictor: GeneratorPredictor, white: Rgb8, size: int = 17, tiles: int = 100) -> None:
        self._recolourer = predictor
        self._size = size
        self._tiles = tiles
        self.white = white

    def sample(self, slide: TiledSlide, statistics: StainStatistics, part: int) -> Artifact:
        """Have the generator look at one of `PARTS` parts of the slide's sample.

        Every fifth tile is held out, of each part another fifth. A part without tissue gives empty arrays.

        Raises:
            CheckpointError: The generator does not fit the slide.
        """
        self._recolourer.check_fits(slide)
        found = read_candidates(slide, list_candidates(slide, self._tiles)[part::PARTS])
        tiles = pick_shades(found, self._tiles // PARTS + (part < self._tiles % PARTS))
        pairs, held = ColourPairs(), [(_NONE, _NONE)]
        for turn, tile in enumerate(tiles):
            source, wanted = self._pair(slide, tile, statistics)
            if (turn + part + 1) % _HELD_OUT_EVERY == 0:
                every = max(len(source) // _HELD_PIXELS, 1)
                held.append((source[::every], wanted[::every]))
            else:
                pairs.add(source, wanted)
        counts = sum((_tissue_colours(pixels, statistics.white) for _, pixels in found), np.zeros(BINS**3, np.int64))
        held_source, held_wanted = (np.concatenate(side) for side in zip(*held, strict=True))
        return {
            PAIRS: pairs.pack(),
            HELD_SOURCE: held_source,
            HELD_WANTED: held_wanted,
            SEEN: np.stack([np.flatnonzero(counts), counts[counts > 0]]),
            TILES: np.array(tiles, np.int64).reshape(-1, 2),
        }

    def prepare(self, slide: TiledSlide, statistics: StainStatistics) -> Artifact:
        """`sample` of all parts, then `fit`.

        Raises:
            NoTissueError: No tile holds tissue.
            CheckpointError: The generator does not fit the slide.
        """
        return self.fit(statistics, [self.sample(slide, statistics, part) for part in range(PARTS)])

    def fit(self, statistics: StainStatistics, samples: Sequence[Artifact]) -> Artifact:
        """Fit the slide's table; tiles held out say how far it is from the generator.

        Args:
            statistics: The slide's stain.
            samples: What `sample` gave for each part, in order.

        Raises:
            NoTissueError: No tile holds tissue.
        """
        pairs, counts = ColourPairs(), np.zeros(BINS**3, np.int64)
        for sample in samples:
            pairs.add_packed(sample[PAIRS])
            counts[sample[SEEN][0]] += sample[SEEN][1]
        tiles = np.concatenate([sample[TILES] for sample in samples])
        if not len(tiles):
            raise NoTissueError("No tile of the slide holds tissue", "Check the tissue mask, or leave the slide out")
        red, green, blue = self.white
        table = fit_table(pairs, statistics.white, (red, green, blue), self._size)
        return {
            STATISTICS: pack_statistics(statistics),
            TABLE: table,
            RESIDUAL: np.array(_residual(table, pairs, samples)),
            OUTSIDE: np.array(pairs.share_outside(counts)),
            TILES: tiles,
        }

    def apply(
        self, pixels: RgbImage, needed: Mask, artifact: Artifact, tally: NormalizationCounts | None = None
    ) -> RgbImage:
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

    def _pair(self, slide: TiledSlide, tile: TileIndex, statistics: StainStatistics) -> tuple[RgbImage, RgbImage]:
        """Source and generated colours, (N, 3) each, of a tile's pixels within the slide that bear no ink."""
        halo = self._recolourer.halo
        window = slide.read(tile_region(tile).expand(halo))
        generated = self._recolourer.predict_uint8(window, statistics)
        source = window[halo:-halo, halo:-halo]
        use = ~pen_mask(source)
        use[slide.size.height - tile.row * TILE :] = False
        use[:, slide.size.width - tile.col * TILE :] = False
        return source[use], generated[use]


def _residual(table: Table, pairs: ColourPairs, samples: Sequence[Artifact]) -> float:
    """Mean CIEDE2000 between the table's colours and the generator's, on tiles held out; else on the colours fitted."""
    source, wanted = (np.concatenate([sample[side] for sample in samples]) for side in (HELD_SOURCE, HELD_WANTED))
    if not len(source):
        source, wanted = (np.round(side).astype(np.uint8) for side in pairs.means()[:2])
    if not len(source):
        return 0.0
    found = np.round(look_up(table, source)).astype(np.uint8)
    return float(ciede2000(found[None], wanted[None]))


def _tissue_colours(pixels: RgbImage, white: Rgb) -> NDArray[np.int64]:
    """`colour_counts` of a tile's pixels that are not glass; ink counts, since the table is applied to it too."""
    return colour_counts(pixels[(pixels < np.asarray(white) * _STAINED).any(axis=-1)])


def choose_tiles(slide: TiledSlide, count: int) -> list[TileIndex]:
    """Tissue tiles spread over the slide and over its shades, the same ones whenever the slide is the same.

    Args:
        slide: Where from. Four times `count` tiles are read to see how dark they are.
        count: How many; fewer where the slide has fewer.

    Returns:
        Tiles in an order whose every stretch is mixed.

    Raises:
        NoTissueError: No tile holds tissue.
    """
    tiles = pick_shades(read_candidates(slide, list_candidates(slide, count)), count)
    if not tiles:
        raise NoTissueError("No tile of the slide holds tissue", "Check the tissue mask, or leave the slide out")
    return tiles


def list_candidates(slide: TiledSlide, count: int) -> list[TileIndex]:
    """Four times `count` tissue tiles, in an order whose every stretch is spread over the slide."""
    return _spread(_tissue_tiles(slide))[: count * _CANDIDATES_PER_TILE]


def read_candidates(slide: TiledSlide, tiles: Sequence[TileIndex]) -> list[tuple[TileIndex, RgbImage]]:
    """Each tile with some of its pixels, (64, 64, 3)."""
    every = slice(_THIN // 2, None, _THIN)
    return [(tile, slide.read(tile_region(tile))[every, every]) for tile in tiles]


def pick_shades(found: Sequence[tuple[TileIndex, RgbImage]], count: int) -> list[TileIndex]:
    """So many of some tiles, as many of each shade; their own order spreads over the slide."""
    shade = np.array([pixels.mean() for _, pixels in found])
    strata = np.array_split(np.argsort(shade, kind="stable"), min(_STRATA, len(found)) or 1)
    return [found[index][0] for index in _interleave([sorted(stratum) for stratum in strata])[:count]]


def _tissue_tiles(slide: TiledSlide) -> list[TileIndex]:
    """Kept tiles with at least a quarter of tissue; where there is none, with any."""
    share = np.where(slide.kept, slide.tissue, 0.0)
    wanted = share >= _TISSUE_MIN if (share >= _TISSUE_MIN).any() else share > 0
    return [TileIndex(int(row), int(col)) for row, col in np.argwhere(wanted)]


def _spread(tiles: list[TileIndex]) -> list[TileIndex]:
    """One tile from each of 8 x 8 places in turn; places, and tiles within one, by hash of their coordinates."""
    if not tiles:
        return []
    cell_rows, cell_cols = (max(max(axis) + 1, _CELLS) for axis in zip(*tiles, strict=True))
    places: dict[tuple[int, int], list[TileIndex]] = {}
    for tile in sorted(tiles, key=_hash):
        place = tile.row * _CELLS // cell_rows, tile.col * _CELLS // cell_cols
        places.setdefault(place, []).append(tile)
    return _interleave([places[place] for place in sorted(places, key=_hash)])


def _interleave(groups: Sequence[Sequence[T]]) -> list[T]:
    """First of each group, second of each group, and so on."""
    turns = max(map(len, groups))
    return [group[turn] for turn in range(turns) for group in groups if turn < len(group)]


def _hash(index: tuple[int, int]) -> bytes:
    row, col = index
    return hashlib.sha256(f"{row},{col}".encode()).digest()
