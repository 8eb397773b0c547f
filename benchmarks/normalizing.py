"""From a slide to finished blocks: how fast, beside the generator alone and beside the usual script, in one run.

    python benchmarks/normalizing.py STORE|SLIDE|WIDTHxHEIGHT CHECKPOINT WORKDIR [--slide SLIDE_ID] [--mpp 0.5]
        [--workers 4] [--rounds 3] [--script-python ENV/bin/python --script-slide SLIDE.svs --script-tiles 64]

The pixels come from a tile store, from a slide's file (streamed), or from a made-up slide of that size whose tiles are
two, repeated (tests/support/giant_slide.py; 33000x17000 and larger, at 0.25 um/px). Workers are started, and the
generator is loaded, before anything is timed; on a machine with GPUs each has a worker, and the generator runs there.
Taking turns, for some rounds:

    bare        every worker passes windows of the run's own shape through its generator: tensors in memory, no slide.
                Mpx/s counts the windows with their halo.
    generator   `--mode generator`, the slide's blocks to finished block files. Beside `bare` the windows are counted
                with their halo too; beside the others the tissue tiles. `prepare`, which fits the table that the report
                wants, is apart.
    lut         `--mode lut` in the same way.
    script      OpenSlide's tiles, torchstain's Macenko, a pyramid by libvips, in as many processes; see
                peers/torchstain_tiles.py. Its environment has numpy, openslide-python, openslide-bin, torchstain,
                pyvips and pyvips-binary. It is given the square of level 0's tiles that is richest in tissue.

Printed are medians by the clock and by CPU time, which says more on a busy machine, and the ratios. Blocks lie in
WORKDIR; each is synced to its disk.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from statistics import median
from typing import Any

import numpy as np
import torch
from contest import machine
from executors import cpu_seconds

from pipelines.normalization.context import RunContext
from pipelines.normalization.target import NormalizationTarget
from pipelines.normalization.tasks import block_tasks, prepare_flow
from pipelines.run_directory.workspace import Workspace
from pipelines.shared.config import choose_config, gpu_count
from pipelines.shared.device import resolve_auto
from pipelines.shared.space import DiskSpace
from wsi_stain.core.geometry import TILE, TILES_PER_BLOCK, Size
from wsi_stain.executor import Executor, ExecutorConfig, Flow, Task, open_executor, run_flows
from wsi_stain.normalizers.config import NormalizeConfig
from wsi_stain.normalizers.predictor import GeneratorPredictor
from wsi_stain.pix2pix.checkpoint import Checkpoint
from wsi_stain.pix2pix.precision import default_device
from wsi_stain.slides.listing.find import SlideSource, find_slides
from wsi_stain.store import TiledSlide, TileStore
from wsi_stain.tiling.config import TilingConfig
from wsi_stain.tiling.streamed_slide import load_streamed, survey_streamed

_BARE_WINDOWS = 6


@dataclass(frozen=True)
class Bare:
    """Windows to pass through a checkpoint's generator."""

    checkpoint: Path
    output: NormalizeConfig
    device: str
    windows: int


@dataclass(frozen=True)
class Turn:
    """What one turn took."""

    megapixels: float
    seconds: float
    cpu: float


def pass_windows(task: Bare) -> dict[str, Any]:
    """The generator on tensors in memory."""
    torch.set_num_threads(1)
    predictor = GeneratorPredictor(
        Checkpoint.load(task.checkpoint), task.device, task.output.precision, task.output.compile
    )
    generator, dtype = predictor._network(), predictor._dtype
    side, shrink = task.output.stride_px + 2 * predictor.halo, predictor.shrink
    channels = Checkpoint.load(task.checkpoint).contract.generator.in_channels
    shape = task.output.batch, channels, side // shrink, side // shrink
    windows = torch.rand(shape, device=task.device).to(dtype, memory_format=torch.channels_last)
    with torch.inference_mode():
        generator(windows, predictor.halo // shrink)
        _synchronize(task.device)
        started = time.perf_counter(), time.process_time()
        for _window in range(task.windows):
            generator(windows, predictor.halo // shrink)
        _synchronize(task.device)
    ended = time.perf_counter(), time.process_time()
    megapixels = task.windows * task.output.batch * side**2 / 1e6
    return {"megapixels": megapixels, "seconds": ended[0] - started[0], "cpu": ended[1] - started[1]}


def _synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def bare(executor: Executor, target: NormalizationTarget, output: NormalizeConfig, workers: int) -> Turn:
    """All workers at once; the sum of their speeds."""
    task = Task(pass_windows, Bare(target.path, output, default_device(), _BARE_WINDOWS), "normalize", pool="gpu")

    def flow() -> Flow:
        return (yield [task] * workers)

    found = _run_flow(executor, flow())
    speed = sum(each["megapixels"] / each["seconds"] for each in found)
    megapixels, cpu = (sum(each[name] for each in found) for name in ("megapixels", "cpu"))
    return Turn(megapixels, megapixels / speed, cpu)


def normalize(
    executor: Executor, slide: TiledSlide, target: NormalizationTarget, mode: str, workdir: Path
) -> tuple[Turn, Turn, NormalizeConfig]:
    """A slide's blocks from nothing: `prepare`, then the blocks; and the settings. Megapixels are of tissue tiles."""
    shutil.rmtree(workdir, ignore_errors=True)
    config = resolve_auto(choose_config(None, {"normalize": {"mode": mode}}), executor)
    slide_id = slide.record.slide_id
    stems = {slide_id: PurePosixPath(slide_id)}
    space = DiskSpace(workdir, 0, 0, lambda text: None)
    context = RunContext(Workspace(workdir), target, config, stems, lambda: None, lambda text: None, space)
    outputs = context.outputs(slide_id, "benchmark")
    megapixels = int(slide.kept.sum()) * TILE**2 / 1e6
    times = [(time.perf_counter(), cpu_seconds())]

    def flow() -> Flow:
        yield from prepare_flow(context, slide, slide_id, outputs)
        times.append((time.perf_counter(), cpu_seconds()))
        yield block_tasks(context, slide, outputs)
        times.append((time.perf_counter(), cpu_seconds()))

    _run_flow(executor, flow())
    first, second = (Turn(megapixels, end[0] - start[0], end[1] - start[1]) for start, end in pairwise(times))
    return first, second, context.settings


def _run_flow(executor: Executor, flow: Flow) -> Any:
    """Run one flow; what it returns."""
    (result,) = run_flows(executor, {"slide": flow})
    if result.error is not None:
        raise result.error
    return result.value


def windows_over(slide: TiledSlide, output: NormalizeConfig, halo: int) -> float:
    """Megapixels of the windows that the generator sees of a slide, halo included."""
    side, count = output.stride_px // TILE, 0
    rows, cols = slide.kept.shape
    for top in range(0, rows, TILES_PER_BLOCK):
        for left in range(0, cols, TILES_PER_BLOCK):
            block = slide.kept[top : top + TILES_PER_BLOCK, left : left + TILES_PER_BLOCK]
            starts = [range(0, length, side) for length in block.shape]
            count += sum(bool(block[y : y + side, x : x + side].any()) for y in starts[0] for x in starts[1])
    return count * (output.stride_px + 2 * halo) ** 2 / 1e6


def script(python: Path, slide: Path, tiles: list[list[int]], workers: int, out: Path) -> Turn:
    """The usual script on some tiles; the libraries' own threads are left as they are by default."""
    asked = json.dumps({"slide": str(slide.resolve()), "tiles": tiles, "workers": workers, "out": str(out)})
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    command = [str(python), str(Path(__file__).parent / "peers" / "torchstain_tiles.py")]
    ended = subprocess.run(command, input=asked, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    told = json.loads(ended.stdout.splitlines()[-1])
    return Turn(told["tiles"] * TILE**2 / 1e6, told["seconds"], told["cpu"])


def rich_rectangle(tissue: np.ndarray[Any, np.dtype[np.float32]], count: int) -> list[list[int]]:
    """The square of about so many tiles that holds most tissue, row-major."""
    side = max(1, round(count**0.5))
    windows = np.lib.stride_tricks.sliding_window_view(tissue, (side, side)).mean(axis=(2, 3))
    top, left = np.unravel_index(windows.argmax(), windows.shape)
    return [[int(top) + row, int(left) + col] for row in range(side) for col in range(side)]


def open_slide(name: str, slide_id: str | None, workdir: Path, mpp: float | None) -> TiledSlide:
    """A slide of a tile store, one to be streamed, or one that is made up."""
    if "x" in name and name.replace("x", "").isdigit():
        sys.path.insert(0, str(Path(__file__).parents[1]))
        from tests.support.giant_slide import write_giant  # type: ignore[import-not-found, unused-ignore]

        width, height = map(int, name.split("x"))
        workdir.mkdir(parents=True, exist_ok=True)
        name = str(write_giant(workdir / "giant.tiff", Size(width, height)))
    if Path(name).is_dir():
        store = TileStore(Path(name))
        return store[slide_id or store.slide_ids()[0]]
    source: SlideSource = find_slides([Path(name)])[0]
    config = TilingConfig.model_validate({"slide": {"mpp": mpp}})
    survey_streamed(source, config).save(workdir / "survey")
    return load_streamed(workdir / "survey", source, config)


def show(
    name: str, turns: list[Turn], baseline: tuple[float, float] | None = None, what: str = ""
) -> tuple[float, float]:
    """Print a line; the median speeds, in Mpx by second of the clock and of CPU time."""
    clock = median(turn.megapixels / turn.seconds for turn in turns)
    cpu = median(turn.megapixels / turn.cpu for turn in turns)
    ratio = f"   {clock / baseline[0]:6.2f} and {cpu / baseline[1]:6.2f} x {what}" if baseline else ""
    print(f"{name:34} {clock:8.2f} Mpx/s by the clock {cpu:8.2f} Mpx per CPU second{ratio}", flush=True)
    return clock, cpu


def main() -> None:
    """Take turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a tile store, a slide, or WIDTHxHEIGHT")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--slide", help="of the store [default: its first]")
    parser.add_argument("--mpp", type=float, help="to read a slide's file at [default: its own]")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--script-python", type=Path)
    parser.add_argument("--script-slide", type=Path)
    parser.add_argument("--script-tiles", type=int, default=64)
    options = parser.parse_args()
    print(machine())
    slide, target = (
        open_slide(options.source, options.slide, options.workdir, options.mpp),
        NormalizationTarget.load(options.checkpoint.absolute()),
    )
    blocks, turns = options.workdir / "out", defaultdict[str, list[Turn]](list)
    halo = GeneratorPredictor(Checkpoint.load(options.checkpoint)).halo
    with open_executor(ExecutorConfig(workers=options.workers, gpus=gpu_count())) as executor:
        generating = gpu_count() or options.workers
        for mode in ("lut", "generator"):  # not counted: loads the generator, warms the page cache
            output = normalize(executor, slide, target, mode, blocks)[2]
        for _round in range(options.rounds):
            turns["bare"].append(bare(executor, target, output, generating))
            for mode in ("generator", "lut"):
                prepared, made, _ = normalize(executor, slide, target, mode, blocks)
                turns[mode].append(made)
                turns[f"{mode}, prepare"].append(prepared)
            if options.script_python:
                with TileStore(options.source)[slide.record.slide_id] as stored:
                    scale = round(finer(stored.mpp.mean, options.script_slide))
                    tiles = rich_rectangle(np.kron(stored.tissue, np.ones((scale, scale))), options.script_tiles)
                out = options.workdir / "script.tif"
                turns["script"].append(script(options.script_python, options.script_slide, tiles, options.workers, out))
    shutil.rmtree(blocks)
    print(f"{slide.record.slide_id}: {turns['lut'][0].megapixels:.0f} Mpx of tissue tiles, {options.workers} workers")
    seen = windows_over(slide, output, halo)
    alone = show("bare, windows", turns["bare"])
    whole = [Turn(seen, turn.seconds, turn.cpu) for turn in turns["generator"]]
    show("generator, windows", whole, alone, "bare")
    generator = show("generator, tissue", turns["generator"])
    show("lut, tissue", turns["lut"], generator, "generator")
    both = [
        Turn(made.megapixels, made.seconds + first.seconds, made.cpu + first.cpu)
        for made, first in zip(turns["lut"], turns["lut, prepare"], strict=True)
    ]
    show("lut with its prepare, tissue", both, generator, "generator")
    if turns["script"]:
        usual = show("script, tissue", turns["script"])
        show("generator, tissue", turns["generator"], usual, "script")
        show("lut, tissue", turns["lut"], usual, "script")
        show("lut with its prepare, tissue", both, usual, "script")
    for mode in ("generator", "lut"):
        print(f"prepare of {mode}: {median(turn.seconds for turn in turns[f'{mode}, prepare']):.2f} s by the clock")
    print(f"load {os.getloadavg()[0]:.1f} after")


def finer(mpp: float, slide: Path) -> float:
    """How many pixels of a slide's file lie along one of `mpp`."""
    import openslide

    with openslide.OpenSlide(slide) as file:
        return mpp / float(file.properties[openslide.PROPERTY_NAME_MPP_X])


if __name__ == "__main__":
    main()
