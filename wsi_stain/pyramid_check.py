"""Does a pyramid hold what it should, whatever it was made from? Asked of tifffile and of OpenSlide.

Every stored tile of every level is decoded once. From the means of their quarters follows whether each level shows what
the next finer one shows, so that a region that went missing on one level alone is found too.

Memory bound: one tile, and 20 bytes for each tile of level 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from wsi_stain.errors import OutputError
from wsi_stain.faults import Fault
from wsi_stain.geometry import TILE, Mpp, Size, TileIndex, grid_shape, level_sizes
from wsi_stain.tiff_reading import TiffPyramid

_MPP_TOLERANCE = 1e-4
_FLAT = 6
# Means of a tile and of what the next level makes of it: rounding adds 0.1, JPEG less than 1.
_LEVELS_APART = 3.0
# OpenSlide places pixels of level k by a ratio that is not quite 2^k: at the far edge they are moved by half a pixel.
_READERS_APART = 4.0
_COMPARED_TILES = 4


@dataclass(frozen=True)
class Expected:
    """What a pyramid should be.

    Attributes:
        size: Size of level 0, px.
        mpp: Resolution of level 0, um per px.
        icc_sha256: SHA-256 of its ICC profile, or None where it has none.
    """

    size: Size
    mpp: Mpp
    icc_sha256: str | None


@dataclass(frozen=True)
class Checked:
    """What was found.

    Attributes:
        faults: What is wrong.
        blank: (rows, cols) of level 0: tiles that show one colour alone; None where it cannot be trusted.
    """

    faults: list[Fault]
    blank: NDArray[np.bool_] | None = None


def check_pyramid(path: Path, expected: Expected) -> Checked:
    """Read a pyramid through both readers, all of it.

    Args:
        path: The OME-TIFF.
        expected: What it should be.
    """
    try:
        with TiffPyramid(path) as pyramid, openslide.OpenSlide(path) as slide:
            faults = _layout_faults(pyramid, slide, expected)
            if any(fault.check == "levels" for fault in faults):
                return Checked(faults)
            surveys = [_survey(pyramid, level) for level in range(len(pyramid.sizes))]
            if bad := [fault for survey in surveys for fault in survey.faults]:
                return Checked(faults + bad)
            wrong = _disagreements(surveys, pyramid.sizes)
            wrong += [fault for level in range(len(surveys)) for fault in _openslide_faults(pyramid, slide, level)]
            return Checked(faults + wrong, None if wrong else surveys[0].blank)
    except (OutputError, openslide.OpenSlideError) as error:
        return Checked([Fault("readers", "a pyramid that tifffile and OpenSlide open", str(error))])


def _layout_faults(pyramid: TiffPyramid, slide: openslide.OpenSlide, expected: Expected) -> list[Fault]:
    """Levels, resolution and colour profile."""
    faults = []
    sizes = level_sizes(expected.size)
    for reader, found in {
        "the chain of directories": pyramid.sizes,
        "SubIFDs": pyramid.nested_sizes,
        "OpenSlide": [Size(*size) for size in slide.level_dimensions],
    }.items():
        if found != sizes:
            faults.append(Fault("levels", f"{_listed(sizes)} px", f"{_listed(found)} px in {reader}"))
    for reader, mpp in {"OME-XML": pyramid.mpp, "OpenSlide": _openslide_mpp(slide)}.items():
        if mpp is None or not np.allclose(mpp, expected.mpp, rtol=_MPP_TOLERANCE, atol=0):
            faults.append(Fault("mpp", f"{_shown(expected.mpp)} um/px", f"{_shown(mpp)} in {reader}"))
    icc = hashlib.sha256(pyramid.icc_profile).hexdigest() if pyramid.icc_profile else None
    if icc != expected.icc_sha256:
        faults.append(Fault("icc", f"profile {expected.icc_sha256}", f"profile {icc}"))
    return faults


def _openslide_mpp(slide: openslide.OpenSlide) -> Mpp | None:
    try:
        return Mpp(float(slide.properties["openslide.mpp-x"]), float(slide.properties["openslide.mpp-y"]))
    except (KeyError, ValueError):
        return None


@dataclass(frozen=True)
class _Survey:
    """One level, looked through.

    Attributes:
        quarters: (2 rows, 2 cols) float32: mean of each quarter of each tile over R, G, B; NaN where it has none.
        blank: (rows, cols): tiles of one colour.
        faults: Tiles that cannot be decoded.
    """

    quarters: NDArray[np.float32]
    blank: NDArray[np.bool_]
    faults: list[Fault]


def _survey(pyramid: TiffPyramid, level: int) -> _Survey:
    rows, cols = grid_shape(pyramid.sizes[level])
    quarters = np.full((rows, 2, cols, 2), np.nan, np.float32)
    blank, bad = np.zeros((rows, cols), bool), list[tuple[TileIndex, str]]()
    for stored in pyramid.tiles(level):
        row, col = stored.places.T
        if stored.pixels is None:
            bad += [(TileIndex(int(r), int(c)), stored.problem) for r, c in stored.places]
            continue
        image = Image.fromarray(stored.pixels)
        blank[row, col] = all(high - low <= _FLAT for low, high in image.getextrema())  # type: ignore[misc]
        quarters[row, :, col, :] = np.asarray(image.reduce(TILE // 2), np.float32).mean(axis=2)
    return _Survey(quarters.reshape(2 * rows, 2 * cols), blank, _undecoded(bad, level, rows * cols))


def _undecoded(bad: Sequence[tuple[TileIndex, str]], level: int, count: int) -> list[Fault]:
    if not bad:
        return []
    place, problem = min(bad)
    got = f"{len(bad)} not, the first at row {place.row}, column {place.col}: {problem}"
    return [Fault("tiles", f"{count} tiles of level {level} that can be decoded", got)]


def _disagreements(surveys: Sequence[_Survey], sizes: Sequence[Size]) -> list[Fault]:
    """Levels that do not show what the next finer one shows."""
    faults = []
    for level in range(1, len(surveys)):
        width, height = sizes[level - 1]
        fine = surveys[level - 1].quarters[: height // TILE * 2, : width // TILE * 2]  # of whole tiles alone
        rows, cols = fine.shape[0] // 2, fine.shape[1] // 2
        means = fine.reshape(rows, 2, cols, 2).mean(axis=(1, 3))
        apart = np.abs(means - surveys[level].quarters[:rows, :cols])
        if apart.size and apart.max() > _LEVELS_APART:
            row, col = np.argwhere(apart > _LEVELS_APART)[0]
            got = (
                f"{int((apart > _LEVELS_APART).sum())} places differ, the first at row {row}, column {col} of its tiles"
            )
            faults.append(Fault("pixels", f"level {level} showing what level {level - 1} shows", got))
    return faults


def _openslide_faults(pyramid: TiffPyramid, slide: openslide.OpenSlide, level: int) -> list[Fault]:
    """Compare the tiles of a level that hold most with what OpenSlide reads there."""
    size, lengths = pyramid.sizes[level], pyramid.lengths(level)
    for index in np.argsort(-lengths, axis=None, kind="stable")[:_COMPARED_TILES]:
        place = TileIndex(*(int(value) for value in np.unravel_index(index, lengths.shape)))
        width, height = min(TILE, size.width - place.col * TILE), min(TILE, size.height - place.row * TILE)
        corner_l0 = place.col * TILE << level, place.row * TILE << level
        where = f"level {level}, row {place.row}, column {place.col}"
        pixels = pyramid.tile(level, place)
        try:
            read = np.asarray(slide.read_region(corner_l0, level, (width, height)), np.float32)[..., :3]
        except openslide.OpenSlideError as error:
            return [Fault("readers", f"OpenSlide reads {where}", str(error))]
        assert pixels is not None
        apart = np.abs(read.mean(axis=(0, 1)) - pixels[:height, :width].mean(axis=(0, 1))).max()
        if apart > _READERS_APART:
            got = f"colours {apart:.0f} grey levels apart"
            return [Fault("readers", f"OpenSlide and tifffile showing the same at {where}", got)]
    return []


def _listed(sizes: Sequence[Size]) -> str:
    return ", ".join(f"{size.width} x {size.height}" for size in sizes)


def _shown(mpp: Mpp | None) -> str:
    return "none" if mpp is None else f"{mpp.x:.6g} x {mpp.y:.6g}"
