"""How near the truth each way to normalize comes: trained on one part of a slide, tested on the rest as others see it.

    python benchmarks/quality.py STORE SLIDE_ID WORKDIR [--tables TABLE.npz ...] [--variant NAME:key=value,... ...]
        [--config small] [--seeds 1] [--families real other same] [--conditions ...] [--modes ...] [--methods ...]
        [--blocks 10] [--normalize key=value,...]

Tiles of STORE's slide beyond 60 % of its longer side (behind a guard band) are never trained on. The slide is shown as
others would have it, and normalized back; on those tiles the original is the truth, pixel for pixel. The reference's
stain is measured on the training part alone, and the shown slide's, as always, on all of it. Families of laboratories:

    real     through each of `--tables`: colour tables fitted to registered pairs of two real scanners
    other    eight simulated scanners of a family that training may not use: 3x3 colour matrix, tone curve of each
             channel, sharpening, white balance, other stain gains and vectors
    same     eight draws of the training's own augmentation, with seeds that training never sees

Real scanners are judged under all conditions but the last, simulated ones under the first, every fourth also under the
second, and one laboratory under the last:

    measured     statistics of the whole slide
    shifted      of the test part alone, so that another composition of tissue looks like another stain
    few nuclei   of the quarter of the test tiles poorest in nuclei
    few tiles    of eight tiles of the slide
    white off    with a white point that is up to five levels off in each channel
    levels off   with levels of hematoxylin and eosin that are a quarter too high or too low
    sharpness    the pixels blurred (every other table) or sharpened, as another scanner's optics and firmware do
    composition  not to the truth, but between what the statistics of a nuclei-rich and of a stroma-rich half of the
                 tiles make of the same pixels

Rows: `untouched`; `paired oracle`, the best 3-D table fitted to the truth itself; `statistics alone`, the reference's
stain vectors and levels without any network; Reinhard, Macenko and Vahadane at slide level; and each trained variant as
generator, guard and lut. Columns: mean CIEDE2000 with a 95 % interval (bootstrap over seeds, laboratories and blocks)
and its worst decile of tiles, PSNR in dB, SSIM of luminance, texture (the output's share of the truth's power in the
highest octave; 1 is right) and the share of the gap from untouched to the oracle that is closed.

A variant is a name and changes to the training section, for example `gray:template=gray,generator.in_channels=1`;
`--normalize` has changes to the section `normalize` for all of them. A variant is
trained with as many seeds as asked for, each on one thread. What is trained and judged in WORKDIR is kept, in a file
for each method and case, so that a program that was stopped goes on. The table goes to WORKDIR/quality.csv as well.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from laboratories import CONDITIONS, FAMILIES, Case, composed_stains, list_cases, show_slide
from numpy.typing import NDArray
from slide_parts import (
    CLASSICAL,
    MEASURE_THEMSELVES,
    MODES,
    apply_to_block,
    methods,
    overrides,
    train_variant,
    training_part,
)

from wsi_stain.core.arrays import RgbImage
from wsi_stain.core.geometry import TILE
from wsi_stain.core.journal import atomic_write
from wsi_stain.evaluation.pairs import oracle, sparse_ciede2000, worst_tenth
from wsi_stain.evaluation.tile_choice import SIDE_TILES
from wsi_stain.metrics.image import psnr, share_of_gap, ssim, texture
from wsi_stain.normalizers.config import NormalizeConfig
from wsi_stain.store import TileStore
from wsi_stain.store.artifact import Artifact

Scores = NDArray[np.float64]

UNTOUCHED, ORACLE = "untouched", "paired oracle"

_MOST_PSNR = 99.0
_COMPOSITION_BLOCKS = 4
_RESAMPLES = 2000
_ERROR, _PSNR, _SSIM, _TEXTURE = range(4)


def block_scores(made: RgbImage, truth: RgbImage) -> list[list[float]]:
    """CIEDE2000, PSNR, SSIM and texture of each tile of a block."""
    scores = []
    for row in range(SIDE_TILES):
        for col in range(SIDE_TILES):
            place = slice(row * TILE, (row + 1) * TILE), slice(col * TILE, (col + 1) * TILE)
            a, b = made[place], truth[place]
            scores.append([sparse_ciede2000(a, b), min(psnr(a, b), _MOST_PSNR), ssim(a, b), texture(a, b)[-1]])
    return scores


def train_on_part(store: Path, slide_id: str, config: str, changes: str, out: Path) -> Path:
    """Train a variant on the slide's training part, unless it is there; the checkpoint's path."""
    return train_variant(training_part(TileStore(store)[slide_id]), config, changes, out)


def judge(
    case: Case,
    store: Path,
    slide_id: str,
    checkpoints: Mapping[str, Path],
    modes: Sequence[str],
    classical: Sequence[str],
    blocks: int,
    settings: NormalizeConfig,
    out: Path,
) -> None:
    """Write the scores of every method in one case, unless they are there: (block, tile, score)."""
    stored = TileStore(store)[slide_id]
    loaders = methods(training_part(stored), checkpoints, modes, settings)
    loaders = {name: load for name, load in loaders.items() if name in classical or " / " in name}
    composed = case.condition == "composition"
    names = list(loaders) if composed else [UNTOUCHED, ORACLE, *loaders]
    missing = [name for name in names if not score_file(out, name, case).exists()]
    if not missing:
        return
    judged = show_slide(case, stored, _COMPOSITION_BLOCKS if composed else blocks)
    stains = composed_stains(case, stored) if composed else [judged.stain]
    artifacts: dict[tuple[str, int], Artifact] = {}
    for name in missing:
        if name == UNTOUCHED:
            made = [judged.before]
        elif name == ORACLE:
            made = [oracle(judged.before, judged.truth, judged.stain, stored.require_stain())]
        else:
            made = []
            for number, stain in enumerate(stains):
                normalizer, variant = loaders[name](), (name.partition(" / ")[0], number)  # all modes prepare alike
                if variant not in artifacts:
                    measured = judged.measured if name in MEASURE_THEMSELVES else judged.slide
                    artifacts[variant] = normalizer.prepare(measured, stain)
                made.append(
                    [apply_to_block(normalizer, judged.slide, block, artifacts[variant]) for block in judged.blocks]
                )
        pairs = zip(made[0], made[1] if composed else judged.truth, strict=True)
        scores = np.round([block_scores(a, b) for a, b in pairs], 5).tolist()
        atomic_write(score_file(out, name, case), json.dumps(scores).encode())


def score_file(out: Path, name: str, case: Case) -> Path:
    """Where a method's scores in a case are."""
    return out / name.replace(" / ", "_").replace(" ", "_") / f"{case.name}.json"


class Table:
    """All scores, by method and case.

    Args:
        out: Where their files are.
        cases: What was judged.
        seeds: Of each variant.
    """

    def __init__(self, out: Path, cases: Sequence[Case], seeds: int) -> None:
        self._out, self._cases, self._seeds = out, cases, seeds

    def scores(self, method: str, family: str, condition: str) -> Scores | None:
        """(seeds, laboratories, blocks, tiles, scores) of a method; None where it was not judged."""
        variant, mode = method.partition(" / ")[::2]
        names = [f"{variant_name(variant, seed)} / {mode}" for seed in range(self._seeds)] if mode else [method]
        cases = [case for case in self._cases if (case.family, case.condition) == (family, condition)]
        files = [[score_file(self._out, name, case) for case in cases] for name in names]
        if not cases or not all(file.exists() for row in files for file in row):
            return None
        return np.array([[json.loads(file.read_text()) for file in row] for row in files])

    def row(self, method: str, family: str, condition: str) -> dict[str, Any] | None:
        """A line of the table."""
        scores = self.scores(method, family, condition)
        if scores is None:
            return None
        errors = scores[..., _ERROR]
        low, high = interval(errors.mean(axis=-1))
        cells = {"method": method, "family": family, "condition": condition, "CIEDE2000": float(errors.mean())}
        cells |= {"low": low, "high": high, "seeds": float(np.std(errors.mean(axis=(1, 2, 3))))}
        cells |= {"worst decile": worst_tenth(errors.reshape(-1)), "PSNR": float(scores[..., _PSNR].mean())}
        cells |= {"SSIM": float(scores[..., _SSIM].mean()), "texture": float(np.median(scores[..., _TEXTURE]))}
        ends = [self.scores(end, family, condition) for end in (UNTOUCHED, ORACLE)]
        bounds = [np.nan if end is None else end[..., _ERROR].mean() for end in ends]
        return cells | {"gap": share_of_gap(errors.mean(), *bounds)}

    def rows(self, named: Sequence[str]) -> list[dict[str, Any]]:
        """All lines, family by family and condition by condition."""
        kinds = dict.fromkeys((case.family, case.condition) for case in self._cases)
        every = [self.row(method, *kind) for kind in kinds for method in named]
        return [cells for cells in every if cells]


def interval(means: NDArray[np.float64]) -> tuple[float, float]:
    """95 % interval of the mean of (seeds, laboratories, blocks): each is drawn with replacement."""
    rng = np.random.default_rng(0)
    drawn = [means[np.ix_(*[rng.integers(0, n, n) for n in means.shape])].mean() for _ in range(_RESAMPLES)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def variant_name(variant: str, seed: int) -> str:
    """Name of a variant trained with a seed."""
    return f"{variant}@{seed}"


def main() -> None:
    """Train what is missing, judge everything, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("slide_id")
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--config", default="small")
    parser.add_argument("--variant", action="append", default=[])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--tables", type=Path, nargs="*", default=[])
    parser.add_argument("--families", nargs="*", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--conditions", nargs="*", choices=CONDITIONS, default=CONDITIONS)
    parser.add_argument("--modes", nargs="*", choices=MODES, default=MODES)
    parser.add_argument("--methods", nargs="*", choices=CLASSICAL, default=CLASSICAL)
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--normalize", default="")
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    named = [variant.partition(":")[::2] for variant in asked.variant or [f"{asked.config}:"]]
    cases = list_cases(asked.families, asked.conditions, asked.tables)
    out = asked.workdir / "scores"
    with ProcessPoolExecutor(asked.workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        runs = {
            variant_name(name, seed): f"seed={seed},{changes}" for name, changes in named for seed in range(asked.seeds)
        }
        train = partial(train_on_part, asked.store, asked.slide_id, asked.config)
        paths = pool.map(train, runs.values(), [asked.workdir / "trained" / name for name in runs])
        checkpoints = dict(zip(runs, paths, strict=True))
        settings = NormalizeConfig.model_validate(overrides(asked.normalize))
        judged_by = (asked.modes, asked.methods, asked.blocks, settings, out)
        rest = (asked.store, asked.slide_id, checkpoints, *judged_by)
        for done in [pool.submit(judge, case, *rest) for case in cases]:
            done.result()
    variants = [name for name, _ in named]
    made = [f"{variant} / {mode}" for variant in variants for mode in asked.modes]
    rows = Table(out, cases, asked.seeds).rows([UNTOUCHED, ORACLE, *asked.methods, *made])
    with open(asked.workdir / "quality.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for cells in [dict.fromkeys(rows[0]), *rows]:
        values = [f"{value:.3f}" if isinstance(value, float) else value or key for key, value in cells.items()]
        print(f"{values[0]:30}" + "".join(f"{value:>13}" for value in values[1:]))


if __name__ == "__main__":
    main()
