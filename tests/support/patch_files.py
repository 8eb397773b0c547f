"""Small data sets of patches in the layouts that are published, and their import. Every pixel is known."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_stain.core.geometry import Region, Size
from wsi_stain.datasets.importing import ImportTask, import_slide
from wsi_stain.stain.statistics import StainConfig
from wsi_stain.store import StoredSlide, TileStore
from wsi_stain.store.patches import PATCH_TABLE, Patch, PatchSource, from_csv
from wsi_stain.synthetic import LABORATORIES, stain_tissue
from wsi_stain.synthetic.tissue import render_tissue
from wsi_stain.tissue.config import TissueConfig

RgbImage = NDArray[np.uint8]


@cache
def tissue(width: int = 700, height: int = 500, seed: int = 1) -> RgbImage:
    """A piece of H&E with glass around it, (height, width, 3), at 1 um per px."""
    return stain_tissue(render_tissue(Size(width, height), 1.0, seed), LABORATORIES["reference"], seed)


def cut_patches(pixels: RgbImage, side: int) -> list[RgbImage]:
    """Squares side by side, in rows; what is left at the far edges is dropped."""
    rows, cols = (length // side for length in pixels.shape[:2])
    return [
        pixels[row * side : (row + 1) * side, col * side : (col + 1) * side]
        for row in range(rows)
        for col in range(cols)
    ]


def save(path: Path, pixels: RgbImage) -> Path:
    """Write a lossless picture, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def idc_patient(root: Path, patient: str, pixels: RgbImage, x: int = 251, y: int = 101) -> None:
    """A patient of the IDC set: patches of class 1 in the left half, from (x, y) on."""
    cols = pixels.shape[1] // 50
    for number, patch in enumerate(cut_patches(pixels, 50)):
        row, col = divmod(number, cols)
        label = int(col < cols / 2)
        name = f"{patient}_idx5_x{x + 50 * col}_y{y + 50 * row}_class{label}.png"
        save(root / patient / str(label) / name, patch)


def pcam_split(
    folder: Path, split: str, patches: Sequence[RgbImage], labels: Sequence[int] | None, slides: Sequence[str] | None
) -> Path:
    """The files of one split of PCam; without labels or metadata where there are none. The path of the file with x."""
    stem = folder / f"camelyonpatch_level_2_split_{split}"
    x = stem.with_name(f"{stem.name}_x.h5")
    with h5py.File(x, "w") as file:
        file.create_dataset("x", data=np.stack(patches), chunks=(4, 96, 96, 3), compression="gzip")
    if labels is not None:
        with h5py.File(stem.with_name(f"{stem.name}_y.h5"), "w") as file:
            file.create_dataset("y", data=np.asarray(labels, np.uint8).reshape(-1, 1, 1, 1))
    if slides is not None:
        rows = [f"{place},True,False,{place * 384},0,{slide}" for place, slide in enumerate(slides)]
        header = ",tumor_patch,center_tumor_patch,coord_y,coord_x,wsi"
        stem.with_name(f"{stem.name}_meta.csv").write_text("\n".join([header, *rows, ""]))
    return x


def task(source: PatchSource, store: Path) -> ImportTask:
    """The import of one slide at 1 um per px."""
    return ImportTask(source, store, 1.0, "--mpp", TissueConfig(), StainConfig(min_pixels=100))


def import_source(source: PatchSource, store: Path) -> tuple[StoredSlide, dict[str, Any]]:
    """Import a slide; the slide and its receipt."""
    receipt = import_slide(task(source, store))
    return TileStore(store)[receipt["slide_id"]], receipt


def whole(slide: StoredSlide) -> RgbImage:
    """All pixels of a slide."""
    return slide.read(Region(0, 0, *slide.size))


def glass(slide: StoredSlide) -> NDArray[np.uint8]:
    """What a slide's tiles show where no patch lies: the colour of its own glass."""
    assert slide.record.stain is not None
    return np.rint(slide.record.stain.white).astype(np.uint8)


def table(slide: StoredSlide) -> dict[str, Patch]:
    """A slide's patches by name."""
    return {patch.name: patch for patch in from_csv(slide.table(PATCH_TABLE))}


def refusals(receipt: dict[str, Any]) -> dict[str, str]:
    """Why patches were refused, by name."""
    return dict(remark.split(": ", 1) for remark in receipt["remarks"])
