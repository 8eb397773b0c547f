"""The tile store, format 1: a directory of sparse images, one for each slide. The only package that knows its layout.

    STORE/                 zarr v3 group; attributes: format, tile, producer
      SLIDE_ID/            OME-NGFF 0.5 multiscale group; attributes: ome, wsi_stain {record, shards}
        0                  (3, H, W) uint8, one chunk a tile, one shard a block; tiles that are not kept are absent
        maps/kept, tissue  (rows, cols) bool: which tiles exist; float32: share of tissue in each tile
        maps/NAME          (rows, cols) any other fact of each tile: its quality, its label
        thumbnail, mask    (h, w, 3) uint8 and (h, w) bool: what the tissue decision was made on
        tables/NAME        (bytes,) uint8: CSV in UTF-8, of what is no map, such as where each patch of an import lies
        .receipts/         one file a shard, while the slide is being made

The attribute `wsi_stain` is the completion mark: written last, atomically, and folding all shards' checksums. A slide
without it does not exist for readers, since a missing shard would read as glass. One shard has one writer.

    tile_store     the store: which slides are in it
    tiled_slide    a slide as tiles on a grid, wherever its pixels are
    stored_slide   a slide of the store: its shards and maps, and whether they still are what was written
    writer         makes a slide of the store
    record         what is known of a slide, and its completion mark
    patches        places of a slide's patches, and their table
    stain_sample   the pixels that a slide's stain is measured on
    artifact       what a normalizer learned of a slide
    cards          stores and slides in a notebook
"""

from __future__ import annotations

from wsi_stain.store.record import SlideRecord
from wsi_stain.store.stored_slide import StoredSlide
from wsi_stain.store.tile_store import TileStore
from wsi_stain.store.tiled_slide import TiledSlide
from wsi_stain.store.writer import ShardReceipt, SlideWriter

__all__ = ["ShardReceipt", "SlideRecord", "SlideWriter", "StoredSlide", "TileStore", "TiledSlide"]
