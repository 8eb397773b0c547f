"""What normalization does to measurements: texture, and intensities of nuclei, before and after, tile by tile.

    python benchmarks/not_for.py STORE... --checkpoint FILE [--reference STORE] [--blocks 6]

For each slide and method: the median over tiles of the value after over the value before, its 10th and 90th percentile,
and Spearman's rank correlation over tiles: 1 where tiles keep their order. Nuclei are those that the source shows, the
same pixels before and after. Texture is that of luminance, of whole tiles: Haralick's contrast, homogeneity and
correlation at 1 um (Haralick et al. 1973, IEEE Trans. Syst. Man Cybern. 3, 610-621) on 32 grey levels, and the power in
the highest octave.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from skimage.feature import graycomatrix, graycoprops

from pipelines.evaluate.methods import baselines, checkpoint_methods
from wsi_stain.core.arrays import Rgb
from wsi_stain.core.geometry import tile_region
from wsi_stain.evaluation.methods import Method
from wsi_stain.evaluation.tile_choice import choose_scored_tiles
from wsi_stain.executor import ExecutorConfig
from wsi_stain.metrics.image import texture
from wsi_stain.metrics.nuclei import nuclei_mask
from wsi_stain.stain.statistics import od_table
from wsi_stain.stain.vectors import LUMINANCE
from wsi_stain.store import StoredSlide, TileStore

_GREYS = 32
_LEAST = 300
"""Fewest nuclear pixels of a tile that is measured."""


def measure(tile: NDArray[np.uint8], nuclei: NDArray[np.bool_], white: Rgb, mpp: float) -> dict[str, float]:
    """Measure one tile, (256, 256, 3), at the source's nuclei."""
    luminance = tile.astype(np.float32) @ np.asarray(LUMINANCE, np.float32)
    table = od_table(white)
    density = sum(table[tile[..., c], c] for c in range(3)) / 3
    levels = np.minimum(luminance * _GREYS / 256, _GREYS - 1).astype(np.uint8)
    matrix = graycomatrix(levels, [max(1, round(1 / mpp))], [0, np.pi / 2], _GREYS, symmetric=True, normed=True)
    haralick = {name: float(graycoprops(matrix, name).mean()) for name in ("contrast", "homogeneity", "correlation")}
    return {
        "nuclear luminance": float(luminance[nuclei].mean()),
        "nuclear optical density": float(density[nuclei].mean()),
        "its deviation in nuclei": float(density[nuclei].std()),
        "nuclei over surroundings": float(density[nuclei].mean() / density[~nuclei].mean()),
        **{f"Haralick {name}": value for name, value in haralick.items()},
    }


def show_slide(slide: StoredSlide, methods: Sequence[Method], blocks: int) -> None:
    """Print a row for each method and measurement of one slide."""
    tiles = choose_scored_tiles(slide, blocks)
    before = np.stack([slide.read(tile_region(tile)) for tile in tiles])
    nuclei = nuclei_mask(before, slide.mpp.mean)
    assert nuclei is not None
    rich = [index for index, mask in enumerate(nuclei) if mask.sum() >= _LEAST]
    stain = slide.require_stain()
    source = [measure(before[index], nuclei[index], stain.white, slide.mpp.mean) for index in rich]
    print(f"{slide.slide_id}: {len(rich)} tiles at {slide.mpp.mean:.3g} um/px", flush=True)
    for method in methods:
        reader = method.open_normalized(slide, stain)
        after = [reader.read(tile_region(tiles[index])) for index in rich]
        made = [
            measure(tile, nuclei[index], reader.white, slide.mpp.mean) for tile, index in zip(after, rich, strict=True)
        ]
        for name in source[0]:
            _print_row(method.name, name, *(np.array([each[name] for each in side]) for side in (source, made)))
        octave = np.array([texture(tile, before[index])[-1] for tile, index in zip(after, rich, strict=True)])
        _print_row(method.name, "power in the highest octave", np.ones_like(octave), octave)


def _print_row(method: str, name: str, before: NDArray[np.float64], after: NDArray[np.float64]) -> None:
    low, middle, high = np.percentile(after / before, [10, 50, 90])
    order = spearmanr(before, after).statistic if np.ptp(before) else float("nan")
    print(f"  {method:20}{name:30}{middle:7.2f} ({low:.2f} to {high:.2f}){order:8.2f}", flush=True)


def main() -> None:
    """Measure all slides of all stores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs="+", type=Path)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--reference", type=Path, help="store that Macenko's method is fitted to")
    parser.add_argument("--blocks", type=int, default=6)
    arguments = parser.parse_args()
    methods = list(checkpoint_methods(arguments.checkpoint, ["lut", "guard", "generator"], ExecutorConfig(gpus=0)))
    with TemporaryDirectory() as work:
        if arguments.reference:
            store = TileStore(arguments.reference)
            references = [store[slide_id] for slide_id in store.slide_ids()]
            methods = [*baselines(references, ["macenko"], Path(work)), *methods]
        for path in arguments.stores:
            for slide_id in TileStore(path).slide_ids():
                show_slide(TileStore(path)[slide_id], methods, arguments.blocks)


if __name__ == "__main__":
    main()
