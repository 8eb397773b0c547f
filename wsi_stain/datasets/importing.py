"""Slides of the store made of patches: laid in their places, tissue and stain measured on the whole. One task a slide.

A tile exists where a patch lies on it, tissue or not, so that every patch can be read back. The rest of such a tile has
the colour of the patches' own glass: white there would teach a generator two colours of glass. The frame is a whole
number of tiles. Knows no torch.

Memory bound: that of the mosaic and of the listing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from wsi_stain.core import journal
from wsi_stain.core.arrays import Mask, Rgb8, round_rgb
from wsi_stain.core.errors import SlideError
from wsi_stain.core.geometry import BLOCK, TILE, BlockIndex, Mpp, Size, ceil_div
from wsi_stain.datasets.mosaic import Mosaic, label_maps
from wsi_stain.slides.listing.names import slide_id
from wsi_stain.stain.statistics import StainConfig, white_point
from wsi_stain.store import SlideRecord, SlideWriter, TileStore
from wsi_stain.store.patches import (
    MAX_REMARKS,
    PATCH_TABLE,
    Listing,
    Patch,
    PatchSource,
    frame_size,
    from_csv,
    place_in_rows,
    to_csv,
)
from wsi_stain.store.stain_sample import measure_stain
from wsi_stain.tissue.config import TissueConfig
from wsi_stain.tissue.grid import TileGrid, tile_grid
from wsi_stain.tissue.mask import tissue_mask

VERSION = 1
"""Raised with every change of the code that changes which tiles a slide has or what is in them."""

_THUMBNAIL = (1024, 8192)
"""Least length of a thumbnail's longer side where the slide has as many px, and most."""

_GLASS_PIXELS = 2**20
"""About how many pixels of patches are read first, for the colour of glass."""


@dataclass(frozen=True)
class ImportTask:
    """Import one slide.

    Attributes:
        source: Its patches.
        store: The tile store's directory.
        mpp: Resolution of the patches, um per px.
        mpp_origin: Who says so.
        tissue: What counts as tissue.
        stain: How stain is measured.
    """

    source: PatchSource
    store: Path
    mpp: float
    mpp_origin: str
    tissue: TissueConfig
    stain: StainConfig


class PatchFacts(TypedDict):
    """Facts that every receipt of an import has.

    Attributes:
        slide_id: The slide's name in the store.
        patches: How many can be used.
        refused: How many cannot.
        labels: How many patches bear each label.
        remarks: What is odd about some of them, a sentence each; the first ones.
        remarked: How many there are in all.
    """

    slide_id: str
    patches: int
    refused: int
    labels: dict[str, int]
    remarks: list[str]
    remarked: int


class PatchesReceipt(PatchFacts):
    """Receipt of inspected patches: [width, height] of their slide, px."""

    size: list[int]


class ImportReceipt(PatchFacts):
    """Receipt of an imported slide.

    Attributes:
        key: Fingerprint of everything that its tiles depend on.
        tiles: How many it has.
        stood: Nothing was left to do.
        replaced: Another slide of that name was there.
    """

    key: str
    tiles: int
    stood: bool
    replaced: bool


def inspect_patches(task: ImportTask) -> PatchesReceipt:
    """Find out what an import would give; nothing is written."""
    patches = task.source.listing().patches
    return {**_describe_patches(task.source, patches), "size": list(frame_size(patches))}


def import_slide(task: ImportTask) -> ImportReceipt:
    """Lay a slide's patches and write it into the store, unless it stands there already.

    Raises:
        SlideError: No patch can be used; StainError where they are not H&E.
        StoreError: `store` is something else.
    """
    writer = TileStore.create(task.store).writer(slide_id(task.source.relative))
    listing = task.source.listing()
    record, before = _make_record(task, listing), writer.sound_record()
    if stood := writer.is_whole(record.key):
        writer.clean_up()
        patches = from_csv(writer.open_slide(record).table(PATCH_TABLE))
    else:
        record, patches = _import(writer, task, record, listing.patches)
    return {
        "key": record.key,
        **_describe_patches(task.source, patches),
        "tiles": int(writer.kept().sum()),
        "stood": stood,
        "replaced": before is not None and not stood,
    }


def _describe_patches(source: PatchSource, patches: Sequence[Patch]) -> PatchFacts:
    placed = [patch for patch in patches if patch.region]
    labels = sorted({patch.label for patch in placed if patch.label is not None})
    return {
        "slide_id": slide_id(source.relative),
        "patches": len(placed),
        "refused": len(patches) - len(placed),
        "labels": {label: sum(patch.label == label for patch in placed) for label in labels},
        "remarks": [f"{patch.name}: {patch.remark}" for patch in patches if patch.remark][:MAX_REMARKS],
        "remarked": sum(bool(patch.remark) for patch in patches),
    }


def _make_record(task: ImportTask, listing: Listing) -> SlideRecord:
    settings = [VERSION, task.mpp, task.tissue.model_dump(mode="json"), task.stain.model_dump(mode="json")]
    return SlideRecord(
        slide_id=slide_id(task.source.relative),
        relative=task.source.relative,
        fingerprint=listing.fingerprint,
        settings_key=journal.fingerprint(settings),
        size=frame_size(listing.patches),
        mpp=Mpp(task.mpp, task.mpp),
        mpp_origin=task.mpp_origin,
        stain_config=task.stain,
        **task.source.facts,
    )


def _import(
    writer: SlideWriter, task: ImportTask, record: SlideRecord, patches: Sequence[Patch]
) -> tuple[SlideRecord, list[Patch]]:
    """Write the whole slide; its record with the stain, and its patches as they were laid."""
    writer.clear(record.size)
    mosaic = Mosaic(record.size, _thumbnail_factor(record.size, task.mpp, task.tissue), _glass(task, patches))
    receipts = []
    for block, touching in sorted(_group_by_block(patches).items()):
        tiles = mosaic.lay(block, touching, task.source)
        if tiles:
            receipts.append(writer.write_shard(block, tiles, record.key))
    laid = [mosaic.laid.get(patch.name, patch) for patch in patches]
    if not any(patch.region for patch in laid):
        writer.remove()
        raise SlideError(
            f"None of the {len(laid)} patches of {record.relative} can be used"
            + (f", for example {laid[0].name}: {laid[0].remark}" if laid else ""),
            "Compare the files with the layout that this import expects",
        )
    _write_maps(writer, task, mosaic, laid)
    writer.write_table(PATCH_TABLE, to_csv(laid))
    record = record.model_copy(update={"stain": measure_stain(writer.open_slide(record), task.stain)})
    writer.complete(record, receipts)
    return record, laid


def _glass(task: ImportTask, patches: Sequence[Patch]) -> Rgb8:
    """Measure the colour of glass, R, G, B, on a sample of patches laid side by side, as on a whole slide."""
    places = [patch for patch in patches if patch.region]
    sample = places[:: max(1, ceil_div(sum(_area(patch) for patch in places), _GLASS_PIXELS))]
    regions = place_in_rows([Size(*patch.region[2:]) for patch in sample if patch.region])
    laid_patches = [patch._replace(region=region) for patch, region in zip(sample, regions, strict=True)]
    mosaic = Mosaic(frame_size(laid_patches), _thumbnail_factor(frame_size(laid_patches), task.mpp, task.tissue))
    for block, touching in _group_by_block(laid_patches).items():
        mosaic.lay(block, touching, task.source)
    if not mosaic.covered.any():
        return 255, 255, 255
    white, _ = white_point(mosaic.thumbnail, _tissue(task, mosaic))
    return round_rgb(white)


def _area(patch: Patch) -> int:
    """Return the area of a patch's place, square px."""
    return patch.region.width * patch.region.height if patch.region else 0


def _group_by_block(patches: Sequence[Patch]) -> dict[BlockIndex, list[Patch]]:
    """Group patches by the blocks that they touch, in their order."""
    touching: dict[BlockIndex, list[Patch]] = {}
    for patch in patches:
        if patch.region:
            x, y, width, height = patch.region
            for row in range(y // BLOCK, (y + height - 1) // BLOCK + 1):
                for col in range(x // BLOCK, (x + width - 1) // BLOCK + 1):
                    touching.setdefault(BlockIndex(row, col), []).append(patch)
    return touching


def _thumbnail_factor(size: Size, mpp: float, tissue: TissueConfig) -> int:
    """Choose how much smaller the thumbnail is: a power of two, as sharp as tiling makes it, and never huge."""
    longest, (least, most) = max(size), _THUMBNAIL
    wanted = min(tissue.mpp / mpp, longest / least)
    factor = 1
    while factor < TILE and (2 * factor <= wanted or longest > factor * most):
        factor *= 2
    return factor


def _write_maps(writer: SlideWriter, task: ImportTask, mosaic: Mosaic, laid: Sequence[Patch]) -> None:
    mask = _tissue(task, mosaic)
    tissue = tile_grid(mosaic.size, mask).tissue
    writer.write_tissue(mosaic.thumbnail, mask, TileGrid(mosaic.size, tissue, mosaic.kept))
    for label, share in label_maps(laid, mosaic.kept.shape).items():
        writer.write_map(f"label-{slide_id(label)}", share)


def _tissue(task: ImportTask, mosaic: Mosaic) -> Mask:
    """Find tissue.

    Neighbours may be strangers: a lone patch of tissue is no dust, one of glass no hole; no colour is blurred across.
    """
    area_um2 = min(_area(patch) for patch in mosaic.laid.values() if patch.region) * task.mpp**2
    limits = {"min_tissue_um2": area_um2 / 4, "max_hole_um2": area_um2 / 4, "smoothing_um": area_um2**0.5 / 8}
    own = task.tissue
    config = own.model_copy(update={name: min(getattr(own, name), limit) for name, limit in limits.items()})
    mask: Mask = tissue_mask(mosaic.thumbnail, task.mpp * mosaic.factor, config) & mosaic.covered
    return mask
