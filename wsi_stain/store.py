"""The tile store, format 1: a directory of sparse images, one for each slide. The only file that knows its Zarr layout.

    STORE/                 zarr v3 group; attributes: format, tile, producer
      SLIDE_ID/            OME-NGFF 0.5 multiscale group; attributes: ome, wsi_stain {record, shards}
        0                  (3, H, W) uint8, one chunk a tile, one shard a block; tiles that are not kept are absent
        maps/kept, tissue  (rows, cols) bool: which tiles exist; float32: share of tissue in each tile
        maps/NAME          (rows, cols) any other fact of each tile: its quality, its label
        thumbnail, mask    (h, w, 3) uint8 and (h, w) bool: what the tissue decision was made on
        .receipts/         one file a shard, while the slide is being made

The attribute `wsi_stain` is the completion mark: written last, atomically, and folding all shards' checksums. A slide
without it does not exist for readers, since a missing shard would read as glass. One shard has one writer.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError, field_validator

from wsi_stain import __version__, journal, shard, zarr_files
from wsi_stain.errors import StoreError
from wsi_stain.geometry import (
    TILE,
    TILES_PER_BLOCK,
    BlockIndex,
    Mpp,
    Region,
    Size,
    TileIndex,
    ceil_div,
)
from wsi_stain.grid import TileGrid
from wsi_stain.settings import Settings
from wsi_stain.stain import StainConfig, StainStatistics

FORMAT = 1

_INDICES_HELD = 1024
_RECEIPTS = ".receipts"
_NEW_STORE = "Choose another directory for the tile store"


class SlideRecord(Settings):
    """What is known of a slide in the store.

    Attributes:
        slide_id: Its safe, unique name.
        relative: Path relative to the slide directory, posix, with suffix.
        fingerprint: Fingerprint of the source file: size and a digest of samples of its bytes.
        settings_key: Fingerprint of the settings that affect pixels.
        size: Width and height of the working frame, px.
        mpp: Resolution of the working frame, um per px.
        mpp_origin: Where the resolution came from.
        objective_power: Magnification of the objective, where known.
        vendor: Scanner vendor as OpenSlide names it.
        background: The scanner's background, R, G, B.
        icc_profile: The profile that the pixels are in, base64.
        icc_policy: `keep`: pixels as scanned; `srgb`: converted by their profile.
        stain_config: How its stain was measured.
        group: Laboratory and scanner.
        patient: Patient.
        site: Where the slide was made.
        split: Which part of a study the slide belongs to.
        label: The slide's label.
        stain: Stain of the slide; None where it was not measured.
    """

    slide_id: str
    relative: str
    fingerprint: dict[str, str | int]
    settings_key: str
    size: Size
    mpp: Mpp
    mpp_origin: str
    objective_power: float | None = None
    vendor: str = ""
    background: tuple[int, int, int] = (255, 255, 255)
    icc_profile: str | None = None
    icc_policy: Literal["keep", "srgb"] = "keep"
    stain_config: StainConfig = StainConfig()
    group: str | None = None
    patient: str | None = None
    site: str | None = None
    split: str | None = None
    label: str | None = None
    stain: StainStatistics | None = None

    @field_validator("relative")
    @classmethod
    def _stays_inside(cls, relative: str) -> str:
        if PurePosixPath(relative).is_absolute() or ".." in PurePosixPath(relative).parts:
            raise ValueError("relative must be a path below the slide directory")
        return relative

    @property
    def key(self) -> str:
        """Fingerprint of everything that the slide's pixels in the store depend on."""
        return journal.fingerprint([self.fingerprint, self.settings_key, FORMAT])


class TileStore:
    """A tile store on disk.

    Raises:
        StoreError: There is no tile store at the path, or one of another format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        found = zarr_files.read_attributes(path)
        if found.get("format") != FORMAT or found.get("tile") != TILE:
            shown = f"format {found['format']}" if "format" in found else "none"
            raise StoreError(f"Expected a tile store of format {FORMAT} at {path}, found {shown}", _NEW_STORE)

    @classmethod
    def create(cls, path: Path) -> TileStore:
        """Open the store at a path, or make an empty one where there is nothing yet."""
        free = _is_free(path)  # looked at first: another process may be making the store, metadata first
        if not (path / "zarr.json").exists():
            if not free:
                raise StoreError(f"{path} exists and is not a tile store", _NEW_STORE)
            attributes = {"format": FORMAT, "tile": TILE, "producer": f"wsi-stain {__version__}"}
            zarr_files.write_group(path, attributes)
        return cls(path)

    def slide_ids(self) -> list[str]:
        """Names of the complete slides, sorted."""
        folders = (entry for entry in self.path.iterdir() if not entry.name.startswith(".") and entry.is_dir())
        return sorted(folder.name for folder in folders if "wsi_stain" in zarr_files.read_attributes(folder))

    def __getitem__(self, slide_id: str) -> StoredSlide:
        """A complete slide; StoreError where there is none of that name."""
        return StoredSlide(self._folder(slide_id))

    def writer(self, slide_id: str) -> SlideWriter:
        """What makes one slide of the store."""
        return SlideWriter(self._folder(slide_id))

    def drop_tiles(self, slide_id: str) -> None:
        """Remove a slide from the store, if it is there."""
        self.writer(slide_id).remove()

    def _folder(self, slide_id: str) -> Path:
        if not slide_id or slide_id.startswith(".") or Path(slide_id).name != slide_id:
            raise StoreError(f"{slide_id!r} is no name of a slide in a tile store", "Use a name without slashes")
        return self.path / slide_id


class StoredSlide:
    """A slide of the store, as a `BlockReader`. Threads may share it, and it may be pickled.

    Memory bound: the indices of at most 1024 shards (4 KiB each), the maps and the thumbnail; no pixels are held.

    Args:
        path: The slide's folder.
        record: What is known of a slide that is still being made; by default the record in its completion mark.

    Raises:
        StoreError: No record was given, and the slide has no completion mark.
    """

    def __init__(self, path: Path, record: SlideRecord | None = None) -> None:
        self.path = path
        self.record = record or _complete_record(path)
        self._index = lru_cache(_INDICES_HELD)(self._read_index)

    def __reduce__(self) -> tuple[type[StoredSlide], tuple[Path, SlideRecord]]:
        return StoredSlide, (self.path, self.record)

    @property
    def size(self) -> Size:
        """Width and height of the working frame, px."""
        return self.record.size

    @property
    def mpp(self) -> Mpp:
        """Resolution of the working frame, um per px."""
        return self.record.mpp

    @cached_property
    def kept(self) -> NDArray[np.bool_]:
        """(rows, cols): which tiles exist."""
        return zarr_files.read_array(self.path / "maps" / "kept", "bool")

    @cached_property
    def tissue(self) -> NDArray[np.float32]:
        """(rows, cols): share of tissue in each tile, 0 to 1."""
        return zarr_files.read_array(self.path / "maps" / "tissue", "float32")

    def map(self, name: str) -> NDArray[Any]:
        """A map of the slide, (rows, cols): one value a tile; StoreError where there is none of that name."""
        return zarr_files.read_array(self.path / "maps" / name)

    @cached_property
    def thumbnail(self) -> NDArray[np.uint8]:
        """RGB of the whole frame, (h, w, 3)."""
        return zarr_files.read_array(self.path / "thumbnail", "uint8")

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """(h, w): where tissue was found on the thumbnail."""
        return zarr_files.read_array(self.path / "mask", "bool")

    def read(self, region: Region) -> NDArray[np.uint8]:
        """RGB pixels, (height, width, 3); 255 in tiles that are not kept and outside the slide.

        Raises:
            StoreError: A shard or a chunk is missing or damaged.
        """
        pixels = np.full((region.height, region.width, 3), 255, np.uint8)
        for block, tiles in self._kept_tiles(region).items():
            index = self._index(block)
            with shard.ShardFile(_shard_path(self.path, block)) as file:
                for tile in tiles:
                    _paste(file.planes(tile, index), tile, pixels, region, self.size)
        return pixels

    def read_tile(self, tile: TileIndex) -> NDArray[np.uint8]:
        """RGB pixels of one tile, (256, 256, 3); 255 where it is not kept and outside the slide."""
        return self.read(Region(tile.col * TILE, tile.row * TILE, TILE, TILE))

    @property
    def grid(self) -> TileGrid:
        """The slide's tile grid."""
        return TileGrid(self.size, self.tissue, self.kept)

    def _kept_tiles(self, region: Region) -> dict[BlockIndex, list[TileIndex]]:
        """The kept tiles that a region touches, by the shard they are in."""
        rows = slice(max(region.y // TILE, 0), max(ceil_div(region.y + region.height, TILE), 0))
        cols = slice(max(region.x // TILE, 0), max(ceil_div(region.x + region.width, TILE), 0))
        tiles: dict[BlockIndex, list[TileIndex]] = {}
        for row, col in np.argwhere(self.kept[rows, cols]) + np.array([rows.start, cols.start]):
            block = BlockIndex(int(row) // TILES_PER_BLOCK, int(col) // TILES_PER_BLOCK)
            tiles.setdefault(block, []).append(TileIndex(int(row), int(col)))
        return tiles

    def _read_index(self, block: BlockIndex) -> NDArray[np.uint64]:
        with shard.ShardFile(_shard_path(self.path, block)) as file:
            return file.read_index()


class SlideWriter:
    """Makes one slide of a store: `begin`, `write_shard` for each block with kept tiles, `complete`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, size: Size, thumbnail: NDArray[np.uint8], mask: NDArray[np.bool_], grid: TileGrid) -> None:
        """Write everything but the tiles and the mark, into an empty folder.

        Args:
            size: Working frame, px.
            thumbnail: RGB of the whole frame, (h, w, 3).
            mask: (h, w), true on tissue.
            grid: Which tiles exist, and how much tissue is in each.
        """
        self.remove()
        zarr_files.write_group(self.path, {})
        zarr_files.write_group(self.path / "maps", {})
        zarr_files.write_array(self.path / "maps" / "kept", grid.kept, ["row", "col"])
        zarr_files.write_array(self.path / "maps" / "tissue", grid.tissue, ["row", "col"])
        zarr_files.write_array(self.path / "thumbnail", thumbnail, ["y", "x", "c"])
        zarr_files.write_array(self.path / "mask", mask, ["y", "x"])
        zarr_files.write_image_metadata(self.path / "0", size)

    def write_map(self, name: str, values: NDArray[Any]) -> None:
        """Write a map, (rows, cols): one value a tile, of bool, uint8, int16 or float32."""
        zarr_files.write_array(self.path / "maps" / name, values, ["row", "col"])

    def remove(self) -> None:
        """Empty the slide's folder, its mark first, so that at no moment a slide with holes looks complete."""
        (self.path / "zarr.json").unlink(missing_ok=True)
        if self.path.exists():
            journal.sync_directory(self.path)
            shutil.rmtree(self.path)

    def record(self) -> SlideRecord | None:
        """The record of the slide if it is complete."""
        return _record(self.path)

    def kept(self) -> NDArray[np.bool_]:
        """(rows, cols): which tiles the slide has or will have."""
        return zarr_files.read_array(self.path / "maps" / "kept", "bool")

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
            tiles: RGB, (256, 256, 3), 255 beyond the slide's edge, by place in the slide's tile grid.
            key: Fingerprint of everything that the pixels depend on.
            details: What else the receipt shall say of the block, as JSON.

        Returns:
            The receipt: key, product (name, size, sha256), block, tiles, and the details.
        """
        path = _shard_path(self.path, block)
        journal.atomic_write(path, lambda file: shard.write_shard(file, tiles))
        receipt_path = self.receipt_path(_shard_name(block))
        return journal.write_receipt(receipt_path, key, path, block=list(block), tiles=len(tiles), **details)

    def valid_shard(self, block: BlockIndex, key: str) -> dict[str, Any] | None:
        """The receipt of a block's shard, if it is there and was made with this key."""
        receipt_path = self.receipt_path(_shard_name(block))
        return journal.valid_receipt(receipt_path, key, _shard_path(self.path, block))

    def complete(self, record: SlideRecord, receipts: Iterable[Mapping[str, Any]]) -> None:
        """Write the completion mark: from now on the slide exists for readers.

        Args:
            record: What is known of the slide.
            receipts: Those of all its shards, in any order.

        Raises:
            StoreError: A block with kept tiles has no receipt.
        """
        shards = sorted((BlockIndex(*receipt["block"]), receipt["product"]) for receipt in receipts)
        missing = set(self.reading(record).grid.blocks()) - {block for block, _ in shards}
        if missing:
            raise StoreError(f"{self.path} lacks {len(missing)} shards, for example at {min(missing)}", shard.REMEDY)
        folded = journal.fingerprint([[list(block), made["size"], made["sha256"]] for block, made in shards])
        self._mark(record, {"count": len(shards), "sha256": folded})
        self.tidy()

    def relabel(self, record: SlideRecord) -> None:
        """Replace the record of a complete slide by one that differs in nothing that pixels depend on."""
        self._mark(record, zarr_files.read_attributes(self.path)["wsi_stain"]["shards"])

    def _mark(self, record: SlideRecord, shards: dict[str, Any]) -> None:
        mark = {"record": record.model_dump(mode="json"), "shards": shards}
        ome = zarr_files.image_attributes(record.slide_id, record.mpp)
        zarr_files.write_group(self.path, {"ome": ome, "wsi_stain": mark})

    def tidy(self) -> None:
        """Remove what only the making of the slide needed."""
        shutil.rmtree(self.path / _RECEIPTS, ignore_errors=True)
        journal.remove_partials(self.path)


def _paste(planes: NDArray[np.uint8], tile: TileIndex, pixels: NDArray[np.uint8], region: Region, size: Size) -> None:
    """Copy the part of a tile (planar) that lies within both the region and the slide."""
    x, y = tile.col * TILE, tile.row * TILE
    left, right = max(x, region.x), min(x + TILE, region.x + region.width, size.width)
    top, bottom = max(y, region.y), min(y + TILE, region.y + region.height, size.height)
    target = pixels[top - region.y : bottom - region.y, left - region.x : right - region.x]
    source = planes[:, top - y : bottom - y, left - x : right - x]
    for channel in range(3):  # one plane at a time is six times as fast as one transposed copy
        target[..., channel] = source[channel]


def _shard_path(folder: Path, block: BlockIndex) -> Path:
    return folder / "0" / "c" / "0" / str(block.row) / str(block.col)


def _shard_name(block: BlockIndex) -> str:
    return f"shard-{block.row}-{block.col}"


def _is_free(path: Path) -> bool:
    """Whether there is nothing at a path, or a directory with at most hidden files such as a lease."""
    if not path.is_dir():
        return not path.exists()
    return all(entry.name.startswith(".") for entry in path.iterdir())


def _complete_record(folder: Path) -> SlideRecord:
    record = _record(folder)
    if record is None:
        raise StoreError(f"There is no complete slide in {folder}", "Tile it first: run the same command again")
    return record


def _record(folder: Path) -> SlideRecord | None:
    mark = zarr_files.read_attributes(folder).get("wsi_stain")
    if mark is None:
        return None
    try:
        record = SlideRecord.model_validate(mark["record"])
        if record.slide_id != folder.name:
            raise ValueError(f"it is of {record.slide_id}")
        return record
    except (ValueError, ValidationError, KeyError, TypeError) as error:
        raise StoreError(f"The record of the slide in {folder} is damaged: {error}", shard.REMEDY) from error
