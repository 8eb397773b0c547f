"""cuCIM's batched CPU reader feeding our shard writer; run by the Python of an environment that has both.

Reads a request from standard input, as JSON: slide, store, slide_id, key, blocks ([[row, col], ...]), workers, threads.
Each worker process takes a block at a time: one `read_region` call for all its kept tiles, decoded by so many threads,
as cuCIM's documentation reads many patches. Processes are warmed first; prints the seconds of the work, by the clock
and of CPU time.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from multiprocessing.synchronize import Barrier
from typing import Any

import numpy as np
from cucim import CuImage

from wsi_stain.core.geometry import TILE, BlockIndex, tiles_of
from wsi_stain.store import TileStore

_BATCH = 64
_request: dict[str, Any] = {}


def warm(request: dict[str, Any], ready: Barrier) -> None:
    """Once in each process: keep the request, open the slide, read a tile."""
    _request.update(request, image=CuImage(request["slide"]))
    _request["image"].read_region((0, 0), (TILE, TILE))
    ready.wait()


def tile_block(block: BlockIndex) -> tuple[int, float]:
    """Write one block's shard; the number of its tiles, and seconds of CPU time."""
    began = time.process_time()
    writer = TileStore(_request["store"]).writer(_request["slide_id"])
    kept = writer.kept()
    tiles = [tile for tile in tiles_of(block, kept.shape) if kept[tile]]
    places = [(tile.col * TILE, tile.row * TILE) for tile in tiles]
    batches = _request["image"].read_region(
        places, (TILE, TILE), level=0, num_workers=_request["threads"], batch_size=_BATCH
    )
    # A batch's memory is used again for a later one, so it is copied.
    pixels = [picture for batch in batches for picture in np.array(batch).reshape(-1, TILE, TILE, 3)]
    writer.write_shard(block, dict(zip(tiles, pixels, strict=True)), _request["key"])
    return len(tiles), time.process_time() - began


def main() -> None:
    """Do the work, print its time."""
    request = json.load(sys.stdin)
    blocks = [BlockIndex(*block) for block in request["blocks"]]
    spawned = multiprocessing.get_context("spawn")  # cuCIM hangs in processes that are forked
    ready = spawned.Barrier(request["workers"] + 1)
    with spawned.Pool(request["workers"], warm, [request, ready]) as pool:
        ready.wait()
        started = time.perf_counter()
        counts, cpu = zip(*pool.imap_unordered(tile_block, blocks), strict=True)
        seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "cpu": sum(cpu), "tiles": sum(counts)}))


if __name__ == "__main__":
    main()
