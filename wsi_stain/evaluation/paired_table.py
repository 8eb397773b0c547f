"""Colour tables fitted to registered pairs: what a single table a slide can reach, with pairs and without its own.

Memory bound: the judged tiles of a pair, 10 blocks of 1024 px on either side, and sums of 15 MB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsi_stain.core.arrays import Rgb, RgbImage
from wsi_stain.evaluation.tile_choice import scored_places
from wsi_stain.stain.colour_bins import ColourPairs
from wsi_stain.stain.colour_table import Table, apply_table
from wsi_stain.stain.table_fit import fit_table
from wsi_stain.store import StoredSlide
from wsi_stain.store.artifact import load_artifact, save_artifact

_SIZE = 33
_FOLDS = 10
_PAIRS, _WHITES = "pairs", "whites"


@dataclass(frozen=True)
class CountTask:
    """Count the colours of one pair.

    Attributes:
        source: The slide to be normalized: its folder in a tile store.
        truth: The same tissue in the reference's look.
        blocks: Most blocks of 1024 px to look at; of patches all.
        out: Where the counts go.
    """

    source: Path
    truth: Path
    blocks: int
    out: Path


def count_colours(task: CountTask) -> dict[str, Any]:
    """Do a `CountTask`.

    Returns:
        An empty receipt.

    Raises:
        SlideError: The two have different frames, or nothing to compare.
        StainError: A slide's stain was not measured.
    """
    source, truth = StoredSlide(task.source), StoredSlide(task.truth)
    pairs = ColourPairs()
    for here, there in scored_places([source, truth], task.blocks):
        pairs.add(source.read(here).reshape(-1, 3), truth.read(there).reshape(-1, 3))
    whites = np.array([slide.require_stain().white for slide in (source, truth)])
    save_artifact(task.out, {_PAIRS: pairs.pack(), _WHITES: whites})
    return {}


def fit_counted(paths: Sequence[Path]) -> Table:
    """Fit the best table to all pairs that were counted, from their mean white to the truths' mean white."""
    pairs, whites = ColourPairs(), []
    for path in paths:
        counts = load_artifact(path)
        pairs.add_packed(counts[_PAIRS])
        whites.append(counts[_WHITES])
    white, target_white = np.mean(whites, axis=0).tolist()
    return fit_table(pairs, tuple(white), tuple(target_white), _SIZE)


def fit_paired(before: Sequence[RgbImage], target: Sequence[RgbImage], white: Rgb, target_white: Rgb) -> Table:
    """Fit the best table from what a laboratory shows to the truth."""
    return fit_table(_count(before, target), white, target_white, _SIZE)


def by_other_patches(
    before: Sequence[RgbImage], target: Sequence[RgbImage], white: Rgb, target_white: Rgb
) -> list[RgbImage]:
    """Send each patch through the best table for patches of other folds: ten, or as many as there are patches.

    Args:
        before: Patches, at least two.
        target: Their truths.
        white: Glass of the source.
        target_white: Glass of the truth.
    """
    folds = min(_FOLDS, len(before))
    counts = [_count(before[fold::folds], target[fold::folds]).pack() for fold in range(folds)]
    made: list[RgbImage] = list(before)
    for fold in range(folds):
        others = ColourPairs()
        for other, packed in enumerate(counts):
            if other != fold:
                others.add_packed(packed)
        table = fit_table(others, white, target_white, _SIZE)
        made[fold::folds] = [apply_table(table, patch) for patch in before[fold::folds]]
    return made


def _count(before: Sequence[RgbImage], target: Sequence[RgbImage]) -> ColourPairs:
    pairs = ColourPairs()
    for pictures, truth in zip(before, target, strict=True):
        pairs.add(pictures.reshape(-1, 3), truth.reshape(-1, 3))
    return pairs
