"""What blocks and assembly cost, beside `pyvips tiffsave`, which makes the same pyramid but cannot resume.

    python benchmarks/beside_vips.py [--side 16384] [--workers 4] [--folder /dev/shm]

Both start from lossless pixels on tmpfs: ours from its tile store, with the identity in place of a generator, libvips
from its own uncompressed format. Both write JPEG tiles of 256 px at the same quality and with the same chroma
subsampling: libvips keeps chroma at every pixel from quality 90 on (as RGB), and one for four pixels below.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from functools import partial
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import numpy as np
from assembly import MPP, WHITE, Pixels, block_indices, stitch_task, tissue
from contest import machine, medians, report

from tests.support.identity import IdentityNormalizer
from wsi_stain.core.arrays import Rgb8
from wsi_stain.core.geometry import BLOCK, TILE, Size, TileIndex, grid_shape, tiles_of
from wsi_stain.formats.block_file import JpegConfig
from wsi_stain.normalize.tasks import NormalizeTask, normalize_block
from wsi_stain.normalizers.config import NormalizeConfig
from wsi_stain.normalizers.load import FACTORIES, load_normalizer
from wsi_stain.pix2pix.checkpoint import Checkpoint, save
from wsi_stain.pix2pix.config import GeneratorConfig
from wsi_stain.pix2pix.contract import Contract
from wsi_stain.pix2pix.generator import Generator
from wsi_stain.pyramid.stitch import stitch_slide
from wsi_stain.stain.statistics import slide_statistics
from wsi_stain.stain.template import Template
from wsi_stain.store import SlideRecord, StoredSlide, TileStore
from wsi_stain.store.artifact import save_artifact
from wsi_stain.tissue.grid import TileGrid


def stored_slide(folder: Path, size: Size) -> Pixels:
    """Put a slide full of tissue into the tile store `folder / "store"`; returns its pixels."""
    rows, cols = grid_shape(size, BLOCK)
    pixels = np.tile(tissue(), (rows, cols, 1))[: size.height, : size.width]
    kept = np.ones(grid_shape(size), bool)
    writer = TileStore.create(folder / "store").writer("slide")
    grid = TileGrid(size, kept.astype(np.float32), kept)
    writer.begin(size, pixels[::64, ::64].copy(), np.ones(pixels[::64, ::64].shape[:2], bool), grid)
    receipts = []
    for block in block_indices(size):
        tiles = {tile: _tile(pixels, tile) for tile in tiles_of(block, kept.shape)}
        receipts.append(writer.write_shard(block, tiles))
    record = SlideRecord(
        slide_id="slide",
        relative="slide.tif",
        fingerprint={"size": 1, "digest": "0"},
        settings_key="0",
        size=size,
        mpp=MPP,
        mpp_origin="openslide",
    )
    writer.complete(record, receipts)
    return pixels


def _tile(pixels: Pixels, tile: TileIndex) -> Pixels:
    x, y = tile.col * TILE, tile.row * TILE
    return np.ascontiguousarray(pixels[y : y + TILE, x : x + TILE])


def write_untrained(path: Path) -> str:
    """Write a checkpoint that nobody trained; returns its digest."""
    reference = slide_statistics(tissue()[::16, ::16].reshape(-1, 3), WHITE, "glass")
    config = GeneratorConfig(downs=3, ngf=4, in_channels=1)
    contract = Contract(
        generator=config,
        template=Template(kind="gray", reference=reference),
        mpp=MPP.x,
        training_fingerprint="0",
        version="0",
    )
    save(path, Generator(config), contract)
    return Checkpoint.load(path).digest


def normalize_tasks(folder: Path, size: Size, jpeg: JpegConfig) -> list[NormalizeTask]:
    """One task a block."""
    digest = write_untrained(folder / "checkpoint.safetensors")
    save_artifact(folder / "artifact.npz", {})
    return [
        NormalizeTask(
            slide=partial(StoredSlide, folder / "store" / "slide"),
            block=block,
            checkpoint=folder / "checkpoint.safetensors",
            digest=digest,
            normalize=NormalizeConfig(mode="generator"),
            jpeg=jpeg,
            artifact=folder / "artifact.npz",
            out=folder / "blocks" / f"{block.row}_{block.col}.block",
            receipt=folder / "blocks" / f"{block.row}_{block.col}.json",
            key="key",
        )
        for block in block_indices(size)
    ]


def _take_identity(task: NormalizeTask) -> None:
    """Let this process normalize by the identity, and have it loaded."""
    FACTORIES["generator"] = _identity
    load_normalizer(task.normalize, task.checkpoint, task.device, task.digest)


def _identity(checkpoint: Checkpoint, white: Rgb8, config: NormalizeConfig, device: str) -> IdentityNormalizer:
    return IdentityNormalizer(white)


def compare(folder: Path, side: int, workers: int, rounds: int) -> None:
    """Without chroma subsampling, and with."""
    os.environ["VIPS_CONCURRENCY"] = str(workers)
    import pyvips

    pyvips.Image.new_from_array(stored_slide(folder, Size(side, side))).write_to_file(str(folder / "pixels.v"))
    for jpeg in (JpegConfig(), JpegConfig(quality=89, subsampling=420)):
        tasks = normalize_tasks(folder, Size(side, side), jpeg)
        with get_context("fork").Pool(workers, _take_identity, (tasks[0],)) as pool:
            pool.map(time.sleep, [0.5] * workers, chunksize=1)  # until all have begun
            compare_once(folder, Size(side, side), jpeg, tasks, pool, rounds)


def compare_once(
    folder: Path, size: Size, jpeg: JpegConfig, tasks: list[NormalizeTask], pool: Pool, rounds: int
) -> None:
    """Print one table."""
    theirs, stitching = folder / "vips.tif", stitch_task(folder, size, {task.block: task.out for task in tasks}, jpeg)

    def normalize() -> None:
        pool.map(normalize_block, tasks, chunksize=1)

    def both() -> None:
        normalize()
        stitch_slide(stitching)

    def save_by_vips() -> None:
        tiffsave(folder / "pixels.v", theirs, jpeg.quality)

    products = [
        stitching.output,
        stitching.receipt,
        theirs,
        *(path for task in tasks for path in (task.out, task.receipt)),
    ]
    contenders = {"tiffsave": save_by_vips, "blocks": normalize, "blocks and assembly": both}
    found = medians(contenders, products, rounds)
    save_by_vips()
    ours, others = (path.stat().st_size / 1e6 for path in (stitching.output, theirs))
    print(f"\n{size.width} x {size.height} px, {jpeg}, {rounds} rounds; wrote {ours:.0f} MB, libvips {others:.0f} MB")
    report(found, "tiffsave", size.width * size.height * 3 / 1e6)


def tiffsave(source: Path, target: Path, quality: int) -> None:
    """A pyramid by libvips."""
    import pyvips

    tiles: dict[str, Any] = {"tile": True, "tile_width": TILE, "tile_height": TILE, "compression": "jpeg", "Q": quality}
    image = pyvips.Image.new_from_file(str(source))
    image.tiffsave(str(target), pyramid=True, subifd=True, bigtiff=True, **tiles)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="where everything lies meanwhile")
    parser.add_argument("--side", type=int, default=16384)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        compare(Path(folder), asked.side, asked.workers, asked.rounds)


if __name__ == "__main__":
    main()
