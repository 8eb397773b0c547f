"""How near the truth a whole run comes: a real slide re-coloured as by another laboratory, then normalized back.

    python benchmarks/known_truth.py SLIDE.svs WORKDIR [--scanner pink] [--mode lut] [--config small]

The original is the reference and, pixel for pixel, the truth. Training sees only the original; the re-colouring is of a
family that training's own augmentation does not share code with. `wsi-stain evaluate pairs` then compares what the run
made of it (`normalized`) with the slide left as it is and with the classical methods, fitted to the original.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from wsi_stain.core.geometry import Region
from wsi_stain.slides.slide import Slide
from wsi_stain.synthetic import SCANNERS, rescan, write_slide

_COMMAND = [sys.executable, "-m", "pipelines.cli"]


def predict(source: Path, target: Path, scanner: str) -> None:
    """Write the slide as another scanner would have it, at level 0 of the source; kept when it is there."""
    if target.exists():
        return
    with Slide(source) as slide:
        pixels = slide.read(Region(0, 0, *slide.size))
        write_slide(target, rescan(pixels, SCANNERS[scanner]), slide.mpp.mean, slide.objective_power or 40, "svs")


def main() -> None:
    """Make the slide, run, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--scanner", choices=sorted(SCANNERS), default="pink")
    parser.add_argument("--mode", choices=("generator", "guard", "lut"), default="lut")
    parser.add_argument("--config", default="small")
    asked = parser.parse_args()
    foreign, out = asked.workdir / f"{asked.scanner}.svs", asked.workdir / "out"
    predict(asked.slide, foreign, asked.scanner)
    watch = [sys.executable, Path(__file__).parent / "watch.py", *_COMMAND]
    run = ["run", foreign, "--reference", asked.slide, "--out", out, "--config", asked.config, "--mode", asked.mode]
    compare = ["evaluate", "pairs", foreign, asked.slide, "--normalized", out, "--out", asked.workdir / "pairs"]
    for command in ([*watch, *run], [*_COMMAND, *compare, "--reference", out / "work" / "reference.zarr"]):
        subprocess.run([str(word) for word in command], check=True)


if __name__ == "__main__":
    main()
