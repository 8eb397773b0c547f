"""The usual script: OpenSlide's tiles, torchstain's Macenko on each, a pyramid by libvips.

Run by the Python of an environment that has these libraries.

Reads a request from standard input, as JSON: slide, out (a TIFF), tiles ([[row, col], ...], all of a rectangle that
is small enough for memory), workers. Each process fits torchstain's numpy normalizer to the first tile, reads a tile at
a time, normalizes it, and puts it into a picture in shared memory; a tile that torchstain cannot do stays as it is.
libvips then writes the picture as a tiled JPEG pyramid, quality 90. Processes are warmed first; prints the seconds
of the work, by the clock and of CPU time.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from multiprocessing.shared_memory import SharedMemory
from multiprocessing.synchronize import Barrier
from typing import Any

import numpy as np
import openslide
import pyvips
import torchstain

_TILE = 256
_CHUNK = 8
_shared: dict[str, Any] = {}


def read(slide: openslide.OpenSlide, tile: list[int]) -> Any:
    """One tile, (256, 256, 3) RGB."""
    row, col = tile
    return np.asarray(slide.read_region((col * _TILE, row * _TILE), 0, (_TILE, _TILE)).convert("RGB"))


def warm(request: dict[str, Any], memory: str, shape: tuple[int, int, int], ready: Barrier) -> None:
    """Once in each process: open the slide and the picture, fit the normalizer."""
    slide, held = openslide.OpenSlide(request["slide"]), SharedMemory(memory)
    normalizer = torchstain.normalizers.MacenkoNormalizer(backend="numpy")
    normalizer.fit(read(slide, request["tiles"][0]))
    picture = np.ndarray(shape, np.uint8, held.buf)
    _shared.update(slide=slide, held=held, normalizer=normalizer, picture=picture, first=request["tiles"][0])
    ready.wait()


def normalize(tile: list[int]) -> tuple[bool, float]:
    """Normalize one tile, [row, col]; whether torchstain could, and seconds of CPU time."""
    began = time.process_time()
    pixels, done = read(_shared["slide"], tile), True
    try:
        pixels, _, _ = _shared["normalizer"].normalize(I=pixels, stains=False)
    except Exception:  # too little tissue for an estimate: usual scripts leave such tiles
        done = False
    top, left = ((place - first) * _TILE for place, first in zip(tile, _shared["first"], strict=True))
    _shared["picture"][top : top + _TILE, left : left + _TILE] = pixels
    return done, time.process_time() - began


def main() -> None:
    """Do the work, print its time."""
    request = json.load(sys.stdin)
    corners = np.array(request["tiles"])
    rows, cols = corners.max(axis=0) - corners.min(axis=0) + 1
    shape = int(rows) * _TILE, int(cols) * _TILE, 3
    spawned = multiprocessing.get_context("spawn")
    ready = spawned.Barrier(request["workers"] + 1)
    memory = SharedMemory(create=True, size=shape[0] * shape[1] * 3)
    try:
        with spawned.Pool(request["workers"], warm, [request, memory.name, shape, ready]) as pool:
            ready.wait()
            started, began = time.perf_counter(), time.process_time()
            found = list(pool.imap_unordered(normalize, request["tiles"], chunksize=_CHUNK))
            picture = pyvips.Image.new_from_memory(memory.buf, shape[1], shape[0], 3, "uchar")
            picture.tiffsave(request["out"], tile=True, pyramid=True, compression="jpeg", Q=90, bigtiff=True)
            seconds, own = time.perf_counter() - started, time.process_time() - began
            del picture
        done, cpu = (sum(side) for side in zip(*found, strict=True))
        told = {"seconds": seconds, "cpu": own + cpu, "tiles": len(found), "normalized": done}
        print(json.dumps(told))
    finally:
        memory.unlink()


if __name__ == "__main__":
    main()
