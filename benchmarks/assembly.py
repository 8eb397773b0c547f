"""What assembling a pyramid from block files costs.

    python benchmarks/assembly.py copy      beside `cp` of the same bytes
    python benchmarks/assembly.py memory    at 150,000 x 100,000 px, its memory every 0.2 s

Everything lies on --folder, by default on tmpfs, so that no disk is measured (and fsync costs nothing: name a folder on
a disk to see what it adds). Tissue is synthetic, with noise that makes blocks about as large as real ones.
"""

from __future__ import annotations

import argparse
import csv
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np
import psutil
from contest import Contender, machine, medians, report
from numpy.typing import NDArray

from wsi_stain.core import journal, receipts
from wsi_stain.core.geometry import BLOCK, BlockIndex, Mpp, Region, Size, block_region, grid_shape
from wsi_stain.formats.block_file import JpegConfig, write_block
from wsi_stain.pyramid.stitch import StitchTask, stitch_slide
from wsi_stain.synthetic import LABORATORIES, render_tissue, stain_tissue

Pixels = NDArray[np.uint8]
MPP = Mpp(0.25, 0.25)
WHITE = (243, 242, 245)
_NOISE = 4.0
_SAMPLE_S = 0.2


@cache
def tissue() -> Pixels:
    """One block, (4096, 4096, 3): a quarter of it made, the rest mirrored, with a camera's noise."""
    part = stain_tissue(render_tissue(Size(BLOCK // 2, BLOCK // 2), MPP.x, 1), LABORATORIES["reference"], 1)
    whole = np.pad(part, ((0, BLOCK // 2), (0, BLOCK // 2), (0, 0)), mode="symmetric").astype(np.float32)
    whole += _NOISE * np.random.default_rng(1).standard_normal(whole.shape, dtype=np.float32)
    return np.rint(whole).clip(0, 254).astype(np.uint8)


def block_indices(size: Size) -> list[BlockIndex]:
    """All blocks of a slide, row by row."""
    return [BlockIndex(int(row), int(col)) for row, col in np.ndindex(grid_shape(size, BLOCK))]


def stitch_task(folder: Path, size: Size, blocks: Mapping[BlockIndex, Path], jpeg: JpegConfig) -> StitchTask:
    """The assembly of a slide from block files."""
    return StitchTask(
        slide_id="slide",
        size=size,
        mpp=MPP,
        objective_power=40.0,
        placement=None,
        white=WHITE,
        icc_profile=None,
        blocks=blocks,
        jpeg=jpeg,
        provenance={"software": "benchmark"},
        output=folder / "slide.ome.tif",
        receipt=folder / "slide.json",
        key="key",
    )


def write_blocks(folder: Path, size: Size, distinct: bool) -> dict[BlockIndex, Path]:
    """Block files of a slide full of tissue: a file for each block, or one for all blocks of the same size."""
    made: dict[Region, Path] = {}
    blocks = {}
    for index in block_indices(size):
        region = block_region(index, size)._replace(x=0, y=0)
        if region not in made:
            made[region] = folder / f"{region.width}x{region.height}.block"
            pixels = np.ascontiguousarray(tissue()[: region.height, : region.width])
            write_block(
                made[region], pixels, np.ones(grid_shape(Size(region.width, region.height)), bool), JpegConfig()
            )
        blocks[index] = made[region]
        if distinct:
            blocks[index] = folder / f"{index.row}_{index.col}.block"
            shutil.copyfile(made[region], blocks[index])
    return blocks


@contextmanager
def without_digest() -> Iterator[None]:
    """Pyramids are not hashed."""
    with mock.patch.object(receipts, "describe_file", return_value={"size": 0, "sha256": "0"}):
        yield


def compare_with_cp(folder: Path, size: Size, rounds: int) -> None:
    """Stitching, its digest and its fsync, beside copying what it makes."""
    task = stitch_task(folder, size, write_blocks(folder / "blocks", size, distinct=True), JpegConfig())
    stitch_slide(task)
    source = task.output.rename(folder / "source.tif")

    def stitch() -> None:
        stitch_slide(task)

    def stitch_unhashed() -> None:
        with without_digest():
            stitch_slide(task)

    def stitch_unsynced() -> None:
        with without_digest(), mock.patch("os.fsync"):
            stitch_slide(task)

    contenders: dict[str, Contender] = {
        "cp": lambda: subprocess.run(["cp", source, folder / "copy.tif"], check=True),
        "assembly": stitch,
        "assembly without digest": stitch_unhashed,
        "assembly without digest and fsync": stitch_unsynced,
        "digest alone": lambda: journal.describe_file(source),
    }
    megabytes = source.stat().st_size / 1e6
    print(f"{size.width} x {size.height} px, {len(task.blocks)} blocks, {megabytes:.0f} MB, {rounds} rounds")
    products = [folder / "copy.tif", task.output, task.receipt]
    report(medians(contenders, products, rounds), "cp", megabytes)


_WAIT = "print('ready', flush=True); input()"
_STITCH = f"""
import pickle, sys
from wsi_stain.pyramid.stitch import stitch_slide
{_WAIT}
stitch_slide(pickle.load(open(sys.argv[1], "rb")))
"""


@dataclass(frozen=True)
class Waiting:
    """A Python process that waits for a word."""

    process: subprocess.Popen[str]

    @classmethod
    def start(cls, *arguments: str) -> Waiting:
        """Start it, and wait until it waits."""
        command = [sys.executable, "-c", *arguments]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        return cls(process)

    def go(self) -> None:
        """Let it go on."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.close()

    def memory(self) -> tuple[float, float]:
        """Resident and proportional set size, MB."""
        try:
            found = psutil.Process(self.process.pid).memory_full_info()
        except psutil.Error:  # it ended meanwhile
            return 0.0, 0.0
        return found.rss / 1e6, found.pss / 1e6


def show_memory(folder: Path, size: Size, curve: Path | None) -> None:
    """Assemble one slide in a process of its own, and look at its memory all the while."""
    task = stitch_task(folder, size, write_blocks(folder / "blocks", size, distinct=False), JpegConfig())
    (folder / "task").write_bytes(pickle.dumps(task))
    bare, child = Waiting.start(_WAIT), Waiting.start(_STITCH, str(folder / "task"))
    (bare_rss, bare_pss), (rss, pss) = bare.memory(), child.memory()
    bare.go()
    samples, started = [(0.0, rss, pss)], time.perf_counter()
    child.go()
    while child.process.poll() is None:
        samples.append((time.perf_counter() - started, *child.memory()))
        time.sleep(_SAMPLE_S)
    seconds, megabytes = time.perf_counter() - started, task.output.stat().st_size / 1e6
    assert child.process.returncode == 0
    print(f"{size.width} x {size.height} px: {megabytes:.0f} MB in {seconds:.1f} s, {len(samples)} samples")
    highest_rss, highest_pss = (max(sample[at] for sample in samples) for at in (1, 2))
    print(f"{'MB':24}{'RSS':>8}{'PSS':>8}")
    print(f"{'bare interpreter':24}{bare_rss:8.0f}{bare_pss:8.0f}")
    print(f"{'with imports':24}{rss:8.0f}{pss:8.0f}")
    print(f"{'highest':24}{highest_rss:8.0f}{highest_pss:8.0f}")
    print(f"{'beyond the interpreter':24}{highest_rss - bare_rss:8.0f}{highest_pss - bare_pss:8.0f}")
    if curve is not None:
        with curve.open("w", newline="") as file:
            csv.writer(file).writerows([("seconds", "rss_mb", "pss_mb"), *samples])


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="where everything lies meanwhile")
    commands = parser.add_subparsers(dest="what", required=True)
    copy, memory = (commands.add_parser(name) for name in ("copy", "memory"))
    for command, width, height in ((copy, 49152, 32768), (memory, 150_000, 100_000)):
        command.add_argument("--width", type=int, default=width)
        command.add_argument("--height", type=int, default=height)
    copy.add_argument("--rounds", type=int, default=5)
    memory.add_argument("--curve", type=Path, help="CSV of all samples")
    asked = parser.parse_args()
    print(machine())
    size = Size(asked.width, asked.height)
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        if asked.what == "copy":
            compare_with_cp(Path(folder), size, asked.rounds)
        else:
            show_memory(Path(folder), size, asked.curve)


if __name__ == "__main__":
    main()
