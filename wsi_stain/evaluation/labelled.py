"""Labelled patches of a stored slide, as one method shows them, small enough for a classifier.

An import's patches bear their own labels; of a slide with a label of its own, every tile rich in tissue does.
Memory bound: the slide's chosen patches at the classifier's size, 12 KB each at 64 px, and what one method takes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_stain.core.errors import SlideError
from wsi_stain.core.geometry import Region, tile_region
from wsi_stain.core.storage import StoragePath
from wsi_stain.evaluation.methods import Method
from wsi_stain.pix2pix.gpu import translate_device_errors
from wsi_stain.store import StoredSlide
from wsi_stain.store.artifact import save_artifact
from wsi_stain.store.patches import PATCH_TABLE, from_csv

PIXELS, LABELS, NAMES = "pixels", "labels", "names"
"""What a file of patches holds: (n, side, side, 3) uint8; (n,) text, empty where there is no label; (n,) text."""

_RICH = 0.5


@dataclass(frozen=True, kw_only=True)
class LabelledTask:
    """Show one slide's labelled patches.

    Attributes:
        stored: Its folder in a tile store.
        method: What normalizes it; None leaves it untouched.
        side: Side of the squares that patches are brought to, px.
        most: Most patches, chosen by their places alone.
        out: The file for them.
        unlabelled: Whether patches without a label are wanted, too.
    """

    stored: StoragePath
    method: Method | None
    side: int
    most: int
    out: Path
    unlabelled: bool = False


class LabelledPatch(NamedTuple):
    """A patch of a slide.

    Attributes:
        region: Where it lies.
        label: Empty where it has none.
        name: Of its file, as the import names it; of a tile, its row and column.
    """

    region: Region
    label: str
    name: str


class LabelledReceipt(TypedDict):
    """Receipt of a `LabelledTask`: how many patches there are."""

    patches: int


@translate_device_errors
def extract_labelled(task: LabelledTask) -> LabelledReceipt:
    """Do a `LabelledTask`.

    Raises:
        SlideError: The slide has no labels.
        StainError: Its stain was not measured.
        CheckpointError: The model does not fit.
        DeviceMemoryError: The device's memory does not suffice.
        BrokenDeviceError: The GPU failed.
    """
    slide = StoredSlide(task.stored)
    patches = [patch for patch in list_patches(slide) if patch.label or task.unlabelled]
    chosen = _choose_patches(patches, task.most)
    if not chosen:
        raise SlideError(f"{slide.slide_id} has no labels", "Import labelled patches: wsi-stain import idc|pcam|images")
    source = slide if task.method is None else task.method.open_normalized(slide, slide.require_stain())
    pixels = np.stack([_resize(source.read(patch.region), task.side) for patch in chosen])
    texts = {LABELS: [patch.label for patch in chosen], NAMES: [patch.name for patch in chosen]}
    save_artifact(task.out, {PIXELS: pixels} | {name: np.array(each) for name, each in texts.items()})
    return {"patches": len(chosen)}


def list_patches(slide: StoredSlide) -> list[LabelledPatch]:
    """List a slide's patches in the order of their rows: those imported, or its tiles rich in tissue."""
    if PATCH_TABLE in slide.tables():
        table = from_csv(slide.table(PATCH_TABLE))
        patches = [LabelledPatch(patch.region, patch.label or "", patch.name) for patch in table if patch.region]
    else:
        label, tiles = slide.record.label or "", slide.tile_indices(_RICH)
        patches = [LabelledPatch(tile_region(tile), label, f"{tile.row},{tile.col}") for tile in tiles]
    return sorted(patches, key=lambda patch: (patch.region.y, patch.region.x))


def _choose_patches(patches: list[LabelledPatch], most: int) -> list[LabelledPatch]:
    """Choose at most so many of them, scattered, in the same order."""
    ranked = sorted(patches, key=lambda patch: hashlib.sha256(repr(tuple(patch.region)).encode()).digest())
    wanted = {patch.region for patch in ranked[:most]}
    return [patch for patch in patches if patch.region in wanted]


def _resize(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    if pixels.shape[:2] == (side, side):
        return pixels
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=3.0))
