"""A tile store in the reference's stain: the same slides, tiles, maps, tables and labels, other pixels, lossless.

    begin_normalized_slide     everything but tiles: maps, tables, a thumbnail by the slide's colour table
    normalize_store_block      4096 px of the source store  ->  one shard and its receipt
    complete_normalized_slide  the slide's new stain, completion mark

Glass is not faded, since patches that were imported may end where a tile ends. Where patches lie side by side and the
method looks beyond a pixel, each is normalized on its own, mirrored at its sides: its neighbour may be a stranger.

Memory bound: a block with its halo (55 MB at 96 px), its result, and the list of the slide's patches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from wsi_stain.core.arrays import RgbImage, window
from wsi_stain.core.errors import StainError
from wsi_stain.core.geometry import TILE, BlockIndex, Region, Size, block_region, tiles_of
from wsi_stain.core.receipts import Receipt, valid_receipt, write_receipt
from wsi_stain.normalize.region import normalize_any_resolution, normalize_area, normalize_patch, patch_config
from wsi_stain.normalizers.background import show_exempt
from wsi_stain.normalizers.base import Normalizer
from wsi_stain.normalizers.config import NormalizeConfig
from wsi_stain.normalizers.load import load_normalizer
from wsi_stain.normalizers.windows import crop_square
from wsi_stain.pix2pix.gpu import translate_device_errors
from wsi_stain.store import ShardReceipt, SlideRecord, SlideWriter, StoredSlide, TileStore
from wsi_stain.store.artifact import load_artifact
from wsi_stain.store.patches import PATCH_TABLE as PATCHES
from wsi_stain.store.patches import from_csv
from wsi_stain.store.stain_sample import measure_stain

VERSION = 1
"""Raised with every change of the code that changes what is written."""

_OWN_MAPS = ("kept", "tissue")


@dataclass(frozen=True, kw_only=True)
class NormalizeStoreTask:
    """Restain one slide of a store, or one block of it.

    Attributes:
        slide: Opens the slide in the source store.
        store: The store to write.
        record: What will be known of the slide there; its key decides whether work stands.
        checkpoint: The checkpoint's file; for classical methods that of the reference.
        digest: SHA-256 of that file, as the run knows it.
        normalize: What becomes of generated pixels.
        device: Where the generator runs, as torch names it.
        artifact: What `prepare_slide` left.
        block: Place in the block grid; None means the whole slide.
    """

    slide: Callable[[], StoredSlide]
    store: Path
    record: SlideRecord
    checkpoint: Path
    digest: str
    normalize: NormalizeConfig
    device: str
    artifact: Path
    block: BlockIndex | None = None

    @property
    def writer(self) -> SlideWriter:
        """Writer of the slide."""
        return TileStore(self.store).writer(self.record.slide_id)

    def normalizer(self, normalize: NormalizeConfig) -> Normalizer:
        """Load what makes the new pixels."""
        return load_normalizer(normalize, self.checkpoint, self.device, self.digest)


@translate_device_errors
def begin_normalized_slide(task: NormalizeStoreTask) -> Receipt:
    """Write everything of a slide but its tiles."""
    writer, key = task.writer, task.record.key
    receipt_path = writer.receipt_path("begun")
    if done := valid_receipt(receipt_path, key, writer.path, Receipt):
        return done
    with task.slide() as slide:
        normalizer, (height, width) = task.normalizer(task.normalize), slide.mask.shape
        thumbnail = normalize_any_resolution(slide.thumbnail, normalizer, load_artifact(task.artifact))
        whole = Size(width, height)
        show_exempt(slide, Region(0, 0, *whole), thumbnail, slide.thumbnail, normalizer.white, whole)
        writer.begin(slide.size, thumbnail, slide.mask, slide.grid, exempt=slide.exempt)
        for name in slide.maps():
            if name not in _OWN_MAPS:
                writer.write_map(name, slide.map(name))
        for name in slide.tables():
            writer.write_table(name, slide.table(name))
    return write_receipt(receipt_path, Receipt(key=key, product=writer.describe_begun()))


@translate_device_errors
def normalize_store_block(task: NormalizeStoreTask) -> ShardReceipt:
    """Write the shard of one block; returns its receipt.

    Raises:
        CheckpointError: The checkpoint changed, or gave values that are no numbers.
        DeviceMemoryError: The device's memory does not suffice for `normalize.stride_px`.
        BrokenDeviceError: The GPU failed.
        StoreError: The source store is damaged.
        OutputError: The shard cannot be written.
    """
    assert task.block is not None
    writer, key = task.writer, task.record.key
    if done := writer.valid_shard(task.block, key):
        return done
    with task.slide() as slide:
        area = block_region(task.block, slide.size)
        pixels = _normalize_block(slide, area, task)
        tiles = {
            tile: crop_square(pixels, tile.row * TILE - area.y, tile.col * TILE - area.x, TILE)
            for tile in tiles_of(task.block, slide.kept.shape)
            if slide.kept[tile]
        }
    return writer.write_shard(task.block, tiles, key)


class CompleteReceipt(TypedDict):
    """Receipt of a completed slide.

    Attributes:
        key: Fingerprint of everything that its tiles depend on.
        slide_id: The slide's name in the store.
        is_stain_measured: What came out passes for H&E.
    """

    key: str
    slide_id: str
    is_stain_measured: bool


def complete_normalized_slide(task: NormalizeStoreTask) -> CompleteReceipt:
    """Measure the new stain, and mark the slide as complete."""
    writer, record = task.writer, task.record
    blocks = writer.open_slide(record).grid.blocks()
    receipts = [receipt for block in blocks if (receipt := writer.valid_shard(block, record.key))]
    try:
        stain = measure_stain(writer.open_slide(record), record.stain_config)
    except StainError:
        stain = None
    writer.complete(record.model_copy(update={"stain": stain}), receipts)
    return {"key": record.key, "slide_id": record.slide_id, "is_stain_measured": stain is not None}


def _normalize_block(slide: StoredSlide, area: Region, task: NormalizeStoreTask) -> RgbImage:
    """Normalize an area, (h, w, 3), that is a whole block but for the slide's far edge."""
    normalizer, artifact = task.normalizer(task.normalize), load_artifact(task.artifact)
    if normalizer.halo == 0 or PATCHES not in slide.tables():
        return normalize_area(slide, area, normalizer, artifact)
    pixels = np.empty((area.height, area.width, 3), np.uint8)
    pixels[:] = normalizer.white
    for place in (patch.region for patch in from_csv(slide.table(PATCHES))):
        if place is None or (shared := place.intersect(area)) is None:
            continue
        patch = slide.read(place)
        normalized = normalize_patch(patch, task.normalizer(patch_config(task.normalize, patch)), artifact)
        window(pixels, area, shared)[:] = window(normalized, place, shared)
    return pixels
