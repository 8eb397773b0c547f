"""How fast a slide becomes tiles in the store: ours beside the ways it would be done by hand, in one run.

    python benchmarks/tiling.py SLIDE.svs WORKDIR [--workers 4] [--codec lossless] [--rounds 3] [--only NAME ...]

All write the same kept tiles of the same slide through our own shard writer, block by block, in the same worker
processes, which are started and warmed before. They take turns for some rounds; printed are each one's median, and how
many times as fast the first is. WORKDIR should lie on the disk that stores lie on: every shard is synced to it.

A peer is a function of a `Case` that does the work once and returns the seconds it took. One that needs an environment
of its own starts that environment's Python in there, and times only the work.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import openslide

from wsi_stain.executor import Executor, ExecutorConfig, Receipt, Task, drive, open_executor
from wsi_stain.geometry import TILE, BlockIndex, tiles_of
from wsi_stain.identity import TilingConfig
from wsi_stain.journal import file_digest
from wsi_stain.slides import SlideSource, find_slides
from wsi_stain.store import TileStore
from wsi_stain.tiling import BlockTask, SurveyTask, survey_slide, tile_block


@dataclass(frozen=True)
class Case:
    """What each peer is given.

    Attributes:
        source: The slide.
        store: A store in which the slide is surveyed and has no tiles yet.
        config: How it is tiled.
        survey: The survey's receipt: blocks, kept_tiles, key.
        executor: The worker processes.
    """

    source: SlideSource
    store: Path
    config: TilingConfig
    survey: dict[str, Any]
    executor: Executor

    def tasks(self) -> list[BlockTask]:
        """One for each block with kept tiles."""
        blocks = [BlockIndex(*block) for block in self.survey["blocks"]]
        return [BlockTask(self.source, self.store, self.config, block, self.survey["key"]) for block in blocks]


def ours(case: Case) -> float:
    """`tile_block` as the command `tile` runs it, measuring each tile's quality besides."""
    return timed(case, tile_block)


def openslide_loop(case: Case) -> float:
    """`read_region` for each tile of 256 px."""
    return timed(case, loop_over_tiles)


PEERS: dict[str, Callable[[Case], float]] = {"wsi-stain": ours, "openslide": openslide_loop}
"""Every way to be compared, ours first."""


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


def timed(case: Case, function: Callable[[BlockTask], Receipt]) -> float:
    """Run a function over all blocks in the worker processes; seconds."""

    def flow() -> Any:
        return (yield [Task(function, task, "tile") for task in case.tasks()])

    started = time.perf_counter()
    (result,) = drive(case.executor, {"slide": flow()})
    seconds = time.perf_counter() - started
    if result.error is not None:
        raise result.error
    return seconds


def once(peer: Callable[[Case], float], case: Case) -> float:
    """One turn of a peer, in an empty store; seconds."""
    shutil.rmtree(case.store, ignore_errors=True)
    survey = survey_slide(SurveyTask(case.source, case.store, case.config))
    return peer(replace(case, survey=survey))


def shards(store: Path) -> dict[str, str]:
    """SHA-256 of every shard of the store, by its path."""
    return {str(path.relative_to(store)): file_digest(path) for path in store.glob("*/0/c/0/*/*")}


def main() -> None:
    """Tile, take turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--codec", choices=("lossless", "jpeg"), default="lossless")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS))
    options = parser.parse_args()
    (source,) = find_slides([options.slide])
    peers = {name: PEERS[name] for name in options.only}
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    made: dict[str, dict[str, str]] = {}
    with open_executor(ExecutorConfig(workers=options.workers)) as executor:
        config = TilingConfig(codec=options.codec)
        case = Case(source, options.workdir / "benchmark.zarr", config, {}, executor)
        for name, peer in peers.items():  # not counted: warms the workers and the page cache
            once(peer, case)
            made[name] = shards(case.store)
        for _ in range(options.rounds):  # side by side: what disturbs one round disturbs all peers
            for name, peer in peers.items():
                seconds[name].append(once(peer, case))
        tiles = survey_slide(SurveyTask(source, case.store, config))["kept_tiles"]
    shutil.rmtree(case.store)
    print(f"{options.slide.name}: {tiles} tiles, {options.codec}, {options.workers} workers")
    first = next(iter(peers))
    for name, taken in seconds.items():
        speed, ratio = tiles / statistics.median(taken), statistics.median(taken) / statistics.median(seconds[first])
        same = sum(made[name].get(path) == digest for path, digest in made[first].items())
        print(f"{name:12s} {speed:7.0f} tiles/s   {first} is {ratio:4.2f} times as fast", end="   ")
        print(f"{same} of {len(made[first])} shards are the same bytes as {first}'s")


if __name__ == "__main__":
    main()
