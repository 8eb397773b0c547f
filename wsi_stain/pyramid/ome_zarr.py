"""The files of an OME-Zarr pyramid: OME-NGFF 0.5 on Zarr v3, sharded, lossless. Knows no slides or generator.

    X.ome.zarr/zarr.json                     group: OME-NGFF metadata, provenance, colour profile; written last
    X.ome.zarr/<level>/zarr.json             array (3, height, width) uint8, axes c y x, a chunk a tile of 256 px
    X.ome.zarr/<level>/c/0/<row>/<col>       a shard: what one block covers at that level, one tile at the least

A shard has one writer. Those of levels 0 to 3 are written by whoever made the block, from the pixels before JPEG; those
of blocks that are all glass, and the coarser levels, when the slide is stitched. Until then the directory is called
X.ome.zarr.partial. The fill value of an array is one number for all channels and cannot show the colour of glass, so
glass is written: all glass tiles of a shard share one chunk of about 1 kB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core import journal
from wsi_stain.core.arrays import Mask, RgbImage, RgbxImage
from wsi_stain.core.errors import OutputError
from wsi_stain.core.geometry import TILE, TILES_PER_BLOCK, BlockIndex, Mpp, Size, TileIndex
from wsi_stain.core.journal import FileFacts, Files
from wsi_stain.formats import zarr_metadata
from wsi_stain.formats.block_file import LEVELS, BlockFile, block_levels, block_tiles, pad_tile
from wsi_stain.formats.zarr_shard import write_shard


def write_block_shards(
    folder: Path, block: BlockIndex, pixels: RgbImage | RgbxImage, kept: Mask, white: Sequence[int], levels: int
) -> Files:
    """Write a block's shards of levels 0 to 3, each whole or not at all.

    Memory bound: `pixels`, a third of them again for the coarser levels, and one encoded tile.

    Args:
        folder: The image's folder.
        block: Index in the block grid.
        pixels: Level 0, (h, w, 3 or 4), at most 4096 on a side.
        kept: (ceil(h / 256), ceil(w / 256)): tiles that are more than glass.
        white: Colour of glass, R, G, B, 0 to 255.
        levels: How many levels the image has.

    Returns:
        The shards, by their path within the folder.

    Raises:
        OutputError: A shard cannot be written.
    """
    shards: Files = {}
    for level, (level_pixels, level_kept) in zip(range(min(levels, LEVELS)), block_levels(pixels, kept), strict=False):
        key = zarr_metadata.shard_key(block, level)
        shards[key] = _write(folder / key, level, block_tiles(level_pixels[..., :3], level_kept), white)
    return shards


class PyramidZarr:
    """Finishes an image whose blocks left their shards: adds the glass, the coarser levels and the metadata.

    Args:
        folder: The image's folder, not yet under its final name.
        sizes: Sizes of all levels, finest first.
        white: Colour of glass, R, G, B, 0 to 255.
    """

    def __init__(self, folder: Path, sizes: Sequence[Size], white: Sequence[int]) -> None:
        self._folder, self._sizes, self._white = folder, sizes, white
        self._coarse: set[str] = set()

    def put_block(self, block: BlockIndex, content: BlockFile | None) -> None:
        """Write the shards of a block that is all glass; another has written its own."""
        if content is None:
            for level in range(min(LEVELS, len(self._sizes))):
                self._put(level, block, {})

    def put_strip(self, level: int, row: int, strip: RgbImage) -> None:
        """Write one row of tiles of level 4 or a coarser one, at most 256 px high."""
        for col, left in enumerate(range(0, strip.shape[1], TILE)):
            self._put(level, BlockIndex(row, col), {TileIndex(0, 0): pad_tile(strip[:, left : left + TILE])})

    def finish(self, mpp: Mpp, attributes: Mapping[str, Any], block_shards: Files) -> Files:
        """Write the metadata, the group's last, and read every file again.

        Args:
            mpp: Resolution of level 0, um per px.
            attributes: What the group says of itself under `wsi_stain`.
            block_shards: What the blocks' receipts say of their shards.

        Returns:
            All files of the image.

        Raises:
            OutputError: A block's shard is not what its receipt says; it is removed, so that a rerun makes it again.
        """
        for level, size in enumerate(self._sizes):
            zarr_metadata.write_image_metadata(self._folder / str(level), size, _side(level))
        ome = zarr_metadata.image_attributes("normalized", mpp, len(self._sizes))
        zarr_metadata.write_group(self._folder, {"ome": ome, "wsi_stain": dict(attributes)})
        files = journal.describe_files(self._folder)
        self._check(files, block_shards)
        metadata = {"zarr.json", *(f"{level}/zarr.json" for level in range(len(self._sizes)))}
        for stranger in files.keys() - metadata - self._coarse - block_shards.keys():
            (self._folder / stranger).unlink()  # of an attempt with other settings
            del files[stranger]
        return files

    def _check(self, files: Files, block_shards: Files) -> None:
        for name, expected in block_shards.items():
            if files.get(name) != expected:
                path = self._folder / name
                path.unlink(missing_ok=True)
                raise OutputError(
                    f"{path} is not what was written there: expected {expected}, found {files.get(name)}",
                    "Run the same command again",
                )

    def _put(self, level: int, block: BlockIndex, tiles: Mapping[TileIndex, NDArray[np.uint8]]) -> None:
        key = zarr_metadata.shard_key(block, level)
        _write(self._folder / key, level, tiles, self._white)
        self._coarse.add(key)


def _side(level: int) -> int:
    """Count the rows and columns of tiles in a shard of a level."""
    return max(TILES_PER_BLOCK >> level, 1)


def _write(path: Path, level: int, tiles: Mapping[TileIndex, NDArray[np.uint8]], white: Sequence[int]) -> FileFacts:
    """Write one shard; returns its facts."""
    glass = np.full((TILE, TILE, 3), white, np.uint8)
    return journal.write_hashed(path, partial(write_shard, tiles=tiles, side=_side(level), fill_tile=glass))
