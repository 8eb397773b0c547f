"""Small tile stores of painted H&E, for the tests of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import zarr.registry
from numpy.typing import NDArray
from scipy import ndimage

from wsi_stain.core.geometry import TILE, BlockIndex, Mpp, Size, TileIndex, grid_shape
from wsi_stain.formats.zarr_jpeg import ZarrJpeg
from wsi_stain.formats.zarr_shard import CodecName
from wsi_stain.stain.statistics import slide_statistics
from wsi_stain.store import SlideRecord, StoredSlide, TileStore
from wsi_stain.tissue.grid import TileGrid

zarr.registry.register_codec("imagecodecs_jpeg", ZarrJpeg)  # a fresh installation brings it as a plugin

WHITE = (242.0, 240.0, 243.0)
_STAINS = np.asarray([(0.65, 0.70, 0.29), (0.15, 0.93, 0.33)])


def paint_tissue(size: Size, seed: int = 0) -> NDArray[np.uint8]:
    """Nuclei on eosin with some glass, (height, width, 3)."""
    rng = np.random.default_rng(seed)
    noise = [ndimage.gaussian_filter(rng.standard_normal((size.height, size.width)), s) * s for s in (5, 20, 2)]
    nuclei, stroma = noise[0] > 0.35, noise[1] > -0.3
    h = np.where(nuclei, 1.5, 0.15) + 0.1 * noise[2]
    e = np.where(stroma | nuclei, 0.7, 0.02) + 0.1 * noise[2] * stroma
    od = np.stack([h * (stroma | nuclei), e], axis=-1).clip(0) @ _STAINS
    return np.rint((np.asarray(WHITE) + 1) * np.exp(-od) - 1).clip(0, 255).astype(np.uint8)


def store_slide(
    root: Path,
    slide_id: str,
    pixels: NDArray[np.uint8],
    tissue: NDArray[np.float32] | None = None,
    mpp: float = 0.25,
    icc_profile: str | None = None,
    measured: bool = True,
    codec: CodecName = "lossless",
    **facts: str,
) -> StoredSlide:
    """Put a slide of at most one block into a store, with what is known of it; by default all of it is tissue."""
    size = Size(pixels.shape[1], pixels.shape[0])
    shares = np.ones(grid_shape(size), np.float32) if tissue is None else tissue
    store = TileStore.create(root)
    writer, grid = store.writer(slide_id), TileGrid(size, shares, shares > 0)
    writer.begin(size, pixels[::32, ::32].copy(), np.ones(pixels[::32, ::32].shape[:2], bool), grid, codec)
    tiles = {TileIndex(int(row), int(col)): _tile(pixels, int(row), int(col)) for row, col in np.argwhere(grid.kept)}
    receipts = [writer.write_shard(BlockIndex(0, 0), tiles)] if tiles else []
    stain = slide_statistics(pixels[::4, ::4].reshape(-1, 3), WHITE, "glass") if measured else None
    record = SlideRecord(
        slide_id=slide_id,
        relative=f"{slide_id}.svs",
        fingerprint={"size": 1, "digest": slide_id},
        settings_key="0",
        size=size,
        mpp=Mpp(mpp, mpp),
        mpp_origin="openslide",
        icc_profile=icc_profile,
        stain=stain,
        **facts,
    )
    writer.complete(record, receipts)
    return store[slide_id]


def _tile(pixels: NDArray[np.uint8], row: int, col: int) -> NDArray[np.uint8]:
    tile = np.full((TILE, TILE, 3), 255, np.uint8)
    part = pixels[row * TILE : (row + 1) * TILE, col * TILE : (col + 1) * TILE]
    tile[: part.shape[0], : part.shape[1]] = part
    return tile
