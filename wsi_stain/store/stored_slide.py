"""One slide of the store, read. Knows no tiling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.arrays import Mask
from wsi_stain.core.errors import StoreError
from wsi_stain.core.geometry import BlockIndex, TileIndex, block_of, grid_shape
from wsi_stain.core.journal import describe_file
from wsi_stain.core.storage import StoragePath, list_folders
from wsi_stain.formats import zarr_metadata
from wsi_stain.formats.zarr_shard import REMEDY, ShardFile, TileCodec
from wsi_stain.store.cards import slide_card
from wsi_stain.store.record import MARK, SlideRecord, complete_record, fold_shards, list_arrays
from wsi_stain.store.tiled_slide import TiledSlide
from wsi_stain.tissue.exempt import Exempt

_INDICES_HELD = 1024


class StoredSlide(TiledSlide):
    """A slide of the store. Threads may share it, and it may be pickled.

    Memory bound: the indices of at most 1024 shards (4 KiB each), the maps and the thumbnail; no pixels are held.

    Args:
        path: The slide's folder.
        record: What is known of a slide that is still being made; by default the record in its completion mark.

    Raises:
        StoreError: No record was given, and the slide has no completion mark.
    """

    def __init__(self, path: StoragePath, record: SlideRecord | None = None) -> None:
        super().__init__(record or complete_record(path))
        self.path = path
        self._index = lru_cache(_INDICES_HELD)(self._read_index)

    def __reduce__(self) -> tuple[type[StoredSlide], tuple[StoragePath, SlideRecord]]:
        return StoredSlide, (self.path, self.record)

    def __repr__(self) -> str:
        return f"<StoredSlide {self.path}: {self.size.width} x {self.size.height} px, {self.kept.sum()} tiles>"

    def _repr_html_(self) -> str:
        return slide_card(self.slide_id, {**self.facts(), "maps": ", ".join(self.maps())}, self.thumbnail)

    def facts(self) -> dict[str, str]:
        """Return facts of the slide for a table, by name, as text."""
        record, rich = self.record, int((self.tissue[self.kept] >= 0.5).sum())
        labels = {name: getattr(record, name) for name in ("group", "patient", "site", "split", "label")}
        return {
            "size": f"{self.size.width} x {self.size.height} px",
            "resolution": f"{self.mpp.mean:.4g} um/px",
            "tiles": f"{self.kept.sum()}, {rich} of them at least half tissue, {record.holes} holes, {self.codec.name}",
            "stain": "measured" if self.stain else "not measured",
            "labels": ", ".join(f"{name}: {value}" for name, value in labels.items() if value is not None),
        }

    def close(self) -> None:
        """Do nothing: no file is held open."""

    @property
    def opener(self) -> Callable[[], StoredSlide]:
        """Opens the slide again, in any process; StoreError where it is no longer there."""
        return partial(StoredSlide, self.path)

    @cached_property
    def codec(self) -> TileCodec:
        """Codec of the tiles."""
        return zarr_metadata.read_image_codec(self.path / "0")

    @cached_property
    def kept(self) -> Mask:
        """(rows, cols): which tiles exist."""
        return zarr_metadata.read_array(self.path / "maps" / "kept", "bool")

    @cached_property
    def tissue(self) -> NDArray[np.float32]:
        """(rows, cols): share of tissue in each tile, 0 to 1."""
        return zarr_metadata.read_array(self.path / "maps" / "tissue", "float32")

    @property
    def suspect(self) -> Mask:
        """(rows, cols): tiles without tissue that look as if they had some; none where that was not searched for."""
        return self.map("suspect") if "suspect" in self.maps() else np.zeros_like(self.kept)

    def maps(self) -> list[str]:
        """List the slide's maps, sorted."""
        return list_folders(self.path / "maps")

    def map(self, name: str) -> NDArray[Any]:
        """Read a map of the slide, (rows, cols): one value a tile; StoreError where there is none of that name."""
        return zarr_metadata.read_array(self.path / "maps" / name)

    def tables(self) -> list[str]:
        """List the slide's tables, sorted."""
        return list_folders(self.path / "tables")

    def table(self, name: str) -> str:
        """Read a table of the slide, as CSV; StoreError where there is none of that name."""
        return (
            zarr_metadata.read_array(self.path / "tables" / name, "uint8").tobytes().decode("utf-8", "surrogateescape")
        )

    @cached_property
    def thumbnail(self) -> NDArray[np.uint8]:
        """RGB of the whole frame, (h, w, 3)."""
        return zarr_metadata.read_array(self.path / "thumbnail", "uint8")

    @cached_property
    def mask(self) -> Mask:
        """(h, w): where tissue was found on the thumbnail."""
        return zarr_metadata.read_array(self.path / "mask", "bool")

    @cached_property
    def exempt(self) -> Exempt:
        """(h, w): what is not normalized, on the thumbnail, and how it is shown; nothing where nobody looked."""
        if "exempt" not in list_folders(self.path):
            return np.zeros(self.mask.shape, np.uint8)
        return zarr_metadata.read_array(self.path / "exempt", "uint8")

    def check(self) -> None:
        """Read what is needed before any tile; StoreError where it is missing, damaged or does not fit."""
        _ = self.codec
        shapes = {self.kept.shape, self.tissue.shape}
        if shapes != {grid_shape(self.size)}:
            raise StoreError(f"{self.path} has maps of {shapes}, expected {grid_shape(self.size)} tiles", REMEDY)

    def check_whole(self) -> None:
        """Read everything of a complete slide but its pixels: a file that was torn shows, whichever it is.

        Raises:
            StoreError: A file is missing or damaged.
        """
        self.check()
        lost = set(zarr_metadata.read_attributes(self.path)[MARK].get("arrays", [])) - set(list_arrays(self.path))
        if lost:
            raise StoreError(f"{self.path} lacks {', '.join(sorted(lost))}", REMEDY)
        for group in {"maps", "tables"} & set(list_folders(self.path)):
            zarr_metadata.check_group(self.path / group)
        for name in self.maps():
            self.map(name)
        for name in self.tables():
            self.table(name)
        _ = self.thumbnail, self.mask, self.exempt
        for block in self.grid.blocks():
            self._index(block)

    def check_shards(self) -> None:
        """Read every byte of a complete slide's tiles, in a local store.

        Raises:
            StoreError: A shard or a map is missing, or is not what was written.
        """
        self.check()
        folder = Path(str(self.path))
        shards = []
        for block in self.grid.blocks():
            path = folder / zarr_metadata.shard_key(block)
            if not path.is_file():
                raise StoreError(f"{path} is missing", REMEDY)
            shards.append((block, describe_file(path)))
        if fold_shards(shards) != zarr_metadata.read_attributes(folder)[MARK]["shards"]:
            for tile in self.tile_indices():  # a tile whose checksum is wrong says which shard it is
                self.read_tile(tile)
            raise StoreError(f"{folder} holds other shards than its completion mark says", REMEDY)

    def _decode_tiles(self, tiles: Sequence[TileIndex]) -> Iterator[NDArray[np.uint8]]:
        """Decode each tile in turn, all of them kept; neighbours in one shard are read together."""
        for block, group in groupby(tiles, block_of):
            index = self._index(block)
            with ShardFile(self.path / zarr_metadata.shard_key(block), self.codec) as file:
                yield from file.read_tiles(list(group), index)

    def _read_index(self, block: BlockIndex) -> NDArray[np.uint64]:
        with ShardFile(self.path / zarr_metadata.shard_key(block), self.codec) as file:
            return file.read_index()
