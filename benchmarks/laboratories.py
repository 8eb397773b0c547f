"""Other laboratories and scanners to judge by: real ones by their colour tables, simulated ones of two families.

Each shows a slide pixel for pixel, so that the slide itself is the truth. See `quality` for what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from slide_parts import Part, block_region, blocks_of, keep_pixels, parts

from wsi_stain.core.arrays import Mask, RgbImage
from wsi_stain.core.errors import StainError
from wsi_stain.core.geometry import TileIndex
from wsi_stain.laboratories.perturbation import draw_perturbation, perturb
from wsi_stain.stain.colour_table import apply_table
from wsi_stain.stain.statistics import StainStatistics, od_table, slide_statistics, white_point
from wsi_stain.stain.vectors import unmixing_matrix
from wsi_stain.store import StoredSlide
from wsi_stain.store.stain_sample import measure_stain, sample_pixels
from wsi_stain.synthetic.scanner import Scanner, rescan

FAMILIES = ("real", "other", "same")
CONDITIONS = (
    "measured", "shifted", "few nuclei", "few tiles", "white off", "levels off", "sharpness", "composition"
)  # fmt: skip

_EACH_FAMILY = 8
_FIRST_SEED = 77_000
_SHIFTED = 4
"""Every which simulated laboratory is judged with the test part's statistics as well."""

_FEW_TILES = 8
_FEW_NUCLEI = 4
"""The tiles poorest in nuclei are one in so many."""

_WHITE_OFF = 5.0
_LEVELS_OFF = 0.25
_BLUR, _SHARPEN = 0.7, 0.5


@dataclass(frozen=True)
class Case:
    """One laboratory, and how its slide is measured.

    Attributes:
        family: One of `FAMILIES`.
        number: Of the laboratory within its family.
        condition: One of `CONDITIONS`.
        table: Of a real scanner.
    """

    family: str
    number: int
    condition: str
    table: Path | None = None

    @property
    def laboratory(self) -> str:
        """Its name."""
        return self.table.stem if self.table else f"{self.family}_{self.number}"

    @property
    def name(self) -> str:
        """Of the case, for files."""
        return f"{self.laboratory}_{self.condition.replace(' ', '_')}"

    def show(self, stain: StainStatistics) -> Callable[[RgbImage], RgbImage]:
        """Return what the laboratory makes of pixels of a slide with this stain."""
        seed = _FIRST_SEED + self.number
        if self.table:
            seen = partial(as_real_scanner, table=self.table)
            return partial(as_other_optics, show=seen, blurred=self.number % 2 == 0) if self._sharpness else seen
        if self.family == "same":
            return partial(as_augmented, seed=seed, stain=stain)
        return partial(as_other_scanner, seed=seed)

    @property
    def _sharpness(self) -> bool:
        return self.condition == "sharpness"


def list_cases(families: Sequence[str], conditions: Sequence[str], tables: Sequence[Path]) -> list[Case]:
    """List all that is judged: every condition on real scanners, a few on simulated ones."""
    real = [Case("real", n, condition, table) for n, table in enumerate(tables) for condition in CONDITIONS[:-1]]
    numbers = {"measured": range(_EACH_FAMILY), "shifted": range(0, _EACH_FAMILY, _SHIFTED)}
    simulated = [Case(family, n, name) for family in FAMILIES[1:] for name, some in numbers.items() for n in some]
    composed = Case("same", 0, "composition")
    chosen = [case for case in [*real, *simulated, composed] if case.condition in conditions]
    return [case for case in chosen if case.family in families]


def as_real_scanner(pixels: RgbImage, table: Path) -> RgbImage:
    """Show pixels by a colour table fitted to registered pairs of two scanners."""
    with np.load(table) as found:
        return apply_table(found["table"], pixels)


def as_other_optics(pixels: RgbImage, show: Callable[[RgbImage], RgbImage], blurred: bool) -> RgbImage:
    """Show pixels, blurred or sharpened."""
    seen = show(pixels).astype(np.float32)
    soft = gaussian_filter(seen, (_BLUR, _BLUR, 0) if blurred else (1.0, 1.0, 0))
    return _to_8bit(soft if blurred else seen + _SHARPEN * (seen - soft))


def as_augmented(pixels: RgbImage, seed: int, stain: StainStatistics) -> RgbImage:
    """Show pixels as training's own augmentation would."""
    drawn = draw_perturbation(np.random.default_rng(seed))
    return np.rint(perturb(pixels, drawn, stain)).astype(np.uint8)


def as_other_scanner(pixels: RgbImage, seed: int) -> RgbImage:
    """Show pixels by a simulated scanner of a family that training never sees."""
    rng = np.random.default_rng(seed)
    matrix = np.eye(3) + rng.uniform(-0.06, 0.06, (3, 3))
    scanner = Scanner(
        name=str(seed),
        hematoxylin_gain=float(np.exp(rng.uniform(-0.4, 0.4))),
        eosin_gain=float(np.exp(rng.uniform(-0.4, 0.4))),
        hematoxylin_turn=tuple(rng.uniform(-0.08, 0.08, 3)),
        eosin_turn=tuple(rng.uniform(-0.08, 0.08, 3)),
        matrix=tuple(tuple(row) for row in matrix / matrix.sum(axis=1, keepdims=True)),
        balance=tuple(rng.uniform(0.92, 1.0, 3)),
        gamma=float(np.exp(rng.uniform(-0.12, 0.12))),
        contrast=tuple(rng.uniform(0, 0.15, 3)),
    )
    seen = rescan(pixels, scanner).astype(np.float32)
    return _to_8bit(seen + rng.uniform(0, 0.6) * (seen - gaussian_filter(seen, (1.0, 1.0, 0))))


@dataclass(frozen=True)
class JudgedSlide:
    """A slide as one laboratory shows it, with the truth.

    Attributes:
        slide: The slide; tables are fitted to it.
        measured: The part of it that statistics are measured on.
        stain: The statistics.
        blocks: First tiles of the blocks that are judged.
        before: The blocks as the laboratory shows them.
        truth: The blocks as they are.
    """

    slide: Part
    measured: Part
    stain: StainStatistics
    blocks: list[TileIndex]
    before: list[RgbImage]
    truth: list[RgbImage]


def show_slide(case: Case, stored: StoredSlide, count: int) -> JudgedSlide:
    """Show a slide, measure it as the case wants, read at most `count` blocks of its test part."""
    _, test = parts(stored)
    show = case.show(stored.require_stain())
    slide = Part(stored, test if case.condition == "shifted" else np.ones_like(test), show)
    measured = slide
    if case.condition == "few tiles":
        measured = _few_tiles(stored, show, case.number)
    elif case.condition == "few nuclei":
        poorest = _by_nuclei(stored, test)
        measured = Part(stored, _chosen(test, poorest[: len(poorest) // _FEW_NUCLEI]), show)
    stain = _off_white(slide, case.number) if case.condition == "white off" else measure(measured)
    if case.condition == "levels off":
        stain = _off_levels(stain, case.number)
    blocks = blocks_of(stored, test, count)
    as_it_is = Part(stored, test, keep_pixels)
    before, truth = ([part.read(block_region(block)) for block in blocks] for part in (slide, as_it_is))
    return JudgedSlide(slide, measured, stain, blocks, before, truth)


def composed_stains(case: Case, stored: StoredSlide) -> list[StainStatistics]:
    """Measure a slide twice: on the test tiles rich in nuclei, and on those rich in stroma."""
    show = case.show(stored.require_stain())
    test = parts(stored)[1]
    ranked = _by_nuclei(stored, test)
    halves = (ranked[len(ranked) // 2 :], ranked[: len(ranked) // 2])
    return [measure(Part(stored, _chosen(test, half), show)) for half in halves]


def measure(part: Part) -> StainStatistics:
    """Measure stain as tiling does."""
    return measure_stain(part, part.record.stain_config)  # type: ignore[arg-type]


def _off_white(part: Part, seed: int) -> StainStatistics:
    white, origin = white_point(part.thumbnail, part.mask)
    moved = np.add(white, np.random.default_rng(seed).uniform(-_WHITE_OFF, _WHITE_OFF, 3))
    red, green, blue = np.clip(moved, 0, 255).tolist()
    pixels, _ = sample_pixels(part, (red, green, blue))  # type: ignore[arg-type]
    return slide_statistics(pixels, (red, green, blue), origin, part.record.stain_config)


def _off_levels(stain: StainStatistics, number: int) -> StainStatistics:
    """Levels of hematoxylin and eosin a quarter off, up or down: the four combinations in turn."""
    h, e = (float(np.exp(_LEVELS_OFF * sign)) for sign in (1 - 2 * (number % 2), 1 - 2 * (number // 2 % 2)))
    factors = {
        "h_nuclei": h,
        "h_stroma": h,
        "e_nuclei": e,
        "e_stroma": e,
        "lum_nuclei": h,
        "lum_stroma": (h * e) ** 0.5,
    }
    return stain.model_copy(update={name: getattr(stain, name) * factor for name, factor in factors.items()})


def _few_tiles(stored: StoredSlide, show: Callable[[RgbImage], RgbImage], seed: int) -> Part:
    """Draw a part of few tiles; again where stain cannot be measured on them, as such a slide would be refused."""
    rng = np.random.default_rng(seed)
    rich = np.argwhere(stored.kept & (stored.tissue >= 0.5))
    while True:
        tiles = np.zeros_like(stored.kept)
        tiles[tuple(rng.permutation(rich)[:_FEW_TILES].T)] = True
        part = Part(stored, tiles, show)
        try:
            measure(part)
        except StainError:
            continue
        return part


def _by_nuclei(stored: StoredSlide, test: Mask) -> list[TileIndex]:
    """The test tiles rich in tissue, by their mean hematoxylin."""
    stain = stored.require_stain()
    tiles = [TileIndex(int(r), int(c)) for r, c in np.argwhere(test & stored.kept & (stored.tissue >= 0.5))]
    table, unmix = od_table(stain.white), unmixing_matrix(stain.vectors)

    def amount(tile: TileIndex) -> float:
        pixels = stored.read_tile(tile)[::8, ::8]
        od = np.stack([table[pixels[..., c], c] for c in range(3)], axis=-1)
        return float((od @ unmix)[..., 0].mean())

    return sorted(tiles, key=amount)


def _chosen(test: Mask, tiles: Sequence[TileIndex]) -> Mask:
    """The map of some tiles."""
    chosen = np.zeros_like(test)
    chosen[tuple(np.asarray(tiles).T)] = True
    return chosen


def _to_8bit(values: NDArray[np.float32]) -> RgbImage:
    pixels: RgbImage = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return pixels
