"""Parts that time: the network alone, the steps of a block, slides to blocks and to pyramids, a very large slide."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import PurePosixPath
from statistics import mean

import numpy as np
import torch
from results import Results
from subjects import Setup
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pipelines.normalization.context import RunContext
from pipelines.normalization.target import NormalizationTarget
from pipelines.normalization.tasks import block_tasks, prepare_flow
from pipelines.run_directory.workspace import Workspace
from pipelines.shared.config import load_config
from pipelines.shared.device import resolve_auto
from pipelines.shared.space import DiskSpace
from wsi_stain.core.arrays import Mask
from wsi_stain.core.geometry import TILE, BlockIndex, Size, block_region, tile_slices
from wsi_stain.executor import ExecutorConfig, Flow, open_executor, run_flows
from wsi_stain.formats.block_file import JpegConfig, block_tiles, encode_jpeg, finish_block, halve
from wsi_stain.normalizers.predictor import GeneratorPredictor
from wsi_stain.pix2pix.gpu import copy_to_pinned, stack_arrays
from wsi_stain.pix2pix.inference_generator import InferenceGenerator
from wsi_stain.pix2pix.resample import shrink_pixels
from wsi_stain.store import TiledSlide

_PEAK_TFLOPS = 989
"""Of an H200 in bfloat16, without sparsity, by its data sheet."""

Network = Callable[[Tensor, int], Tensor]


def bare(setup: Setup, results: Results) -> None:
    """Tensors in memory through the generator, by stride, batch and way of running it; compiled ones last."""
    shapes = [(512, 1)] if setup.is_dry else [(1024, 1), (1024, 4), (2048, 1)]
    for way in ("eager, rows first", "eager, channels last", "CUDA graph", "compiled"):
        for stride_px, batch in shapes:
            if setup.is_dry and way in ("CUDA graph", "compiled"):
                results.add(f"{way}, stride {stride_px}, batch {batch}", "left out in a dry run")
                continue
            speed, teraflops = time_network(setup, way, stride_px, batch)
            found = f"{speed:.0f} Mpx/s of windows, {teraflops:.0f} TFLOP/s, {teraflops / _PEAK_TFLOPS:.0%} of peak"
            results.add(f"{way}, stride {stride_px}, batch {batch}", found)


def time_network(setup: Setup, way: str, stride_px: int, batch: int) -> tuple[float, float]:
    """Mpx of the slide's windows, and 10^12 operations, a second."""
    predictor = GeneratorPredictor(setup.loaded)
    halo, shrink = predictor.halo // predictor.shrink, predictor.shrink
    layout = torch.contiguous_format if way == "eager, rows first" else torch.channels_last
    network: Network = InferenceGenerator(setup.loaded.generator).to(setup.device, torch.bfloat16)
    network.to(memory_format=layout)  # type: ignore[attr-defined]
    side = stride_px // shrink + 2 * halo
    x_BCHW = torch.rand(batch, 2, side, side, device=setup.device).to(torch.bfloat16, memory_format=layout)
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        with FlopCounterMode(display=False) as counter:
            network(x_BCHW, halo)
        run = wrap_network(network, way, x_BCHW, halo)
        for _warm in range(3):
            run()
        rounds, seconds = 1, 0.0
        while seconds < (0.02 if setup.is_dry else 0.5):
            rounds *= 2
            seconds = time_call(lambda count=rounds: [run() for _ in range(count)], setup.device)
    return rounds * batch * (side * shrink) ** 2 / seconds / 1e6, rounds * counter.get_total_flops() / seconds / 1e12


def wrap_network(network: Network, way: str, x_BCHW: Tensor, halo: int) -> Callable[[], object]:
    """Make what runs one pass."""
    if way == "compiled":
        compiled = torch.compile(network, dynamic=False)
        return lambda: compiled(x_BCHW, halo)
    if way != "CUDA graph":
        return lambda: network(x_BCHW, halo)
    side_stream = torch.cuda.Stream()
    side_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream):
        for _warm in range(3):
            network(x_BCHW, halo)
    torch.cuda.current_stream().wait_stream(side_stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        network(x_BCHW, halo)
    return graph.replay


def time_call(call: Callable[[], object], device: str) -> float:
    """Seconds until a call and all that it began on a GPU has ended."""
    synchronize(device)
    started = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def blocks(setup: Setup, results: Results) -> None:
    """The steps of a block one after the other, then a slide to blocks in each mode."""
    slide = setup.open_slide(setup.slide)
    time_steps(setup, slide, results)
    for mode in ("generator", "guard", "lut"):
        with busy_share() as busy:
            prepared, made, megapixels = run_blocks(setup, slide, mode)
        shown = f", GPU busy {mean(busy):.0f} %" if busy else ""
        found = f"{megapixels / made:.0f} Mpx/s of tissue ({made:.2f} s; prepare {prepared:.2f} s){shown}"
        results.add(f"slide to blocks, {mode}", found)


def time_steps(setup: Setup, slide: TiledSlide, results: Results) -> None:
    """Milliseconds a megapixel of each step, alone, for the block with most tissue."""
    torch.set_num_threads(1)
    predictor, device = GeneratorPredictor(setup.loaded, setup.device), setup.device
    region = block_region(max(slide.grid.blocks(), key=lambda block: kept_of(slide, block).sum()), slide.size)
    kept = slide.kept[tile_slices(region)]
    side = setup.stride_px + 2 * predictor.halo
    pixels = slide.read(region)
    window = np.ascontiguousarray(np.resize(pixels, (side, side, 3)))
    statistics = slide.require_stain()
    host = stack_arrays([window], pin=device == "cuda")
    there = host.to(device)
    shrunk = shrink_pixels(there, predictor.shrink)
    template = predictor._make_template(shrunk, statistics)
    result = there[:, predictor.halo : -predictor.halo, predictor.halo : -predictor.halo].contiguous()
    tiles = list(block_tiles(pixels, kept).values())
    streams = [encode_jpeg(tile, 90, 444) for tile in tiles]
    out, size = setup.work / "step.block", Size(region.width, region.height)
    area, window_area = region.width * region.height / 1e6, side**2 / 1e6
    steps: dict[str, tuple[Callable[[], object], float]] = {
        "read and decode": (lambda: slide.read(region), area),
        "stack into page-locked memory": (lambda: stack_arrays([window], pin=device == "cuda"), window_area),
        "copy to the GPU": (lambda: host.to(device), window_area),
        "shrink": (lambda: shrink_pixels(there, predictor.shrink), window_area),
        "template": (lambda: predictor._make_template(shrunk, statistics), window_area),
        "template and generate": (lambda: predictor._generate(there, statistics, predictor.halo), window_area),
        "copy from the GPU": (lambda: copy_to_pinned(result) if device == "cuda" else result.clone(), window_area),
        "encode": (lambda: [encode_jpeg(tile, 90, 444) for tile in tiles], len(tiles) * TILE**2 / 1e6),
        "coarser levels, hash and write": (
            lambda: finish_block(out, size, kept, JpegConfig(), streams, halve(pixels)),
            area,
        ),
    }
    assert template.shape[1:3] == (side // predictor.shrink, side // predictor.shrink)
    for name, (step, megapixels) in steps.items():
        step()
        seconds = min(time_call(step, device) for _ in range(2 if setup.is_dry else 5))
        results.add(f"step alone: {name}", f"{1e3 * seconds / megapixels:.2f} ms a Mpx")


def kept_of(slide: TiledSlide, block: BlockIndex) -> Mask:
    return slide.kept[tile_slices(block_region(block, slide.size))]


def run_blocks(setup: Setup, slide: TiledSlide, mode: str, **executor: int) -> tuple[float, float, float]:
    """Seconds of `prepare` and of the blocks of a slide, processes started before; and Mpx of tissue tiles."""
    workdir = setup.work / "blocks"
    shutil.rmtree(workdir, ignore_errors=True)
    cluster = ExecutorConfig(workers=0 if setup.is_dry else None, gpus=0 if setup.is_dry else 1, **executor)
    settings = {"mode": mode, "stride_px": setup.stride_px, "lut_tiles": 20 if setup.is_dry else 100}
    overrides = {"normalize": settings, "executor": cluster.model_dump()}
    target, slide_id = NormalizationTarget.load(setup.checkpoint), slide.record.slide_id
    times: list[float] = []
    with open_executor(cluster) as opened:
        config = resolve_auto(load_config("small" if setup.is_dry else "wsi", overrides), opened)
        stems, space = {slide_id: PurePosixPath(slide_id)}, DiskSpace(workdir, 0, 0, lambda text: None)
        context = RunContext(Workspace(workdir), target, config, stems, lambda: None, lambda text: None, space)
        outputs = context.outputs(slide_id, "benchmark")

        def flow() -> Flow[None]:
            times.append(time.perf_counter())
            yield from prepare_flow(context, slide, slide_id, outputs)
            times.append(time.perf_counter())
            yield block_tasks(context, slide, outputs)
            times.append(time.perf_counter())

        (result,) = run_flows(opened, {slide_id: flow()})
    if result.error is not None:
        raise result.error
    shutil.rmtree(workdir)
    prepared, made = (end - start for start, end in pairwise(times))
    return prepared, made, int(slide.kept.sum()) * TILE**2 / 1e6


@contextmanager
def busy_share() -> Iterator[list[float]]:
    """Collect how many percent of the time the GPU computes, five times a second; nothing where nvidia-smi is not."""
    shares: list[float] = []
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        yield shares
        return

    def collect() -> None:
        assert process.stdout is not None
        shares.extend(float(line) for line in process.stdout if line.strip().isdigit())

    reader = threading.Thread(target=collect)
    reader.start()
    try:
        yield shares
    finally:
        process.terminate()
        process.wait()
        reader.join()
        first = next((index for index, share in enumerate(shares) if share), 0)
        shares[:] = shares[first:]  # from the first work on: processes start before


def pyramids(setup: Setup, results: Results) -> None:
    """The command `normalize`, slide to pyramid, start of all processes included."""
    gpus = 0 if setup.is_dry else 1
    for mode in ("generator",) if setup.is_dry else ("generator", "guard", "lut"):
        started = time.perf_counter()
        workers = {"workers": 0} if setup.is_dry else {}
        done = setup.normalize(f"pyramid-{mode}", mode, gpus=gpus, **workers)
        seconds = time.perf_counter() - started
        if done.returncode:
            results.add(f"slide to pyramid, {mode}", f"exit code {done.returncode}: {done.stdout[-300:]}", "0", False)
            continue
        setup.pyramid_digest(f"pyramid-{mode}")
        results.add(f"slide to pyramid, {mode}", f"{seconds:.1f} s")


def giant(setup: Setup, results: Results) -> None:
    """2.4 Gpx of tissue to blocks, by processes of the GPU, tasks of each, and threads of a task."""
    slide = setup.open_slide(setup.giant)
    ways = [(1, 3)] if setup.is_dry else [(1, 3), (4, 1), (3, 2), (2, 3)]
    for processes, tasks in ways:
        with busy_share() as busy:
            _, seconds, megapixels = run_blocks(setup, slide, "generator", gpu_processes=processes, gpu_tasks=tasks)
        shown = f", GPU busy {mean(busy):.0f} %" if busy else ""
        way = f"{megapixels / 1e3:.2f} Gpx to blocks, {processes} processes of {tasks} tasks"
        if setup.is_dry:
            results.add(way, f"{seconds:.1f} s{shown}")
        else:
            results.add(way, f"{seconds:.1f} s{shown}", "10 s", seconds <= 10)
