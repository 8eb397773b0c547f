"""Whether a complete slide still is what was written: its shards against its completion mark. Local stores alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsi_stain.core import journal
from wsi_stain.core.errors import StoreError
from wsi_stain.core.geometry import TileIndex
from wsi_stain.formats import zarr_metadata, zarr_shard
from wsi_stain.store.record import MARK, fold_shards
from wsi_stain.store.stored_slide import StoredSlide


def check_shards(slide: StoredSlide) -> None:
    """Read every byte of a complete slide's tiles.

    Raises:
        StoreError: A shard or a map is missing, or is not what was written.
    """
    slide.check()
    path = Path(str(slide.path))
    shards = []
    for block in slide.grid.blocks():
        shard_path = path / zarr_metadata.shard_key(block)
        if not shard_path.is_file():
            raise StoreError(f"{shard_path} is missing", zarr_shard.REMEDY)
        shards.append((block, journal.describe_file(shard_path)))
    expected = zarr_metadata.read_attributes(path)[MARK]["shards"]
    if fold_shards(shards) != expected:
        for row, col in np.argwhere(slide.kept).tolist():  # a tile whose checksum is wrong says which shard it is
            slide.read_tile(TileIndex(row, col))
        raise StoreError(f"{path} holds other shards than its completion mark says", zarr_shard.REMEDY)
