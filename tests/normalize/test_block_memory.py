"""How much memory one block takes, in a process of its own; the same whatever the size of the slide."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.made_checkpoint import write_untrained

BLOCK, BAND = 55, 17
"""MB: the source with its halo, and what becomes of 1024 rows of it."""

WRITING = 90
"""MB: the strip that is being read, coarser levels (the next one while bands are at work), encoded tiles."""

SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from tests.support.made_checkpoint import STATISTICS
from wsi_stain.normalize.block import block_workers, kept_ring, normalize_block_pixels
from wsi_stain.formats.block_file import JpegConfig, finish_block
from wsi_stain.core.geometry import BlockIndex, Mpp, Region, Size, grid_shape
from wsi_stain.normalizers.config import NormalizeConfig
from wsi_stain.normalizers.load import load_normalizer


class Endless:
    mpp = Mpp(0.5, 0.5)

    def __init__(self, blocks):
        self.size = Size(4096 * blocks, 4096 * blocks)
        self.tissue = np.zeros(grid_shape(self.size), np.float32)
        self.tissue[18:26, 18:26] = 1
        self.kept = self.tissue > 0
        self.exempt = np.zeros((1, 1), np.uint8)
        self.patch = np.random.default_rng(0).integers(90, 250, (256, 256, 3), np.uint8)

    def read(self, region, out=None):
        across, down = -(-region.width // 256), -(-region.height // 256)
        pixels = np.tile(self.patch, (down, across, 1))[: region.height, : region.width]
        if out is None:
            return pixels
        out[:] = pixels
        return out


def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) / 1000


checkpoint, out, blocks, threads = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
config = NormalizeConfig(mode=sys.argv[5], precision="float32", lut_tiles=10, threads=threads)
slide, jpeg, block = Endless(blocks), JpegConfig(), BlockIndex(1, 1)
normalizer = load_normalizer(config, checkpoint)
artifact = normalizer.prepare(slide, STATISTICS)
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = memory("VmRSS")
with block_workers(threads) as workers:
    made = normalize_block_pixels(slide, block, normalizer, artifact, config, jpeg, workers)
    kept, run = kept_ring(slide, block)[1:-1, 1:-1], workers.band_workers.map
    finish_block(out, Size(4096, 4096), kept, jpeg, made.streams, made.half, run)
print(memory("VmHWM") - before)
"""


def measure_memory(root: Path, mode: str, blocks: int, threads: int = 1) -> float:
    """MB that a block of a slide of blocks x blocks takes beyond the loaded normalizer, at the peak."""
    checkpoint = root / "c.safetensors"
    if not checkpoint.exists():
        write_untrained(checkpoint)
    arguments = [str(checkpoint), str(root / "b.block"), str(blocks), str(threads), mode]
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(ended.stdout)


pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells of peaks")


def test_a_table_takes_the_block_once_a_band_of_its_result_and_what_writing_takes(tmp_path: Path) -> None:
    assert measure_memory(tmp_path, "lut", blocks=3) < BLOCK + BAND + WRITING


def test_the_size_of_the_slide_is_nothing_to_a_table(tmp_path: Path) -> None:
    """One run's peak is 112 or 142 MB, whatever the size of the slide; so the highest of four runs is compared."""
    small, large = (max(measure_memory(tmp_path, "lut", blocks) for _ in range(4)) for blocks in (3, 60))
    assert abs(large - small) < 15


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [3, 60])
def test_a_generator_takes_a_pass_for_each_thread_whatever_the_size_of_the_slide(tmp_path: Path, blocks: int) -> None:
    """A pass of 1280 px of this generator, four channels, held to its table, takes less than 130 MB."""
    for threads in (1, 3):
        assert measure_memory(tmp_path, "generator", blocks, threads) < BLOCK + WRITING + threads * (BAND + 130)
