"""The sample that a table is fitted to: the same whatever the parts, and what was not in it is told."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.runs.test_judged import Contrast, add_contrast
from tests.support.made_checkpoint import STATISTICS
from wsi_stain.core.errors import NoTissueError
from wsi_stain.core.geometry import TILE, Mpp, Region, Size, TileIndex
from wsi_stain.metrics.colour_difference import ciede2000
from wsi_stain.normalizers.lut import OUTSIDE, RESIDUAL, TILES, LutNormalizer, TableFit
from wsi_stain.normalizers.tile_sample import choose_tiles, list_candidates
from wsi_stain.stain.colour_bins import ColourPairs, colour_counts
from wsi_stain.stain.colour_table import apply_table
from wsi_stain.stain.refinement import Beliefs
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.stain.template import Template, apply_template
from wsi_stain.store.artifact import TABLE, load_artifact, save_artifact, unpack_statistics

Pixels = NDArray[np.uint8]

_GRID = (12, 14)
_PARTS = 4
WHITE = tuple(int(value) for value in add_contrast(np.round(STATISTICS.white).astype(np.uint8)))


@dataclass
class Tissue:
    """A slide of tissue; some tiles have a corner of another colour."""

    odd: dict[TileIndex, tuple[int, int, int]] = field(default_factory=dict)
    share: NDArray[np.float32] = field(default_factory=lambda: np.full(_GRID, 0.9, np.float32))
    mpp: ClassVar[Mpp] = Mpp(0.5, 0.5)
    size: ClassVar[Size] = Size(_GRID[1] * TILE, _GRID[0] * TILE)

    @property
    def record(self) -> SimpleNamespace:
        return SimpleNamespace(fingerprint={"size": 1, "sha256": "0"})

    @property
    def tissue(self) -> NDArray[np.float32]:
        return self.share

    @property
    def kept(self) -> NDArray[np.bool_]:
        return self.share > 0

    @property
    def exempt(self) -> NDArray[np.uint8]:
        return np.zeros((1, 1), np.uint8)

    def read(self, region: Region) -> Pixels:
        place = f"{region.x // TILE},{region.y // TILE}".encode()
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(place).digest()[:4]))
        amounts = rng.gamma([1.5, 2.0], [0.3, 0.2], (region.height, region.width, 2))
        pixels = np.round(STATISTICS.white * np.exp(-amounts @ np.array(STATISTICS.vectors))).astype(np.uint8)
        for tile, colour in self.odd.items():
            if Region(tile.col * TILE, tile.row * TILE, TILE, TILE) == region:
                pixels[:128, :128] = colour
        return pixels


class Doubting(Contrast):
    """In a generator's place: what it is told, and half of it what the tissue says; all as the reference would have it.

    Args:
        right: The slide's statistics as they are.
    """

    stain_passes = 4
    template = Template(kind="he", reference=STATISTICS.model_copy(update={"slides": 100}))

    def __init__(self, right: StainStatistics) -> None:
        self.right = right

    def predict_all(self, windows: Iterable[Pixels], statistics: StainStatistics, crop: int) -> Iterator[Pixels]:
        ref = self.template.reference
        for window in windows:
            told, said = (apply_template(window, each, self.template) + 1.0 for each in (statistics, self.right))
            amounts = (told + said) / 2 * (ref.h_nuclei, ref.e_stroma)
            light = (np.asarray(ref.white) + 1) * np.exp(-amounts @ np.asarray(ref.vectors)) - 1
            yield np.stack([window, np.clip(np.rint(light), 0, 255).astype(np.uint8)])[:, crop:-crop, crop:-crop]


def doubting_fit(white: tuple[int, int, int] = (240, 238, 241)) -> TableFit:
    right = STATISTICS.model_copy(update={"slides": 100})
    return TableFit(Doubting(right), white, 9, 13, _PARTS)  # type: ignore[arg-type]


def test_statistics_that_are_off_are_refined_in_parts_and_give_the_table_of_right_ones() -> None:
    share = np.zeros(_GRID, np.float32)
    share.ravel()[:12] = 0.9
    slide, fit = Tissue(share=share), doubting_fit()
    right = fit._predictor.right  # type: ignore[attr-defined]
    wrong = right.model_copy(update={"h_nuclei": 1.5, "h_stroma": 0.375, "e_nuclei": 0.3, "e_stroma": 0.45})
    whole = fit.prepare(slide, wrong)
    passes: list[list[Beliefs]] = []  # as by many processes
    for _ in range(Doubting.stain_passes):
        refined = doubting_fit().refine(wrong, passes)
        beliefs = {part: doubting_fit().sum_beliefs(slide, refined, part) for part in (3, 1, 0, 2)}
        passes.append([beliefs[part] for part in range(_PARTS)])
    refined = doubting_fit().refine(wrong, passes)
    parts = [doubting_fit().sample(slide, refined, part) for part in range(_PARTS)]
    for name, array in doubting_fit().fit(parts).items():
        np.testing.assert_array_equal(array, whole[name])
    found = unpack_statistics(whole)
    for level in ("h_nuclei", "e_stroma"):
        before, after = (abs(np.log(getattr(each, level) / getattr(right, level))) for each in (wrong, found))
        assert after < before / 6
    pixels = slide.read(Region(0, 0, TILE, TILE))[None]
    expected, made = (apply_table(artifact[TABLE], pixels[0]) for artifact in (fit.prepare(slide, right), whole))
    assert ciede2000(expected, made) < 0.5


def normalizer(tiles: int = 13) -> LutNormalizer:
    return LutNormalizer(TableFit(Contrast(), WHITE, 9, tiles, _PARTS))  # type: ignore[arg-type]


def test_parts_done_anywhere_give_the_bytes_of_one_go(tmp_path: Path) -> None:
    slide, paths = Tissue(), [tmp_path / f"{part}.npz" for part in range(_PARTS)]
    for part in (2, 0, 3, 1):
        save_artifact(paths[part], normalizer().table.sample(slide, STATISTICS, part))
    save_artifact(tmp_path / "parts.npz", normalizer().table.fit([load_artifact(path) for path in paths]))
    save_artifact(tmp_path / "whole.npz", normalizer().prepare(slide, STATISTICS))
    assert (tmp_path / "parts.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    tiles = load_artifact(tmp_path / "whole.npz")[TILES]
    assert len(tiles) == 13 == len({tuple(tile) for tile in tiles})


@pytest.mark.parametrize("count", [1, 3, 6])
def test_a_slide_of_few_tiles_has_a_table(count: int) -> None:
    share = np.zeros(_GRID, np.float32)
    share.ravel()[:count] = 0.9
    artifact = normalizer().prepare(Tissue(share=share), STATISTICS)
    assert len(artifact[TILES]) == count
    assert 0 < artifact[RESIDUAL] < 2


def test_a_slide_without_tissue_has_none() -> None:
    slide = Tissue(share=np.zeros(_GRID, np.float32))
    with pytest.raises(NoTissueError):
        normalizer().prepare(slide, STATISTICS)
    with pytest.raises(NoTissueError):
        choose_tiles(slide, 10)


@pytest.mark.parametrize(
    "colour", [(170, 30, 40), (60, 90, 140), (130, 95, 30)], ids=["red ink", "tattoo blue", "brown pigment"]
)
def test_colours_the_generator_did_not_see_are_counted_and_stay_sane(colour: tuple[int, int, int]) -> None:
    plain = normalizer().prepare(Tissue(), STATISTICS)
    assert plain[OUTSIDE] < 0.001
    for tile in list_candidates(Tissue(), 13):
        artifact = normalizer().prepare(Tissue(odd={tile: colour}), STATISTICS)
        if list(tile) not in artifact[TILES].tolist():
            break
    assert artifact[OUTSIDE] == pytest.approx(0.25 / (13 * 4), rel=0.2)
    found = normalizer().apply(np.full((TILE, TILE, 3), colour, np.uint8), np.ones((1, 1), bool), artifact)[0, 0]
    hue, new_hue = (values - values.mean() for values in (np.array(colour, float), found.astype(float)))
    assert hue @ new_hue > np.cos(np.radians(30)) * np.linalg.norm(hue) * np.linalg.norm(new_hue)
    assert np.abs(found - add_contrast(np.array(colour, np.uint8)).astype(int)).max() < 45


def test_what_is_outside_is_told_exactly() -> None:
    rng = np.random.default_rng(0)
    fitted = rng.integers(100, 140, (5_000, 3), dtype=np.uint8)
    pairs = ColourPairs()
    pairs.add(fitted, fitted)
    seen = np.vstack([fitted, np.tile(np.array([[200, 10, 10]], np.uint8), (1_250, 1)), fitted[:1] + 8])
    assert pairs.share_outside(colour_counts(seen)) == pytest.approx(1_250 / 6_251)
    assert pairs.share_outside(colour_counts(fitted[:0])) == 0


def test_packed_pairs_add_up() -> None:
    rng = np.random.default_rng(0)
    source, wanted = rng.integers(0, 256, (2, 4_000, 3), dtype=np.uint8)
    whole, joined = ColourPairs(), ColourPairs()
    whole.add(source, wanted)
    for part in (slice(1_000, None), slice(0, 1_000)):
        some = ColourPairs()
        some.add(source[part], wanted[part])
        joined.add_packed(some.pack())
    np.testing.assert_array_equal(joined.pack(), whole.pack())
