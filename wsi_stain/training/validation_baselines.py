"""Baselines beside a generator's scores: the same held-out tiles without it, by classical methods, by an oracle.

untouched   as the other laboratory shows them
reinhard, macenko   normalized at slide level, see `normalizers.classical`; measured as far off as the generator's input
oracle      by the best 3-D table from that laboratory to the truth, fitted on the very tiles it is judged on
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from wsi_stain.core.arrays import RgbImage
from wsi_stain.metrics.colour_difference import ciede2000
from wsi_stain.metrics.image import psnr, ssim
from wsi_stain.normalizers.classical import MEAN, SPREAD, MacenkoNormalizer, ReinhardNormalizer, lab_moments
from wsi_stain.stain.colour_bins import ColourPairs
from wsi_stain.stain.colour_table import apply_table
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.stain.table_fit import fit_table
from wsi_stain.store.artifact import STATISTICS, pack_statistics
from wsi_stain.training.simulated_labs import HeldOut, SimulatedLab

_SCORES: dict[str, Callable[[RgbImage, RgbImage], float]] = {"psnr": psnr, "ssim": ssim, "ciede2000": ciede2000}
_WHOLE_TILE = np.ones((1, 1), bool)


def mean_scores(row: str, images: Sequence[RgbImage], targets: Sequence[RgbImage]) -> dict[str, float]:
    """Measure PSNR in dB, SSIM of luminance and CIEDE2000, each named `row_score`, as means over images."""
    return {
        f"{row}_{name}": float(np.mean([measure(a, b) for a, b in zip(images, targets, strict=True)]))
        for name, measure in _SCORES.items()
    }


def score_baselines(tiles: Sequence[HeldOut], reference: StainStatistics) -> dict[str, float]:
    """Score the rows above on held-out tiles; empty where there are none.

    Args:
        tiles: The held-out tiles.
        reference: Stain of the reference.
    """
    if not tiles:
        return {}
    targets = [tile.pixels.cpu().numpy() for tile in tiles]
    shown = [tile.foreign.simulate(tile.pixels).cpu().numpy() for tile in tiles]
    rows = {
        "untouched": shown,
        "reinhard": list(_reinhard(tiles, shown)),
        "macenko": list(_macenko(tiles, shown, reference)),
        "oracle": _oracle(tiles, shown, targets),
    }
    return {name: value for row, images in rows.items() for name, value in mean_scores(row, images, targets).items()}


def _reinhard(tiles: Sequence[HeldOut], shown: Sequence[RgbImage]) -> Iterator[RgbImage]:
    for tile, pixels in zip(tiles, shown, strict=True):
        normalizer = ReinhardNormalizer(*lab_moments(tile.pool, tile.own.statistics.white))
        shown_there = tile.foreign.simulate(torch.from_numpy(tile.measured)).numpy()
        mean, spread = lab_moments(shown_there, tile.foreign.statistics.white)
        yield normalizer.apply(pixels, _WHOLE_TILE, {MEAN: np.asarray(mean), SPREAD: np.asarray(spread)})


def _macenko(tiles: Sequence[HeldOut], shown: Sequence[RgbImage], reference: StainStatistics) -> Iterator[RgbImage]:
    normalizer = MacenkoNormalizer(reference)
    for tile, pixels in zip(tiles, shown, strict=True):
        yield normalizer.apply(pixels, _WHOLE_TILE, {STATISTICS: pack_statistics(tile.foreign.statistics)})


def _oracle(tiles: Sequence[HeldOut], shown: Sequence[RgbImage], targets: Sequence[RgbImage]) -> list[RgbImage]:
    results: dict[int, RgbImage] = {}
    for lab in _distinct_labs([tile.foreign for tile in tiles]):
        indices = [index for index, tile in enumerate(tiles) if tile.foreign is lab]
        pairs = ColourPairs()
        for index in indices:
            pairs.add(shown[index].reshape(-1, 3), targets[index].reshape(-1, 3))
        table = fit_table(pairs, lab.statistics.white, lab.own.white)
        results |= {index: apply_table(table, shown[index]) for index in indices}
    return [results[index] for index in range(len(tiles))]


def _distinct_labs(labs: Sequence[SimulatedLab]) -> list[SimulatedLab]:
    return list({id(lab): lab for lab in labs}.values())
