"""Whether a complete slide still is what was written: its shards against its completion mark. Local stores alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsi_stain import journal, shard, zarr_files
from wsi_stain.errors import StoreError
from wsi_stain.geometry import TileIndex
from wsi_stain.store.reading import StoredSlide
from wsi_stain.store.record import MARK, folded


def check_shards(slide: StoredSlide) -> None:
    """Read every byte of a complete slide's tiles.

    Raises:
        StoreError: A shard or a map is missing, or is not what was written.
    """
    slide.check()
    path = Path(str(slide.path))
    shards = []
    for block in slide.grid.blocks():
        place = path / zarr_files.shard_key(block)
        if not place.is_file():
            raise StoreError(f"{place} is missing", shard.REMEDY)
        shards.append((block, journal.described(place)))
    expected = zarr_files.read_attributes(path)[MARK]["shards"]
    if folded(shards) != expected:
        for row, col in np.argwhere(slide.kept).tolist():  # a tile whose checksum is wrong says which shard it is
            slide.read_tile(TileIndex(row, col))
        raise StoreError(f"{path} holds other shards than its completion mark says", shard.REMEDY)
