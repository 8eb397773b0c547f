"""Colour tables: the generator on some tiles of a slide, one table fitted to what it did, that table on every pixel.

Seam-free and without invented structure by construction: a pixel's new colour depends on nothing but its old one.
Writes no files.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from math import ceil

import numpy as np

from wsi_stain.core.arrays import Mask, Rgb, Rgb8, RgbImage, RgbTiles, RgbxImage
from wsi_stain.core.errors import NoTissueError
from wsi_stain.core.geometry import TILE, TileIndex, round_up, tile_region
from wsi_stain.metrics.colour_difference import ciede2000
from wsi_stain.normalizers.background import exempt_mask
from wsi_stain.normalizers.predictor import GeneratorPredictor
from wsi_stain.normalizers.tile_sample import SPARSE, list_candidates, pick_shades, read_candidates
from wsi_stain.stain.colour_bins import BINS, ColourPairs, colour_counts
from wsi_stain.stain.colour_table import Table, apply_table, look_up
from wsi_stain.stain.refinement import Beliefs, refine_statistics, sum_beliefs
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.stain.table_fit import chain_tables, fit_table
from wsi_stain.store import TiledSlide
from wsi_stain.store.artifact import (
    STATISTICS,
    TABLE,
    Artifact,
    NormalizationCounts,
    pack_statistics,
    unpack_statistics,
)
from wsi_stain.tissue.density import remove_tint
from wsi_stain.tissue.ink import pen_mask

RESIDUAL, TILES, OUTSIDE = "residual", "tiles", "outside"
"""Entries of the artifact beside `TABLE`: CIEDE2000 of table to generator on tiles not fitted; (n, 2) tiles; the
share of tissue pixels whose colours are far from all that the table was fitted to."""

PAIRS, HELD_SOURCE, HELD_WANTED, SEEN = "pairs", "held_source", "held_wanted", "seen"
"""Entries of a part: `ColourPairs.pack` of the tiles fitted; (n, 3) RGB of tiles not fitted, and what the generator
made of them; (2, n): bins and counts of the tissue in all candidates."""

_NONE = np.zeros((0, 3), np.uint8)
_HELD_OUT_EVERY = 5
_HELD_PIXELS = 500

_REFINING_TILES = 48
"""Tiles that a slide's statistics are refined by: the first ones of those that may be fitted to."""

_RIM = 32
"""Pixels along a tile's edges that nothing is learnt of. The generator is given the tile alone and sees nothing beyond,
as along the edges of the images it was trained on; with all that it can see around each tile (96 px on each side at
five downs, 768 at eight) three times as many pixels would pass through it, or 49, and nine tiles be read for one."""

_STAINED = float(np.exp(-0.15))
"""Share of the glass's light below which, in one channel at least, a pixel is tissue: OD 0.15, as in Macenko 2009."""


class TableFit:
    """Fits one 3-D colour table per slide to the generator, at once or from parts that several processes sampled.

    Args:
        predictor: The generator.
        white: What the slide's glass becomes, RGB.
        size: Entries along each side of the table.
        tiles: Number of tissue tiles that the generator is run on.
        parts: Number of parts of that sample, which may be taken in any order, by any process.
        correction: Table that follows the fitted one, see `training.colour_correction`; None for none.
    """

    def __init__(
        self,
        predictor: GeneratorPredictor,
        white: Rgb8,
        size: int = 17,
        tiles: int = 100,
        parts: int = 4,
        correction: Table | None = None,
    ) -> None:
        self._predictor, self._size, self._tiles, self._parts = predictor, size, tiles, parts
        self.white, self._correction = white, correction

    def sum_beliefs(self, slide: TiledSlide, statistics: StainStatistics, part: int) -> Beliefs:
        """Sum what the generator believes of one part of the tiles that the slide's statistics are refined by.

        Raises:
            CheckpointError: The generator does not fit the slide.
        """
        self._predictor.check_fits(slide)
        tiles = list_candidates(slide, self._tiles)[part : _REFINING_TILES : self._parts]
        return sum_beliefs(self._pairs(slide, tiles, statistics), statistics, self._predictor.template)

    def refine(self, measured: StainStatistics, passes: Sequence[Sequence[Beliefs]]) -> StainStatistics:
        """Refine a slide's statistics by the beliefs of all parts, in order, in each pass so far."""
        statistics = measured
        for parts in passes:
            beliefs = np.sum(parts, axis=0)
            statistics = refine_statistics(beliefs, statistics, measured, self._predictor.template.reference)
        return statistics

    def sample(self, slide: TiledSlide, statistics: StainStatistics, part: int) -> Artifact:
        """Run the generator on one part of the slide's sample, with refined statistics.

        Every fifth tile is held out, of each part another fifth. A part without tissue gives empty arrays.

        Raises:
            CheckpointError: The generator does not fit the slide.
        """
        self._predictor.check_fits(slide)
        candidates = list_candidates(slide, self._tiles)[part :: self._parts]
        pixels = read_candidates(slide, candidates)
        tiles = pick_shades(candidates, pixels, self._tiles // self._parts + (part < self._tiles % self._parts))
        fitted, held = [(_NONE, _NONE)], [(_NONE, _NONE)]
        for turn, (source, wanted) in enumerate(self._pairs(slide, tiles, statistics)):
            if (turn + part + 1) % _HELD_OUT_EVERY == 0:
                every = max(len(source) // _HELD_PIXELS, 1)
                held.append((source[::every], wanted[::every]))
            else:
                fitted.append((source, wanted))
        pairs = ColourPairs()
        pairs.add(*map(np.concatenate, zip(*fitted, strict=True)))  # at once: each time all bins are gone through
        counts = colour_counts(pixels, _find_tissue(slide, candidates, pixels, statistics.white))
        held_source, held_wanted = map(np.concatenate, zip(*held, strict=True))
        return {
            STATISTICS: pack_statistics(statistics),
            PAIRS: pairs.pack(),
            HELD_SOURCE: held_source,
            HELD_WANTED: held_wanted,
            SEEN: np.stack([np.flatnonzero(counts), counts[counts > 0]]),
            TILES: np.array(tiles, np.int64).reshape(-1, 2),
        }

    def prepare(self, slide: TiledSlide, statistics: StainStatistics) -> Artifact:
        """Refine the slide's statistics, sample all parts, then fit.

        Raises:
            NoTissueError: No tile holds tissue.
            CheckpointError: The generator does not fit the slide.
        """
        passes: list[list[Beliefs]] = []
        for _ in range(self._predictor.stain_passes):
            refined = self.refine(statistics, passes)
            passes.append([self.sum_beliefs(slide, refined, part) for part in range(self._parts)])
        refined = self.refine(statistics, passes)
        return self.fit([self.sample(slide, refined, part) for part in range(self._parts)])

    def fit(self, samples: Sequence[Artifact]) -> Artifact:
        """Fit the slide's table; tiles held out measure how far it is from the generator.

        Args:
            samples: From `sample`, of each part, in order.

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
        statistics, (red, green, blue) = unpack_statistics(samples[0]), self.white
        whites = statistics.white, (float(red), float(green), float(blue))
        table = fit_table(pairs, *whites, self._size)
        corrected = table if self._correction is None else chain_tables(table, self._correction, *whites)
        return {
            STATISTICS: samples[0][STATISTICS],
            TABLE: corrected,
            RESIDUAL: np.array(_residual(table, pairs, samples)),
            OUTSIDE: np.array(pairs.share_outside(counts)),
            TILES: tiles,
        }

    def _pairs(
        self, slide: TiledSlide, tiles: Sequence[TileIndex], statistics: StainStatistics
    ) -> Iterator[tuple[RgbImage, RgbImage]]:
        """Yield source and generated colours, (N, 3) each, of each tile's pixels in the slide that bear no ink.

        Both are the generator's pixels, which may be coarser than the slide's.
        """
        beyond = (round_up(TILE, self._predictor.step) - TILE) // 2  # only from nine downs
        crop, masks = beyond + _RIM, deque[Mask]()

        def read_windows() -> Iterator[RgbImage]:
            for tile in tiles:
                window = slide.read(tile_region(tile).expand(beyond))
                masks.append(self._find_usable(slide, tile, window[crop:-crop, crop:-crop], statistics.white))
                yield window

        for seen, generated in self._predictor.predict_all(read_windows(), statistics, crop):
            mask = masks.popleft()
            yield _pick_pixels(seen, mask), _pick_pixels(generated, mask)

    def _find_usable(self, slide: TiledSlide, tile: TileIndex, inner: RgbImage, white: Rgb) -> Mask:
        """Mark the generator's pixels of a tile's inner part, (h, w), that lie in the slide and bear no ink."""
        region, shrink = tile_region(tile).expand(-_RIM), self._predictor.shrink
        usable = ~pen_mask(remove_tint(inner, white))
        if slide.exempt.any():
            usable &= ~exempt_mask(slide, region)
        usable[max(slide.size.height - region.y, 0) :] = False
        usable[:, max(slide.size.width - region.x, 0) :] = False
        rows: Mask = np.logical_and.reduce([usable[place::shrink] for place in range(shrink)])
        whole: Mask = np.logical_and.reduce([rows[:, place::shrink] for place in range(shrink)])
        return whole


class LutNormalizer:
    """Sends every pixel of a slide through its colour table.

    Args:
        table: What fits the table.
    """

    halo, band = 0, 4 * TILE

    def __init__(self, table: TableFit) -> None:
        self.table = table
        self.white = table.white

    def prepare(self, slide: TiledSlide, statistics: StainStatistics) -> Artifact:
        """Fit the slide's table.

        Raises:
            NoTissueError: No tile holds tissue.
            CheckpointError: The generator does not fit the slide.
        """
        return self.table.prepare(slide, statistics)

    def apply(
        self, pixels: RgbImage, needed: Mask, artifact: Artifact, tally: NormalizationCounts | None = None
    ) -> RgbImage:
        """Send the rows of tiles with a needed one through the table; the rest is white."""
        result = np.empty_like(pixels)
        self.apply_to(pixels, needed, artifact, result)
        return result

    def apply_to(self, pixels: RgbImage, needed: Mask, artifact: Artifact, out: RgbImage | RgbxImage) -> None:
        """Do what `apply` does, into an array of RGB or RGBX."""
        white = np.zeros((pixels.shape[1], out.shape[2]), np.uint8)  # a row is copied, three values are slow
        white[:, :3] = self.white
        for row, tiles in enumerate(needed):
            rows = slice(row * TILE, (row + 1) * TILE)
            if not tiles.all():
                out[rows] = white
            if tiles.any():
                first, *_, last = np.flatnonzero(np.append(tiles, False) != np.append(False, tiles))
                place = rows, slice(first * TILE, last * TILE)
                apply_table(artifact[TABLE], pixels[place], out[place])


def _residual(table: Table, pairs: ColourPairs, samples: Sequence[Artifact]) -> float:
    """Measure CIEDE2000 between the table's colours and the generator's, on tiles held out; else on those fitted."""
    source, wanted = (np.concatenate([sample[side] for sample in samples]) for side in (HELD_SOURCE, HELD_WANTED))
    if not len(source):
        source, wanted = (np.round(side).astype(np.uint8) for side in pairs.means()[:2])
    if not len(source):
        return 0.0
    found = np.round(look_up(table, source)).astype(np.uint8)
    return float(ciede2000(found[None], wanted[None]))


def _pick_pixels(pixels: RgbImage, mask: Mask) -> RgbImage:
    """Return the pixels, (N, 3), that a mask marks; all of them at a twentieth of the time that some take."""
    return pixels.reshape(-1, 3) if mask.all() else pixels[mask]


def _find_tissue(slide: TiledSlide, tiles: Sequence[TileIndex], pixels: RgbTiles, white: Rgb) -> Mask:
    """Mark what is normalized and not glass of the pixels that `read_candidates` gave, (n, 64, 64)."""
    red, green, blue = (pixels[..., channel] < ceil(white[channel] * _STAINED) for channel in range(3))
    tissue: Mask = red | green | blue
    if slide.exempt.any():
        for tile, mask in zip(tiles, tissue, strict=True):
            mask &= ~exempt_mask(slide, tile_region(tile))[SPARSE, SPARSE]
    return tissue
