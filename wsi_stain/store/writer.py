"""Making one slide of the store: everything atomic, the completion mark last. One shard has one writer."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core import journal
from wsi_stain.core.arrays import Mask
from wsi_stain.core.errors import StoreError
from wsi_stain.core.geometry import BlockIndex, Size, TileIndex
from wsi_stain.core.journal import FileFacts
from wsi_stain.core.receipts import Product, Receipt, describe_product, file_product, valid_receipt, write_receipt
from wsi_stain.formats import zarr_metadata, zarr_shard
from wsi_stain.formats.zarr_shard import CODECS, CodecName, Tile, TileCodec
from wsi_stain.store.record import MARK, ShardsMark, SlideRecord, fold_shards, list_arrays, read_record
from wsi_stain.store.stored_slide import StoredSlide
from wsi_stain.tissue.exempt import Exempt
from wsi_stain.tissue.grid import TileGrid

_RECEIPTS = ".receipts"


class ShardReceipt(Receipt):
    """Receipt of a shard.

    Attributes:
        block: [row, col] in the block grid.
        tiles: How many it has.
        quality: For each quality, its value for each tile, in the order of their places; empty where it was not looked
            at.
        holes: [[row, col], ...] of the tiles that cannot be read and are shown as a coarser level has them.
    """

    block: list[int]
    tiles: int
    quality: Mapping[str, Sequence[float | None]]
    holes: list[list[int]]


class SlideWriter:
    """Makes one slide of a store: `begin`, `write_shard` for each block with kept tiles, `complete`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(
        self,
        size: Size,
        thumbnail: NDArray[np.uint8],
        mask: Mask,
        grid: TileGrid,
        codec: CodecName = "lossless",
        exempt: Exempt | None = None,
    ) -> None:
        """Write everything but the tiles and the mark, into an empty folder.

        Args:
            size: Working frame, px.
            thumbnail: RGB of the whole frame, (h, w, 3).
            mask: (h, w), true on tissue.
            grid: Which tiles exist, and how much tissue is in each.
            codec: How the tiles are compressed.
            exempt: (h, w): what is not normalized; None where all is.
        """
        self.clear(size, codec)
        self.write_tissue(thumbnail, mask, grid, exempt)

    def describe_begun(self) -> Product:
        """Describe what stands before any tile or receipt: the product of who began the slide, to be found whole."""
        return describe_product(self.path)

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

    def write_tissue(
        self, thumbnail: NDArray[np.uint8], mask: Mask, grid: TileGrid, exempt: Exempt | None = None
    ) -> None:
        """Write what the tissue decision was made on, and what follows from it; arguments as for `begin`."""
        zarr_metadata.write_array(self.path / "maps" / "kept", grid.kept, ["row", "col"])
        zarr_metadata.write_array(self.path / "maps" / "tissue", grid.tissue, ["row", "col"])
        zarr_metadata.write_array(self.path / "thumbnail", thumbnail, ["y", "x", "c"])
        zarr_metadata.write_array(self.path / "mask", mask, ["y", "x"])
        if exempt is not None:
            zarr_metadata.write_array(self.path / "exempt", exempt, ["y", "x"])

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
        """Read the record of the slide; None where it is not complete."""
        return read_record(self.path)

    def sound_record(self) -> SlideRecord | None:
        """Read the record of the slide; None also where it is damaged, since the slide will be made again."""
        try:
            return self.record()
        except StoreError:
            return None

    def is_complete(self, key: str) -> bool:
        """Check that the slide is complete under a key."""
        record = self.sound_record()
        return record is not None and record.key == key

    def is_whole(self, key: str) -> bool:
        """Check that the slide is complete under a key, and that none of its files is damaged; see `check_whole`."""
        if not self.is_complete(key):
            return False
        try:
            StoredSlide(self.path).check_whole()
        except StoreError:
            return False
        return True

    def kept(self) -> Mask:
        """Read which tiles the slide has or will have, (rows, cols)."""
        return zarr_metadata.read_array(self.path / "maps" / "kept", "bool")

    def codec(self) -> TileCodec:
        """Read how its tiles are compressed."""
        return zarr_metadata.read_image_codec(self.path / "0")

    def open_slide(self, record: SlideRecord) -> StoredSlide:
        """Open the slide while it is still being made, for who makes it."""
        return StoredSlide(self.path, record)

    def receipt_path(self, name: str) -> Path:
        """Return the path of a receipt while the slide is being made."""
        return self.path / _RECEIPTS / f"{name}.json"

    def write_shard(
        self,
        block: BlockIndex,
        tiles: Mapping[TileIndex, Tile],
        key: str = "",
        quality: Callable[[], Mapping[str, Sequence[float | None]]] = dict,
        holes: Sequence[Sequence[int]] = (),
    ) -> ShardReceipt:
        """Write one block's tiles, whole, and then its receipt.

        Args:
            block: Index in the block grid.
            tiles: By index in the slide's tile grid; what they show beyond the slide's edge is never read. Each is
                asked for once, in the order of the indices.
            key: Fingerprint of everything that the pixels depend on.
            quality: Gives what `ShardReceipt` says; asked once the tiles are written.
            holes: See there; read then as well.

        Returns:
            The receipt.
        """
        path, codec = self.path / zarr_metadata.shard_key(block), self.codec()
        facts = journal.write_hashed(path, lambda file: zarr_shard.write_shard(file, tiles, codec=codec))
        receipt: ShardReceipt = {
            "key": key,
            "product": file_product(path, facts),
            "block": list(block),
            "tiles": len(tiles),
            "quality": quality(),
            "holes": [list(place) for place in holes],
        }
        return write_receipt(self.receipt_path(_shard_name(block)), receipt)

    def valid_shard(self, block: BlockIndex, key: str) -> ShardReceipt | None:
        """Return the receipt of a block's shard, if it is there and was made with this key."""
        receipt_path = self.receipt_path(_shard_name(block))
        return valid_receipt(receipt_path, key, self.path / zarr_metadata.shard_key(block), ShardReceipt)

    def forget_shard(self, block: BlockIndex) -> None:
        """Remove a block's receipt, so that its shard is made again."""
        self.receipt_path(_shard_name(block)).unlink(missing_ok=True)

    def complete(self, record: SlideRecord, receipts: Iterable[ShardReceipt]) -> None:
        """Write the completion mark: from now on the slide exists for readers.

        Args:
            record: What is known of the slide.
            receipts: Those of all its shards, in any order.

        Raises:
            StoreError: A block with kept tiles has no receipt.
        """
        shards = [
            (BlockIndex(*receipt["block"]), FileFacts(size=product["size"], sha256=product["sha256"]))
            for receipt in receipts
            if (product := receipt["product"])
        ]
        missing = set(self.open_slide(record).grid.blocks()) - {block for block, _ in shards}
        if missing:
            raise StoreError(
                f"{self.path} lacks {len(missing)} shards, for example at {min(missing)}", zarr_shard.REMEDY
            )
        self._mark(record, fold_shards(shards), list_arrays(self.path))
        self.clean_up()

    def replace_record(self, record: SlideRecord) -> None:
        """Replace the record of a complete slide by one that differs in nothing that pixels depend on."""
        mark = zarr_metadata.read_attributes(self.path)[MARK]
        self._mark(record, mark["shards"], mark.get("arrays", []))

    def _mark(self, record: SlideRecord, shards: ShardsMark, arrays: Sequence[str]) -> None:
        mark = {"record": record.model_dump(mode="json"), "shards": shards, "arrays": arrays}
        ome = zarr_metadata.image_attributes(record.slide_id, record.mpp)
        zarr_metadata.write_group(self.path, {"ome": ome, MARK: mark})

    def clean_up(self) -> None:
        """Remove what only the making of the slide needed."""
        shutil.rmtree(self.path / _RECEIPTS, ignore_errors=True)
        journal.remove_partials(self.path)


def _shard_name(block: BlockIndex) -> str:
    return f"shard-{block.row}-{block.col}"
