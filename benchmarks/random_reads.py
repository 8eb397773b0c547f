"""How fast random tiles of a store are read: ours beside tensorstore and zarr-python, on the same tiles in one run.

    python benchmarks/random_reads.py STORE [--tiles 2048] [--batch 64] [--rounds 3]

Each reads the same batches of tiles of 256 px, drawn at random from the kept tiles of the store's largest slide, as
(batch, 256, 256, 3) arrays. A first round, which is not counted, compares what they read and warms the page cache; then
they take turns, and the best round of each is printed.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from itertools import islice

import numpy as np
import tensorstore
import zarr
from numpy.typing import NDArray

from wsi_stain.core.geometry import TILE, TileIndex
from wsi_stain.store import StoredSlide, TileStore

Read = Callable[[list[TileIndex]], NDArray[np.uint8]]


def ours(slide: StoredSlide, threads: int) -> Read:
    """`StoredSlide.read_tiles`."""
    return lambda tiles: slide.read_tiles(tiles, threads)


def one_by_one(slide: StoredSlide) -> Read:
    """`StoredSlide.read_tile`, a tile after the other."""
    return lambda tiles: np.stack([slide.read_tile(tile) for tile in tiles])


def with_tensorstore(slide: StoredSlide, threads: int) -> Read:
    """tensorstore, a batch at a time."""
    context = tensorstore.Context({"data_copy_concurrency": {"limit": threads}, "file_io_concurrency": {"limit": 32}})
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(slide.path / "0")}}
    image = tensorstore.open(spec, read=True, context=context).result().transpose([1, 2, 0])

    def read(tiles: list[TileIndex]) -> NDArray[np.uint8]:
        with tensorstore.Batch() as batch:
            waiting = [image[_rows(tile), _cols(tile)].read(batch=batch) for tile in tiles]
        return np.stack([future.result() for future in waiting])

    return read


def with_zarr(slide: StoredSlide) -> Read:
    """zarr-python, a tile after the other."""
    image = zarr.open_array(slide.path / "0", mode="r")
    assert isinstance(image, zarr.Array)
    return lambda tiles: np.stack([np.asarray(image[:, _rows(t), _cols(t)]).transpose(1, 2, 0) for t in tiles])


def _rows(tile: TileIndex) -> slice:
    return slice(tile.row * TILE, (tile.row + 1) * TILE)


def _cols(tile: TileIndex) -> slice:
    return slice(tile.col * TILE, (tile.col + 1) * TILE)


def draw(slide: StoredSlide, count: int, size: int) -> list[list[TileIndex]]:
    """Batches of whole tiles of a slide, the same each time."""
    rows, cols = slide.size.height // TILE, slide.size.width // TILE
    tiles = [tile for tile in slide.tile_indices() if tile.row < rows and tile.col < cols]
    drawn = iter(np.random.default_rng(0).integers(0, len(tiles), count))
    return [[tiles[place] for place in batch] for batch in iter(lambda: list(islice(drawn, size)), [])]


def main() -> None:
    """Read, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("--tiles", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    store, threads = TileStore(options.store), len(os.sched_getaffinity(0))
    slide = max((store[slide_id] for slide_id in store.slide_ids()), key=lambda slide: slide.kept.sum())
    batches = draw(slide, options.tiles, options.batch)
    readers: dict[str, Read] = {
        f"wsi-stain, read_tiles, {threads} threads": ours(slide, threads),
        "wsi-stain, read_tiles, 1 thread": ours(slide, 1),
        "wsi-stain, read_tile": one_by_one(slide),
    }
    if slide.codec.name == "lossless":  # tensorstore knows no codec for JPEG in shards
        readers[f"tensorstore, batches, {threads} threads"] = with_tensorstore(slide, threads)
    readers["zarr-python"] = with_zarr(slide)
    print(f"{slide.record.slide_id}: {slide.codec.name}, {slide.kept.sum()} tiles, {options.tiles} read at random")
    best: dict[str, float] = dict.fromkeys(readers, 0.0)
    for batch in batches:
        first, *others = [read(batch) for read in readers.values()]
        assert all(np.array_equal(first, other) for other in others)
    for _ in range(options.rounds):  # side by side: what disturbs one round disturbs all readers
        for name, read in readers.items():
            started = time.perf_counter()
            for batch in batches:
                read(batch)
            best[name] = max(best[name], options.tiles / (time.perf_counter() - started))
    fastest = next(iter(best.values()))
    for name, speed in best.items():
        print(f"{name:40s} {speed:8.0f} tiles/s   the first is {fastest / speed:4.1f} times as fast")


if __name__ == "__main__":
    main()
