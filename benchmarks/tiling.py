"""How fast a slide becomes tiles in the store: ours beside the ways it would be done by hand, in one run.

    python benchmarks/tiling.py SLIDE.svs WORKDIR [--workers 4] [--codec auto] [--rounds 3] [--only NAME ...]
        [--cucim-python ENV/bin/python] [--cucim-threads 1] [--tiatoolbox-python ENV/bin/python]

All write the same kept tiles of the same slide in as many worker processes, started and warmed before: through our own
shard writer, block by block, but for openslide-zarr, which writes the same store through zarr-python, as it is done by
hand, and tiatoolbox, which writes a JPEG file a tile. Ours is measured as it is by default and, as
wsi-stain-lossless, with the codec that the others' pixels are written with: they have no JPEG of the slide to keep.
They take turns for some rounds; printed are each one's median, and how many times as fast the first is, by the clock
and by the CPU time of all processes, which says more on a busy machine; tiatoolbox's counts the start of its processes
too. WORKDIR should lie on the disk that stores lie on: every shard is synced to it.

A peer is a function of a `Case` that does the work once and returns what it took. One of an environment of its
own is run by that environment's Python: cuCIM's has cucim-cu12 and wsi-stain (torch is not needed), tiatoolbox's has
tiatoolbox.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import zarr
from executors import cpu_seconds

from wsi_stain.core.geometry import BLOCK, TILE, BlockIndex, tiles_of
from wsi_stain.core.journal import file_digest
from wsi_stain.executor import Executor, ExecutorConfig, Receipt, Task, open_executor, run_flows
from wsi_stain.slides.listing.find import SlideSource, find_slides
from wsi_stain.store import TileStore
from wsi_stain.tiling.block import BlockTask, tile_block
from wsi_stain.tiling.config import TilingConfig
from wsi_stain.tiling.tasks import SurveyTask, survey_slide

NAMES = ("wsi-stain", "wsi-stain-lossless", "openslide", "openslide-zarr", "cucim", "tiatoolbox", "tiatoolbox-1")
"""Every way to be compared, ours first."""


@dataclass(frozen=True)
class Case:
    """What each peer is given.

    Attributes:
        source: The slide.
        store: A store in which the slide is surveyed and has no tiles yet.
        config: How it is tiled.
        survey: The survey's receipt: blocks, kept_tiles, key.
        executor: The worker processes.
        workers: Their number.
    """

    source: SlideSource
    store: Path
    config: TilingConfig
    survey: dict[str, Any]
    executor: Executor
    workers: int

    def tasks(self) -> list[BlockTask]:
        """One for each block with kept tiles."""
        blocks = [BlockIndex(*block) for block in self.survey["blocks"]]
        return [BlockTask(self.source, self.store, self.config, block, self.survey["key"]) for block in blocks]


@dataclass(frozen=True)
class Spent:
    """Seconds of a turn, by the clock and of CPU time."""

    clock: float
    cpu: float


Peer = Callable[[Case], Spent]


def ours(case: Case) -> Spent:
    """`tile_block` as the command `tile` runs it, measuring each tile's quality besides."""
    return time_case(case, tile_block)


def openslide_loop(case: Case) -> Spent:
    """`read_region` for each tile of 256 px."""
    return time_case(case, loop_over_tiles)


def openslide_and_zarr(case: Case) -> Spent:
    """The same loop, and zarr-python compresses and writes: nothing of ours."""
    return time_case(case, loop_into_zarr)


def cucim(python: Path, threads: int) -> Peer:
    """cuCIM's batched CPU reader feeding our shard writer, in its own environment."""

    def peer(case: Case) -> Spent:
        names = {"store": str(case.store), "slide_id": case.source.slide_id, "key": case.survey["key"]}
        return elsewhere(case, python, "cucim_tiles.py", **names, blocks=case.survey["blocks"], threads=threads)

    return peer


def tiatoolbox(python: Path, workers: int | None = None) -> Peer:
    """tiatoolbox's own extraction into JPEG files, in its own environment; in one process as its documentation does."""

    def peer(case: Case) -> Spent:
        out, many = case.store.with_name("tiatoolbox"), {"workers": workers or case.workers}
        out.mkdir()
        tiles = np.argwhere(TileStore(case.store).writer(case.source.slide_id).kept()).tolist()
        try:
            return elsewhere(case, python, "tiatoolbox_tiles.py", out=str(out), tiles=tiles, **many)
        finally:
            shutil.rmtree(out)

    return peer


def elsewhere(case: Case, python: Path, script: str, **request: Any) -> Spent:
    """Have another Python do the work by one of the scripts in `peers`; what it says it took."""
    here = Path(__file__).parent
    asked = json.dumps({"slide": str(case.source.path.resolve()), "workers": case.workers, **request})
    environment = {**os.environ, "PYTHONPATH": str(here.parent)}
    command = [str(python), str(here / "peers" / script)]
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(command, input=asked, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    told = json.loads(ended.stdout.splitlines()[-1])
    assert told["tiles"] == case.survey["kept_tiles"], told
    all_of_it = resource.getrusage(resource.RUSAGE_CHILDREN)
    whole = all_of_it.ru_utime + all_of_it.ru_stime - began.ru_utime - began.ru_stime
    return Spent(float(told["seconds"]), float(told.get("cpu", whole)))


def loop_over_tiles(task: BlockTask) -> Receipt:
    """Write the shard of a block from OpenSlide's tiles, one after the other."""
    writer = TileStore(task.store).writer(task.source.slide_id)
    kept, tiles = writer.kept(), {}
    with openslide.OpenSlide(task.source.path) as slide:
        for tile in tiles_of(task.block, kept.shape):
            if kept[tile]:
                image = slide.read_region((tile.col * TILE, tile.row * TILE), 0, (TILE, TILE))
                tiles[tile] = np.asarray(image.convert("RGB"))
    return writer.write_shard(task.block, tiles, task.key)


def loop_into_zarr(task: BlockTask) -> Receipt:
    """Read a block's kept tiles with OpenSlide, and assign the block to the slide's array."""
    writer = TileStore(task.store).writer(task.source.slide_id)
    kept = writer.kept()
    image = zarr.open_array(writer.path / "0", mode="r+")
    _, height, width = image.shape
    top, left = task.block.row * BLOCK, task.block.col * BLOCK
    block = np.full((3, min(BLOCK, height - top), min(BLOCK, width - left)), 255, np.uint8)
    with openslide.OpenSlide(task.source.path) as slide:
        for tile in tiles_of(task.block, kept.shape):
            if kept[tile]:
                y, x = tile.row * TILE, tile.col * TILE
                picture = np.asarray(slide.read_region((x, y), 0, (TILE, TILE)).convert("RGB"))
                target = block[:, y - top : y - top + TILE, x - left : x - left + TILE]
                target[:] = picture.transpose(2, 0, 1)[:, : target.shape[1], : target.shape[2]]
    image[:, top : top + BLOCK, left : left + BLOCK] = block
    return {}


def time_case(case: Case, function: Callable[[BlockTask], Receipt]) -> Spent:
    """Run a function over all blocks in the worker processes."""

    def flow() -> Any:
        return (yield [Task(function, task, "tile") for task in case.tasks()])

    started, began = time.perf_counter(), cpu_seconds()
    (result,) = run_flows(case.executor, {"slide": flow()})
    spent = Spent(time.perf_counter() - started, cpu_seconds() - began)
    if result.error is not None:
        raise result.error
    return spent


def once(name: str, peer: Peer, case: Case) -> Spent:
    """One turn of a peer, in an empty store."""
    case = case if name == "wsi-stain" else replace(case, config=TilingConfig(codec="lossless"))
    shutil.rmtree(case.store, ignore_errors=True)
    survey = survey_slide(SurveyTask(case.source, case.store, case.config))
    return peer(replace(case, survey=survey))


def shards(store: Path) -> dict[str, str]:
    """SHA-256 of every shard of the store, by its path."""
    return {str(path.relative_to(store)): file_digest(path) for path in store.glob("*/0/c/0/*/*")}


def choose_peers(options: argparse.Namespace) -> dict[str, Peer]:
    """The peers that were asked for and have an environment, ours first."""
    peers: dict[str, Peer] = {"wsi-stain": ours, "wsi-stain-lossless": ours}
    peers |= {"openslide": openslide_loop, "openslide-zarr": openslide_and_zarr}
    if options.cucim_python:
        peers["cucim"] = cucim(options.cucim_python, options.cucim_threads)
    if options.tiatoolbox_python:
        peers["tiatoolbox"] = tiatoolbox(options.tiatoolbox_python)
        peers["tiatoolbox-1"] = tiatoolbox(options.tiatoolbox_python, workers=1)
    return {name: peer for name, peer in peers.items() if name in options.only}


def main() -> None:
    """Tile, take turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--codec", choices=("auto", "lossless", "jpeg"), default="auto", help="ours")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--cucim-python", type=Path)
    parser.add_argument("--cucim-threads", type=int, default=1, help="in each worker process")
    parser.add_argument("--tiatoolbox-python", type=Path)
    options = parser.parse_args()
    (source,) = find_slides([options.slide])
    peers = choose_peers(options)
    turns: dict[str, list[Spent]] = {name: [] for name in peers}
    made: dict[str, dict[str, str]] = {}
    with open_executor(ExecutorConfig(workers=options.workers)) as executor:
        config = TilingConfig(codec=options.codec)
        case = Case(source, options.workdir / "benchmark.zarr", config, {}, executor, options.workers)
        for name, peer in peers.items():  # not counted: warms the workers and the page cache
            once(name, peer, case)
            made[name] = shards(case.store)
        for _ in range(options.rounds):  # side by side: what disturbs one round disturbs all peers
            for name, peer in peers.items():
                turns[name].append(once(name, peer, case))
                print(f"{name}: {turns[name][-1].clock:.2f} s", file=sys.stderr, flush=True)
        tiles = survey_slide(SurveyTask(source, case.store, config))["kept_tiles"]
    shutil.rmtree(case.store)
    print(f"{options.slide.name}: {tiles} tiles, {options.codec}, {options.workers} workers")
    first = next(iter(peers))
    medians = {name: median_of(spent) for name, spent in turns.items()}
    for name, spent in medians.items():
        clock, cpu = spent.clock / medians[first].clock, spent.cpu / medians[first].cpu
        same = sum(made[name].get(path) == digest for path, digest in made[first].items())
        shards_told = f"{same} of {len(made[first])} shards are the same bytes as {first}'s" if made[name] else "files"
        print(
            f"{name:14s} {tiles / spent.clock:7.0f} tiles/s, {tiles / spent.cpu:6.0f} a CPU second   "
            f"{first} is {clock:4.2f} and {cpu:4.2f} times as fast   {shards_told}"
        )


def median_of(turns: list[Spent]) -> Spent:
    """Medians by the clock and of CPU time."""
    return Spent(statistics.median(turn.clock for turn in turns), statistics.median(turn.cpu for turn in turns))


if __name__ == "__main__":
    main()
