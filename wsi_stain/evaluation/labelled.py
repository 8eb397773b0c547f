"""Labelled patches of a stored slide, as one method shows them, small enough for a classifier.

An import's patches bear their own labels; of a slide with a label of its own, every tile rich in tissue does.
Memory bound: the slide's chosen patches at the classifier's size, 12 KB each at 64 px, and what one method takes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_stain.core.errors import SlideError
from wsi_stain.core.geometry import Region, tile_region
from wsi_stain.core.storage import StoragePath
from wsi_stain.evaluation.methods import Method
from wsi_stain.store import StoredSlide
from wsi_stain.store.artifact import save_artifact
from wsi_stain.store.patches import PATCH_TABLE, from_csv

PIXELS, LABELS = "pixels", "labels"
"""What a file of patches holds: (n, side, side, 3) uint8, and (n,) text."""

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
    """

    stored: StoragePath
    method: Method | None
    side: int
    most: int
    out: Path


class LabelledReceipt(TypedDict):
    """Receipt of a `LabelledTask`: how many patches there are."""

    patches: int


def extract_labelled(task: LabelledTask) -> LabelledReceipt:
    """Do a `LabelledTask`.

    Raises:
        SlideError: The slide has no labels.
        StainError: Its stain was not measured.
        CheckpointError: The model does not fit.
    """
    slide = StoredSlide(task.stored)
    chosen = _choose_patches(labelled_regions(slide), task.most)
    if not chosen:
        raise SlideError(f"{slide.slide_id} has no labels", "Import labelled patches: wsi-stain import idc|pcam|images")
    source = slide if task.method is None else task.method.open_normalized(slide, slide.require_stain())
    pixels = np.stack([_resize(source.read(region), task.side) for region, _ in chosen])
    save_artifact(task.out, {PIXELS: pixels, LABELS: np.array([label for _, label in chosen])})
    return {"patches": len(chosen)}


def labelled_regions(slide: StoredSlide) -> list[tuple[Region, str]]:
    """List where a slide's labelled patches lie, and their labels, in the order of their rows."""
    if PATCH_TABLE in slide.tables():
        patches = from_csv(slide.table(PATCH_TABLE))
        labelled = [(patch.region, patch.label) for patch in patches if patch.region and patch.label is not None]
    else:
        label = slide.record.label
        labelled = [(tile_region(tile), label) for tile in slide.tile_indices(_RICH)] if label is not None else []
    return sorted(labelled, key=lambda patch: (patch[0].y, patch[0].x))


def _choose_patches(patches: list[tuple[Region, str]], most: int) -> list[tuple[Region, str]]:
    """Choose at most so many of them, scattered, in the same order."""
    ranked = sorted(patches, key=lambda patch: hashlib.sha256(repr(tuple(patch[0])).encode()).digest())
    wanted = {patch[0] for patch in ranked[:most]}
    return [patch for patch in patches if patch[0] in wanted]


def _resize(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    if pixels.shape[:2] == (side, side):
        return pixels
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=3.0))
