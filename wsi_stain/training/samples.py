"""Tiles to train on and tiles held out, and their pixels in batches. Knows no stain.

Held-out tiles never touch training tiles: they come from slides of their own, or, with fewer than three slides, from
one end of each slide behind a guard band, because neighbouring tiles show the same glands.

Memory bound: at most `cache` tiles (192 KiB each) are held, and at most `_AHEAD` batches are loaded ahead.
Ordering: batches come in the order of the samples, whatever the threads do; the same seed gives the same pixels.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_stain.core.errors import TrainingError
from wsi_stain.core.geometry import TILE, TileIndex, ceil_div, tile_region
from wsi_stain.pix2pix.resample import shrink_pixels
from wsi_stain.store import StoredSlide
from wsi_stain.tissue.grid import tile_grid

MPP_SPREAD = 0.15
"""Largest relative difference of resolution among slides that train together."""

_VALIDATION = ("val", "valid", "validation")
"""What a slide list may call the part that scores are taken on."""

_GUARD_TILES = 1
_AHEAD = 4
_THREADS = 4


R = TypeVar("R")


class TileRef(NamedTuple):
    """A tile of one of the training slides.

    Attributes:
        slide: Index of the slide.
        tile: Its tile.
    """

    slide: int
    tile: TileIndex


class Split(NamedTuple):
    """Tiles to train on, and tiles held out; the latter may be none where there is too little tissue."""

    training: list[TileRef]
    held_out: list[TileRef]


class Sample(NamedTuple):
    """One training image.

    Attributes:
        tile: Index of the tile among the training tiles.
        row: First row of the crop in the tile, px.
        col: First column of the crop in the tile, px.
        turn: Which of the eight orientations of a square: quarter turns (0 to 3), plus 4 when mirrored.
        lab: Random number, 0 up to but not including 1, that chooses the laboratory (see `simulated_labs`).
        jitter: Seed of how far off its slide's statistics are (see `simulated_labs.jitter_statistics`).
    """

    tile: int
    row: int
    col: int
    turn: int
    lab: float
    jitter: int


@dataclass(frozen=True)
class Batch:
    """Samples and their pixels.

    Attributes:
        samples: The samples, B of them.
        pixels: RGB, (B, side, side, 3), uint8.
    """

    samples: Sequence[Sample]
    pixels: Tensor


def check_resolution(slides: Sequence[StoredSlide]) -> None:
    """Refuse slides whose resolutions differ: one generator learns one size of nuclei.

    Raises:
        TrainingError: The coarsest is more than 15 % coarser than the finest.
    """
    by_mpp = sorted(slides, key=lambda slide: slide.mpp.mean)
    finest, coarsest = by_mpp[0], by_mpp[-1]
    if coarsest.mpp.mean > finest.mpp.mean * (1 + MPP_SPREAD):
        raise TrainingError(
            f"The slides differ in resolution: {finest.record.slide_id} has {finest.mpp.mean:.4g} um/px, "
            f"{coarsest.record.slide_id} has {coarsest.mpp.mean:.4g} um/px (expected within {MPP_SPREAD:.0%})",
            f"Tile them all with --mpp {coarsest.mpp.mean:.3g}",
        )


def tissue_tiles(
    slides: Sequence[StoredSlide], min_tissue: float, max_pen: float = 1.0, min_blur: float = 0.0
) -> list[TileRef]:
    """List all whole tiles with enough tissue that are clean and sharp enough, slide by slide in row-major order.

    Args:
        slides: The slides.
        min_tissue: Least share of tissue, 0 to 1.
        max_pen: Largest share of ink, and of all that is not normalized, 0 to 1.
        min_blur: Least variance of the Laplacian (see `tissue.tile_quality`).

    Raises:
        TrainingError: There is none.
    """
    found = [
        TileRef(index, tile)
        for index, slide in enumerate(slides)
        for tile in usable_tiles(slide, min_tissue, max_pen, min_blur)
    ]
    if not found:
        best = max((float(slide.tissue.max(initial=0)) for slide in slides), default=0.0)
        raise TrainingError(
            f"No tile to train on: none of the {len(slides)} slides has a tile with at least {min_tissue:.0%} tissue, "
            f"at most {max_pen:.0%} ink and a blur of at least {min_blur:g} (the best has {best:.0%} tissue)",
            "Loosen training.min_tissue, max_pen or min_blur, or give a reference slide with more tissue",
        )
    return found


def usable_tiles(slide: StoredSlide, min_tissue: float, max_pen: float, min_blur: float) -> list[TileIndex]:
    """List the tiles of one slide that `tissue_tiles` takes; a map that its store lacks, as imports do, limits none."""
    usable = slide.kept & (slide.tissue >= min_tissue)
    usable[slide.size.height // TILE :], usable[:, slide.size.width // TILE :] = False, False
    measured = slide.maps()
    if "pen" in measured:
        usable &= slide.map("pen") <= max_pen
    usable &= tile_grid(slide.size, slide.exempt > 0).tissue <= max_pen
    if "blur" in measured:
        usable &= slide.map("blur") >= min_blur
    return [TileIndex(int(row), int(col)) for row, col in np.argwhere(usable)]


def split_tiles(tiles: Sequence[TileRef], slides: Sequence[StoredSlide], share: float, shrink: int = 1) -> Split:
    """Hold some tiles out.

    Slides that a slide list sets aside for validation are held out, and no others. Where it names none, whole patients
    are (a slide whose patient is unknown counts as one), or with fewer than three patients a region of each slide.

    Args:
        tiles: Of `tissue_tiles`.
        slides: The slides.
        share: Share of the patients, or with fewer than three of each slide's tiles, to hold out; 0 to 1.
        shrink: How many tiles' widths are seen at once, see `read_shrunk`.
    """
    if set_aside := {index for index, slide in enumerate(slides) if slide.record.split in _VALIDATION}:
        return _split_by_slide(tiles, set_aside)
    if not share:
        return Split(list(tiles), [])
    if len({_patient(slide) for slide in slides}) >= 3:
        return _split_by_patient(tiles, slides, share)
    guard = max(_GUARD_TILES, shrink - 1)
    parts = [_split_region([ref for ref in tiles if ref.slide == index], share, guard) for index in range(len(slides))]
    return Split([ref for part in parts for ref in part.training], [ref for part in parts for ref in part.held_out])


def _patient(slide: StoredSlide) -> str:
    return slide.record.patient or slide.record.slide_id


def _split_by_patient(tiles: Sequence[TileRef], slides: Sequence[StoredSlide], share: float) -> Split:
    patients = sorted({_patient(slides[ref.slide]) for ref in tiles}, key=_hash)
    held = set(patients[: min(ceil_div(round(100 * share * len(patients)), 100), len(patients) - 1)])
    return _split_by_slide(tiles, {index for index, slide in enumerate(slides) if _patient(slide) in held})


def _split_by_slide(tiles: Sequence[TileRef], held: set[int]) -> Split:
    return Split([ref for ref in tiles if ref.slide not in held], [ref for ref in tiles if ref.slide in held])


def _split_region(tiles: list[TileRef], share: float, guard: int) -> Split:
    """Hold out the far end of a slide, along its tissue's longer side, and drop a band of `guard` tiles before it."""
    if not tiles:
        return Split([], [])
    places = np.asarray([ref.tile for ref in tiles])
    along = places[:, int(np.argmax(np.ptp(places, axis=0)))]
    cut = int(np.quantile(along, 1 - share, method="higher"))
    training = [ref for ref, place in zip(tiles, along, strict=True) if place < cut - guard]
    held_out = [ref for ref, place in zip(tiles, along, strict=True) if place >= cut]
    return Split(training, held_out) if training else Split(tiles, [])


def thin_out(tiles: Sequence[TileRef], slides: Sequence[StoredSlide], count: int) -> list[TileRef]:
    """Choose at most `count` tiles, scattered, always the same ones, by a hash of slide and place."""

    def order(ref: TileRef) -> str:
        return _hash(f"{slides[ref.slide].record.slide_id}/{ref.tile.row}/{ref.tile.col}")

    return sorted(sorted(tiles, key=order)[:count])


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class TilePixels:
    """Pixels of chosen tiles: held in memory when they are few, else read when asked for.

    Args:
        slides: The slides.
        tiles: The tiles.
        cache: Most tiles to hold in memory.
        shrink: How many of their pixels, along each axis, are averaged to one.
    """

    def __init__(self, slides: Sequence[StoredSlide], tiles: Sequence[TileRef], cache: int, shrink: int = 1) -> None:
        self.slides, self.tiles = slides, tiles
        self._shrink = shrink
        self._held: list[NDArray[np.uint8]] = []
        if len(tiles) <= cache:
            with ThreadPoolExecutor(_THREADS) as threads:
                self._held = list(threads.map(self._read, tiles))

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Read RGB of one tile as `read_shrunk` does, (256, 256, 3)."""
        return self._held[index] if self._held else self._read(self.tiles[index])

    def _read(self, ref: TileRef) -> NDArray[np.uint8]:
        return read_shrunk(self.slides[ref.slide], ref.tile, self._shrink)


def read_around(slide: StoredSlide, tile: TileIndex, factor: int) -> NDArray[np.uint8]:
    """Read what lies around the middle of a tile, RGB, (256 factor, 256 factor, 3); 255 where the store has no tile."""
    return slide.read(tile_region(tile).expand(TILE * (factor - 1) // 2))


def read_shrunk(slide: StoredSlide, tile: TileIndex, factor: int) -> NDArray[np.uint8]:
    """Read what lies around the middle of a tile, squares of its pixels averaged to one: RGB, (256, 256, 3)."""
    return shrink_pixels(torch.from_numpy(read_around(slide, tile, factor)[None]), factor)[0].numpy()


def draw_samples(rng: np.random.Generator, by_slide: Sequence[Sequence[int]], count: int, crop: int) -> list[Sample]:
    """Draw one epoch's samples: slides equally often, and tiles of a slide; each time another crop, turn and lab.

    Args:
        rng: Source of chance.
        by_slide: Indices of each slide's training tiles.
        count: Number of samples.
        crop: Side of a crop, px, at most a tile's.
    """
    share = ceil_div(count, len(by_slide))
    turns_of_slides = [_repeat_shuffled(rng, tiles, share) for tiles in by_slide]
    order = rng.permutation(np.stack(turns_of_slides, axis=1).reshape(-1)[:count])
    corners = rng.integers(0, TILE - crop + 1, (count, 2))
    turns, labs, jitters = rng.integers(0, 8, count), rng.random(count), rng.integers(0, 2**63, count)
    return [
        Sample(int(tile), int(corner[0]), int(corner[1]), int(turn), float(lab), int(jitter))
        for tile, corner, turn, lab, jitter in zip(order, corners, turns, labs, jitters, strict=True)
    ]


def _repeat_shuffled(rng: np.random.Generator, tiles: Sequence[int], count: int) -> NDArray[np.int64]:
    """Repeat tiles in random order, all of them again and again, (count,)."""
    return np.concatenate([rng.permutation(np.asarray(tiles)) for _ in range(ceil_div(count, len(tiles)))])[:count]


def load_batches(
    source: TilePixels, samples: Sequence[Sample], size: int, crop: int, finish: Callable[[Batch], R]
) -> Iterator[R]:
    """Load samples in batches, some batches ahead of their use.

    Args:
        source: The tiles' pixels.
        samples: What to load, in order; the last batch may be smaller.
        size: Samples in a batch.
        crop: Side of a crop, px.
        finish: What else is to be done with each batch ahead of its use.
    """
    starts = range(0, len(samples), size)
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(_THREADS) as threads:
        for start in starts:
            waiting.append(threads.submit(_load, source, samples[start : start + size], crop, finish))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _load(source: TilePixels, samples: Sequence[Sample], crop: int, finish: Callable[[Batch], R]) -> R:
    crops = [_orient(_crop(source[sample.tile], sample, crop), sample.turn) for sample in samples]
    return finish(Batch(samples, torch.from_numpy(np.stack(crops))))


def _crop(tile: NDArray[np.uint8], sample: Sample, crop: int) -> NDArray[np.uint8]:
    return tile[sample.row : sample.row + crop, sample.col : sample.col + crop]


def _orient(pixels: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    turned = np.rot90(pixels, turn % 4)
    return turned[:, ::-1] if turn >= 4 else turned
