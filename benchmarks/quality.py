"""How near the truth each way to normalize comes: trained on one part of a slide, tested on the rest as others see it.

    python benchmarks/quality.py STORE SLIDE_ID WORKDIR [--config small] [--variant NAME:key=value,... ...]

Tiles of STORE's slide beyond 60 % of its longer side (behind a guard band) are never trained on. The slide is shown as
16 simulated laboratories would have it, and normalized back; on those tiles the original is the truth, pixel for pixel.
The reference's stain is measured on the training part alone, and the shown slide's, as always, on all of it.

    same family   eight draws of the training's own augmentation, with seeds that training never sees
    other family  eight scanners of a family that training may not use: 3x3 colour matrix, tone curve of each channel,
                  sharpening, white balance, other stain gains and vectors

Rows: `untouched`; Reinhard, Macenko and Vahadane at slide level; `paired oracle`, the best 3-D table fitted to the
truth itself; and each trained variant as generator, guard and lut. Columns: mean CIEDE2000 and its worst decile of
tiles, in each family; SSIM of luminance; texture, the output's share of the truth's power in the highest octave (1 is
right); the share of the gap from untouched to the oracle that is closed; `shifted`: CIEDE2000 to the truth, both
families, when stain is measured on the test part alone, so that another composition of tissue looks like another stain;
and `composition`: CIEDE2000 between what the statistics of a nuclei-rich and of a stroma-rich half of the tiles make of
the same pixels.

A variant is a name and changes to the training section, for example `gray:template=gray,generator.in_channels=1`. A
trained variant in WORKDIR is kept. The table goes to WORKDIR/quality.csv as well.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from slide_parts import (
    Part,
    apply_to_block,
    block_region,
    blocks_of,
    normalizers,
    parts,
    train_variant,
    training_part,
    untouched,
)

from wsi_stain.core.geometry import TILE, TileIndex
from wsi_stain.evaluation.pairs import oracle, sparse_ciede2000, worst_tenth
from wsi_stain.evaluation.tile_choice import SIDE_TILES
from wsi_stain.metrics.image import share_of_gap, ssim, texture
from wsi_stain.stain.statistics import StainStatistics, od_table
from wsi_stain.stain.vectors import unmixing
from wsi_stain.store import StoredSlide, TileStore
from wsi_stain.store.stain_sample import measure_stain
from wsi_stain.synthetic.scanner import Scanner, rescan
from wsi_stain.training.augment import draw_perturbation, perturb

Pixels = NDArray[np.uint8]

_EACH_FAMILY = 8
_FIRST_SEED = 77_000
_SHIFTED = 4
"""Every which laboratory is judged with the test part's statistics as well."""


def as_augmented(pixels: Pixels, seed: int, stain: StainStatistics) -> Pixels:
    drawn = draw_perturbation(np.random.default_rng(seed))
    return np.rint(perturb(pixels, drawn, stain)).astype(np.uint8)


def as_other_scanner(pixels: Pixels, seed: int) -> Pixels:
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
    sharper = seen + rng.uniform(0, 0.6) * (seen - gaussian_filter(seen, (1.0, 1.0, 0)))
    return np.clip(np.rint(sharper), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Case:
    """One simulated laboratory."""

    family: str
    seed: int

    def show(self, stain: StainStatistics) -> Callable[[Pixels], Pixels]:
        if self.family == "same":
            return partial(as_augmented, seed=self.seed, stain=stain)
        return partial(as_other_scanner, seed=self.seed)


CASES = [Case(family, _FIRST_SEED + number) for family in ("same", "other") for number in range(_EACH_FAMILY)]


def tile_scores(made: Pixels, truth: Pixels) -> list[tuple[float, float, float]]:
    """CIEDE2000, SSIM and texture of each tile of a block."""
    scores = []
    for row in range(SIDE_TILES):
        for col in range(SIDE_TILES):
            place = slice(row * TILE, (row + 1) * TILE), slice(col * TILE, (col + 1) * TILE)
            a, b = made[place], truth[place]
            scores.append((sparse_ciede2000(a, b), ssim(a, b), texture(a, b)[-1]))
    return scores


def score_case(
    case: Case, part_alone: bool, store: Path, slide_id: str, checkpoints: Mapping[str, Path]
) -> dict[str, list[Any]]:
    """Scores of each tile, by method, for one laboratory; a process of its own.

    `part_alone` has stain measured, and tables fitted, on the test part only.
    """
    torch.set_num_threads(1)
    stored = TileStore(store)[slide_id]
    _, test = parts(stored)
    assert stored.record.stain is not None
    truth, blocks = Part(stored, test, untouched), blocks_of(stored, test)
    slide = Part(stored, test if part_alone else np.ones_like(test), case.show(stored.record.stain))
    stain = measure_stain(slide, stored.record.stain_config)  # type: ignore[arg-type]
    targets = [truth.read(block_region(block)) for block in blocks]
    made = {"untouched": [slide.read(block_region(block)) for block in blocks]}
    made["paired oracle"] = oracle(made["untouched"], targets, stain, stored.record.stain)
    for name, normalizer in normalizers(training_part(stored), checkpoints):
        if part_alone and name in ("Vahadane", *(f"{own} / guard" for own in checkpoints)):
            continue  # for want of time
        artifact = normalizer.prepare(slide, stain)
        made[name] = [apply_to_block(normalizer, slide, block, artifact) for block in blocks]
    return {
        name: [score for a, b in zip(images, targets, strict=True) for score in tile_scores(a, b)]
        for name, images in made.items()
    }


def composition(store: Path, slide_id: str, checkpoints: Mapping[str, Path]) -> dict[str, float]:
    """Mean CIEDE2000 between the outputs for statistics of two halves of the tiles: rich in nuclei, rich in stroma."""
    torch.set_num_threads(1)
    stored = TileStore(store)[slide_id]
    _, test = parts(stored)
    assert stored.record.stain is not None
    show = CASES[0].show(stored.record.stain)
    halves = [Part(stored, half, show) for half in nuclear_halves(stored, test)]
    stains = [measure_stain(half, stored.record.stain_config) for half in halves]  # type: ignore[arg-type]
    whole, blocks = Part(stored, test, show), blocks_of(stored, test)[:4]
    found = {}
    for name, normalizer in normalizers(training_part(stored), checkpoints):
        artifacts = [normalizer.prepare(half, stain) for half, stain in zip(halves, stains, strict=True)]
        pairs = [[apply_to_block(normalizer, whole, block, artifact) for artifact in artifacts] for block in blocks]
        found[name] = float(np.mean([sparse_ciede2000(a, b) for a, b in pairs]))
    return found


def nuclear_halves(stored: StoredSlide, test: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """The test tiles in two halves by their mean hematoxylin."""
    stain = stored.record.stain
    assert stain is not None
    tiles = [TileIndex(int(r), int(c)) for r, c in np.argwhere(test & (stored.tissue >= 0.5))]
    table, unmix = od_table(stain.white), unmixing(stain.vectors)

    def amount(tile: TileIndex) -> float:
        pixels = stored.read_tile(tile)[::8, ::8]
        od = np.stack([table[pixels[..., c], c] for c in range(3)], axis=-1)
        return float((od @ unmix)[..., 0].mean())

    ranked = sorted(tiles, key=amount)
    halves = []
    for some in (ranked[len(ranked) // 2 :], ranked[: len(ranked) // 2]):
        half = np.zeros_like(test)
        half[tuple(np.asarray(some).T)] = True
        halves.append(half)
    return halves


def row(
    name: str,
    scores: Sequence[Mapping[str, list[Any]]],
    shifted: Sequence[Mapping[str, list[Any]]],
    composed: Mapping[str, float],
) -> dict[str, Any]:
    """One method's line of the table."""
    cells: dict[str, Any] = {"method": name}
    every = np.array([score[name] for score in scores])
    for family in ("same", "other"):
        chosen = np.array([case.family == family for case in CASES])
        errors = every[chosen][..., 0].reshape(-1)
        cells[f"{family}: CIEDE2000"] = float(errors.mean())
        cells[f"{family}: worst decile"] = worst_tenth(errors)
    cells["SSIM"], cells["texture"] = float(every[..., 1].mean()), float(np.median(every[..., 2]))
    bounds = [np.array([score[end] for score in scores])[..., 0].mean() for end in ("untouched", "paired oracle")]
    cells["gap closed"] = share_of_gap(every[..., 0].mean(), *bounds)
    alone = [np.array(found[name])[:, 0].mean() for found in shifted if name in found]
    cells["shifted"] = float(np.mean(alone)) if alone else float("nan")
    cells["composition"] = composed.get(name, float("nan"))
    return cells


def main() -> None:
    """Train what is missing, judge everything, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("slide_id")
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--config", default="small")
    parser.add_argument("--variant", action="append", default=[])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the training")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    stored = TileStore(asked.store)[asked.slide_id]
    part = training_part(stored)
    named = [variant.partition(":")[::2] for variant in asked.variant or [f"{asked.config}:"]]
    checkpoints = {name: train_variant(part, asked.config, changes, asked.workdir / name) for name, changes in named}
    arguments = (asked.store, asked.slide_id, checkpoints)
    with ProcessPoolExecutor(asked.workers) as pool:
        composed = pool.submit(composition, *arguments)
        whole = [pool.submit(score_case, case, False, *arguments) for case in CASES]
        alone = [pool.submit(score_case, case, True, *arguments) for case in CASES[::_SHIFTED]]
        scores, shifted = ([found.result() for found in submitted] for submitted in (whole, alone))
        rows = [row(name, scores, shifted, composed.result()) for name in scores[0]]
    with open(asked.workdir / "quality.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for cells in [dict.fromkeys(rows[0]), *rows]:
        values = [f"{value:.3f}" if isinstance(value, float) else value or key for key, value in cells.items()]
        print(f"{values[0]:26}" + "".join(f"{value:>20}" for value in values[1:]))


if __name__ == "__main__":
    main()
