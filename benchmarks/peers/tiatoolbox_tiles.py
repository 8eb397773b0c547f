"""tiatoolbox's own extraction, writing a JPEG file a tile; run by the Python of an environment that has it.

Reads a request from standard input, as JSON: slide, out (a directory), tiles ([[row, col], ...]), workers. Their
sliding window is indexed for the kept tiles alone, and by several processes, which is more than their documentation
does: there it is a loop in one process. Each tile is written by their `imwrite` as JPEG, the format that their
`save_tiles` writes unless asked otherwise, and the fastest. Processes are warmed first; prints the seconds of the work.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from tiatoolbox.tools.patchextraction import get_patch_extractor
from tiatoolbox.utils.misc import imwrite

_TILE = 256
_CHUNK = 32
_shared: dict[str, Any] = {}


def warm(slide: str, out: str, ready: Barrier) -> None:
    """Once in each process: open the slide, find each tile's place in the window's list, read a tile."""
    extractor = get_patch_extractor(
        "slidingwindow", input_img=slide, patch_size=(_TILE, _TILE), stride=(_TILE, _TILE), resolution=0, units="level"
    )
    corners = zip(extractor.locations_df["y"], extractor.locations_df["x"], strict=True)
    places = {(int(y) // _TILE, int(x) // _TILE): number for number, (y, x) in enumerate(corners)}
    _shared.update(extractor=extractor, places=places, out=Path(out))
    extractor[0]
    ready.wait()


def write_tile(tile: list[int]) -> None:
    """Extract and write one tile, [row, col]."""
    row, col = tile
    imwrite(_shared["out"] / f"{row}_{col}.jpg", _shared["extractor"][_shared["places"][row, col]])


def main() -> None:
    """Do the work, print its time."""
    request = json.load(sys.stdin)
    spawned = multiprocessing.get_context("spawn")
    ready = spawned.Barrier(request["workers"] + 1)
    with spawned.Pool(request["workers"], warm, [request["slide"], request["out"], ready]) as pool:
        ready.wait()
        started = time.perf_counter()
        count = sum(1 for _ in pool.imap_unordered(write_tile, request["tiles"], chunksize=_CHUNK))
        seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "tiles": count}))


if __name__ == "__main__":
    main()
