"""How near the truth a whole run comes: a real slide re-coloured as by another laboratory, then normalized back.

    python benchmarks/known_truth.py SLIDE.svs WORKDIR [--scanner pink] [--output lut] [--config small]

The original is the reference and, pixel for pixel, the truth. Training sees only the original; the re-colouring is of a
family that training's own augmentation does not share code with. Prints mean CIEDE2000 over tissue tiles of the slide
left as it is (`untouched`) and of what the run made of it, beside Reinhard and Macenko on the same pixels.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_stain.baselines import MacenkoNormalizer, ReinhardNormalizer, lab_moments
from wsi_stain.geometry import TILE, Region, TileIndex
from wsi_stain.metrics import ciede2000, ssim
from wsi_stain.slide import Slide
from wsi_stain.store import StoredSlide, TileStore
from wsi_stain.synthetic import SCANNERS, rescan, write_slide

_TILES = 200
_COLUMNS = ("CIEDE2000 mean", "worst decile", "SSIM to the truth")


def recolour(source: Path, target: Path, scanner: str) -> None:
    """Write the slide as another scanner would have it, at level 0 of the source; kept when it is there."""
    if target.exists():
        return
    with Slide(source) as slide:
        pixels = slide.read(Region(0, 0, *slide.size))
        write_slide(target, rescan(pixels, SCANNERS[scanner]), slide.mpp.mean, slide.objective_power or 40, "svs")


def sample(stored: StoredSlide) -> list[TileIndex]:
    """200 tiles that are at least half tissue, chosen by their places alone."""
    rich = [TileIndex(int(row), int(col)) for row, col in np.argwhere(stored.tissue >= 0.5)]
    return sorted(rich, key=lambda tile: hashlib.sha256(repr(tile).encode()).digest())[:_TILES]


def scores(pairs: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> tuple[float, float, float]:
    """Mean CIEDE2000, mean of its worst tenth of tiles, and mean SSIM of (made, truth) tiles."""
    errors = sorted(ciede2000(made, truth) for made, truth in pairs)
    worst = errors[-max(1, len(errors) // 10) :]
    return float(np.mean(errors)), float(np.mean(worst)), float(np.mean([ssim(made, truth) for made, truth in pairs]))


def main() -> None:
    """Make the slide, run, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--scanner", choices=sorted(SCANNERS), default="pink")
    parser.add_argument("--output", choices=("generator", "lut"), default="lut")
    parser.add_argument("--config", default="small")
    asked = parser.parse_args()
    foreign, out = asked.workdir / f"{asked.scanner}.svs", asked.workdir / "out"
    recolour(asked.slide, foreign, asked.scanner)
    command = ["run", foreign, "--reference", asked.slide, "--out", out, "--config", asked.config, "--keep-tiles"]
    watch = [sys.executable, Path(__file__).parent / "watch.py", sys.executable, "-m", "pipelines.cli"]
    subprocess.run([*map(str, [*watch, *command, "--output", asked.output])], check=True)
    report(asked.slide, foreign, out)


def report(original: Path, foreign: Path, out: Path) -> None:
    """Print the table."""
    store, reference_store = TileStore(out / "work" / "tiles.zarr"), TileStore(out / "work" / "reference.zarr")
    stored = store[next(name for name in store.slide_ids() if name.startswith(foreign.stem))]
    reference = reference_store[reference_store.slide_ids()[0]]
    tiles = sample(stored)
    with Slide(original) as truth_slide, Slide(out / "slides" / f"{foreign.stem}.ome.tif") as made_slide:
        squares = [Region(tile.col * TILE, tile.row * TILE, TILE, TILE) for tile in tiles]
        truth = [truth_slide.read(square) for square in squares]
        made = [made_slide.read(square) for square in squares]
    untouched = [stored.read(square) for square in squares]
    assert reference.record.stain is not None
    assert stored.record.stain is not None
    pool = np.concatenate([reference.read_tile(tile).reshape(-1, 3)[::16] for tile in sample(reference)])
    rows = {"untouched": untouched}
    needed = np.ones((1, 1), bool)
    for name, baseline in (
        ("Reinhard", ReinhardNormalizer(*lab_moments(pool, reference.record.stain.white))),
        ("Macenko", MacenkoNormalizer(reference.record.stain)),
    ):
        artifact = baseline.prepare(stored, stored.record.stain)
        rows[name] = [baseline.apply(tile, needed, artifact) for tile in untouched]
    rows["wsi-stain"] = made
    print(f"{'':12}" + "".join(f"{column:>20}" for column in _COLUMNS))
    for name, pixels in rows.items():
        print(f"{name:12}" + "".join(f"{value:20.3f}" for value in scores(list(zip(pixels, truth, strict=True)))))


if __name__ == "__main__":
    main()
