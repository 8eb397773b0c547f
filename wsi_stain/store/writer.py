"""Making one slide of the store: everything atomic, the completion mark last. One shard has one writer."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core import journal
from wsi_stain.core.digest import hashed
from wsi_stain.core.errors import StoreError
from wsi_stain.core.geometry import BlockIndex, Size, TileIndex
from wsi_stain.formats import zarr_metadata, zarr_shard
from wsi_stain.formats.zarr_chunks import CODECS, CodecName, TileCodec
from wsi_stain.store.record import MARK, SlideRecord, fold_shards, read_record
from wsi_stain.store.stored_slide import StoredSlide
from wsi_stain.tissue.grid import TileGrid

_RECEIPTS = ".receipts"


class SlideWriter:
    """Makes one slide of a store: `begin`, `write_shard` for each block with kept tiles, `complete`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(
        self,
        size: Size,
        thumbnail: NDArray[np.uint8],
        mask: NDArray[np.bool_],
        grid: TileGrid,
        codec: CodecName = "lossless",
    ) -> None:
        """Write everything but the tiles and the mark, into an empty folder.

        Args:
            size: Working frame, px.
            thumbnail: RGB of the whole frame, (h, w, 3).
            mask: (h, w), true on tissue.
            grid: Which tiles exist, and how much tissue is in each.
            codec: How the tiles are compressed.
        """
        self.clear(size, codec)
        self.write_tissue(thumbnail, mask, grid)

    def clear(self, size: Size, codec: CodecName = "lossless") -> None:
        """Make an empty folder, of a slide whose tissue is known only once its tiles are written.

        Args:
            size: Working frame, px.
            codec: How the tiles are compressed.
        """
        self.remove()
        zarr_metadata.write_group(self.path, {})
        zarr_metadata.write_group(self.path / "maps", {})
        zarr_metadata.write_image_metadata(self.path / "0", size, codec=CODECS[codec])

    def write_tissue(self, thumbnail: NDArray[np.uint8], mask: NDArray[np.bool_], grid: TileGrid) -> None:
        """Write what the tissue decision was made on, and what follows from it; arguments as for `begin`."""
        zarr_metadata.write_array(self.path / "maps" / "kept", grid.kept, ["row", "col"])
        zarr_metadata.write_array(self.path / "maps" / "tissue", grid.tissue, ["row", "col"])
        zarr_metadata.write_array(self.path / "thumbnail", thumbnail, ["y", "x", "c"])
        zarr_metadata.write_array(self.path / "mask", mask, ["y", "x"])

    def write_table(self, name: str, text: str) -> None:
        """Write a table, as CSV, of what is no map; file names in it may hold bytes that are not UTF-8."""
        zarr_metadata.write_group(self.path / "tables", {})
        in_bytes = np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)
        zarr_metadata.write_array(self.path / "tables" / name, in_bytes, ["byte"])

    def write_map(self, name: str, values: NDArray[Any]) -> None:
        """Write a map, (rows, cols): one value a tile, of bool, uint8, int16 or float32."""
        zarr_metadata.write_array(self.path / "maps" / name, values, ["row", "col"])

    def remove(self) -> None:
        """Empty the slide's folder, its mark first, so that at no moment a slide with holes looks complete."""
        (self.path / "zarr.json").unlink(missing_ok=True)
        if self.path.exists():
            journal.sync_directory(self.path)
            shutil.rmtree(self.path)

    def record(self) -> SlideRecord | None:
        """The record of the slide if it is complete."""
        return read_record(self.path)

    def kept(self) -> NDArray[np.bool_]:
        """(rows, cols): which tiles the slide has or will have."""
        return zarr_metadata.read_array(self.path / "maps" / "kept", "bool")

    def reading(self, record: SlideRecord) -> StoredSlide:
        """The slide while it is still being made, for who makes it."""
        return StoredSlide(self.path, record)

    def receipt_path(self, name: str) -> Path:
        """Where a receipt lies while the slide is being made."""
        return self.path / _RECEIPTS / f"{name}.json"

    def write_shard(
        self, block: BlockIndex, tiles: Mapping[TileIndex, NDArray[np.uint8]], key: str = "", **details: Any
    ) -> dict[str, Any]:
        """Write one block's tiles, whole, and then its receipt.

        Args:
            block: Place in the block grid.
            tiles: RGB, (256, 256, 3), 255 beyond the slide's edge, by place in the slide's tile grid; each is asked
                for once, in the order of the places.
            key: Fingerprint of everything that the pixels depend on.
            details: What else the receipt shall say of the block, as JSON; looked at when the tiles are written.

        Returns:
            The receipt: key, product (name, size, sha256), block, tiles, and the details.
        """
        path, codec = self.path / zarr_metadata.shard_key(block), zarr_metadata.read_image_codec(self.path / "0")
        digests: list[str] = []
        journal.atomic_write(path, lambda file: digests.append(_write_shard(file, tiles, codec)))
        facts = {"block": list(block), "tiles": len(tiles), **details}
        return journal.write_receipt(self.receipt_path(_shard_name(block)), key, path, digests[0], **facts)

    def valid_shard(self, block: BlockIndex, key: str) -> dict[str, Any] | None:
        """The receipt of a block's shard, if it is there and was made with this key."""
        receipt_path = self.receipt_path(_shard_name(block))
        return journal.valid_receipt(receipt_path, key, self.path / zarr_metadata.shard_key(block))

    def forget_shard(self, block: BlockIndex) -> None:
        """Remove a block's receipt, so that its shard is made again."""
        self.receipt_path(_shard_name(block)).unlink(missing_ok=True)

    def complete(self, record: SlideRecord, receipts: Iterable[Mapping[str, Any]]) -> None:
        """Write the completion mark: from now on the slide exists for readers.

        Args:
            record: What is known of the slide.
            receipts: Those of all its shards, in any order.

        Raises:
            StoreError: A block with kept tiles has no receipt.
        """
        shards = [(BlockIndex(*receipt["block"]), receipt["product"]) for receipt in receipts]
        missing = set(self.reading(record).grid.blocks()) - {block for block, _ in shards}
        if missing:
            raise StoreError(
                f"{self.path} lacks {len(missing)} shards, for example at {min(missing)}", zarr_shard.REMEDY
            )
        self._mark(record, fold_shards(shards))
        self.clean_up()

    def replace_record(self, record: SlideRecord) -> None:
        """Replace the record of a complete slide by one that differs in nothing that pixels depend on."""
        self._mark(record, zarr_metadata.read_attributes(self.path)[MARK]["shards"])

    def _mark(self, record: SlideRecord, shards: dict[str, Any]) -> None:
        mark = {"record": record.model_dump(mode="json"), "shards": shards}
        ome = zarr_metadata.image_attributes(record.slide_id, record.mpp)
        zarr_metadata.write_group(self.path, {"ome": ome, MARK: mark})

    def clean_up(self) -> None:
        """Remove what only the making of the slide needed."""
        shutil.rmtree(self.path / _RECEIPTS, ignore_errors=True)
        journal.remove_partials(self.path)


def _shard_name(block: BlockIndex) -> str:
    return f"shard-{block.row}-{block.col}"


def _write_shard(file: BinaryIO, tiles: Mapping[TileIndex, NDArray[np.uint8]], codec: TileCodec) -> str:
    """Write a shard; returns its digest."""
    with hashed(file) as pieces:
        zarr_shard.write_shard(pieces, tiles, codec=codec)
        return pieces.digest()
