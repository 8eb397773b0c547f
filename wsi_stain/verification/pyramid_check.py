"""Check of a pyramid alone, whatever it was made from, with all readers that its format has.

Every stored tile of every level is decoded once. From the means of their quarters follows whether each level shows what
the next finer one shows, so that a region that went missing on one level alone is found too.

Memory bound: one tile, and 20 bytes for each tile of level 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_stain.core.arrays import Mask
from wsi_stain.core.geometry import TILE, Mpp, Size, TileIndex, grid_shape, level_sizes
from wsi_stain.verification.faults import Fault
from wsi_stain.verification.readers.base import PyramidReader, level_size, tile_size
from wsi_stain.verification.readers.openslide import OpenSlidePyramid
from wsi_stain.verification.readers.tiff import TiffPyramid
from wsi_stain.verification.readers.zarr import ZarrPyramid

_MPP_TOLERANCE = 1e-4
_FLAT = 6
# Means of a tile and of what the next level makes of it: rounding adds 0.1, JPEG less than 1.
_LEVELS_APART = 3.0
# OpenSlide places pixels of level k by a ratio that is not quite 2^k: at the far edge they are moved by half a pixel.
_READERS_APART = 4.0
_COMPARED_TILES = 4


@dataclass(frozen=True)
class Expected:
    """Facts that a pyramid should have.

    Attributes:
        size: Size of level 0, px.
        mpp: Resolution of level 0, um per px.
        icc_sha256: SHA-256 of its ICC profile, or None where it has none.
    """

    size: Size
    mpp: Mpp
    icc_sha256: str | None


@dataclass(frozen=True)
class CheckedPyramid:
    """Result of checking a pyramid.

    Attributes:
        faults: What is wrong.
        blank: (rows, cols) of level 0: tiles that show one colour alone; None where it cannot be trusted.
    """

    faults: list[Fault]
    blank: Mask | None = None


def open_readers(path: Path, stack: ExitStack) -> list[PyramidReader]:
    """Open all readers of a pyramid, by its name's ending; the first is the one to read all of it with.

    Raises:
        OutputError: One of them cannot open it.
    """
    if path.suffix == ".zarr":
        return [stack.enter_context(ZarrPyramid(path))]
    slide = stack.enter_context(OpenSlidePyramid(path))
    return [slide] if path.is_dir() else [stack.enter_context(TiffPyramid(path)), slide]


def check_pyramid(readers: Sequence[PyramidReader], expected: Expected) -> CheckedPyramid:
    """Read a pyramid, all of it by the first reader, samples by the others.

    Args:
        readers: From `open_readers`.
        expected: What it should be.
    """
    main, *others = readers
    faults = [fault for reader in readers for fault in _layout_faults(reader, expected)]
    icc = hashlib.sha256(main.icc_profile).hexdigest() if main.icc_profile else None
    if icc != expected.icc_sha256:
        faults.append(Fault("icc", f"profile {expected.icc_sha256}", f"profile {icc}"))
    if any(fault.check == "levels" for fault in faults):
        return CheckedPyramid(faults)
    scans = [_scan_level(main, level) for level in range(len(level_sizes(expected.size)))]
    if damaged := [fault for scan in scans for fault in scan.faults]:
        return CheckedPyramid(faults + damaged)
    wrong = _level_faults(scans, main)
    for level, scan in enumerate(scans):
        wrong += [fault for other in others for fault in _reader_faults(main, other, level, scan.spread)]
    return CheckedPyramid(faults + wrong, None if wrong else scans[0].spread <= _FLAT)


def _layout_faults(reader: PyramidReader, expected: Expected) -> list[Fault]:
    """Check levels and resolution."""
    faults, sizes = [], level_sizes(expected.size)
    for way, sizes_found in reader.layouts.items():
        if list(sizes_found) != sizes:
            faults.append(Fault("levels", f"{_format_sizes(sizes)} px", f"{_format_sizes(sizes_found)} px by {way}"))
    for way, mpp in reader.resolutions.items():
        if mpp is None or not np.allclose(mpp, expected.mpp, rtol=_MPP_TOLERANCE, atol=0):
            faults.append(Fault("mpp", f"{_format_mpp(expected.mpp)} um/px", f"{_format_mpp(mpp)} by {way}"))
    return faults


@dataclass(frozen=True)
class _LevelScan:
    """One level, read through.

    Attributes:
        quarters: (2 rows, 2 cols) float32: mean of each quarter of each tile over R, G, B; NaN where it has none.
        spread: (rows, cols) uint8: largest minus least value of each tile, of the channel where that is most.
        faults: Tiles that cannot be decoded.
    """

    quarters: NDArray[np.float32]
    spread: NDArray[np.uint8]
    faults: list[Fault]


def _scan_level(reader: PyramidReader, level: int) -> _LevelScan:
    rows, cols = grid_shape(level_size(reader, level))
    quarters = np.full((rows, 2, cols, 2), np.nan, np.float32)
    spread, damaged = np.zeros((rows, cols), np.uint8), list[tuple[TileIndex, str]]()
    for stored in reader.tiles(level):
        row, col = stored.places.T
        if stored.pixels is None:
            damaged += [(TileIndex(int(r), int(c)), stored.problem) for r, c in stored.places]
            continue
        image = Image.fromarray(stored.pixels)
        spread[row, col] = max(high - low for low, high in image.getextrema())  # type: ignore[misc]
        quarters[row, :, col, :] = np.asarray(image.reduce(TILE // 2), np.float32).mean(axis=2)
    return _LevelScan(quarters.reshape(2 * rows, 2 * cols), spread, _decode_faults(damaged, level, rows * cols))


def _decode_faults(damaged: Sequence[tuple[TileIndex, str]], level: int, count: int) -> list[Fault]:
    if not damaged:
        return []
    place, problem = min(damaged)
    got = f"{len(damaged)} not, the first at row {place.row}, column {place.col}: {problem}"
    return [Fault("tiles", f"{count} tiles of level {level} that can be decoded", got)]


def _level_faults(scans: Sequence[_LevelScan], reader: PyramidReader) -> list[Fault]:
    """Find levels that do not show what the next finer one shows."""
    faults = []
    for level in range(1, len(scans)):
        width, height = level_size(reader, level - 1)
        fine = scans[level - 1].quarters[: height // TILE * 2, : width // TILE * 2]  # of whole tiles alone
        rows, cols = fine.shape[0] // 2, fine.shape[1] // 2
        means = fine.reshape(rows, 2, cols, 2).mean(axis=(1, 3))
        apart = np.abs(means - scans[level].quarters[:rows, :cols])
        if apart.size and apart.max() > _LEVELS_APART:
            row, col = np.argwhere(apart > _LEVELS_APART)[0]
            count = int((apart > _LEVELS_APART).sum())
            got = f"{count} of the latter's tiles do not, the first at row {row}, column {col}"
            faults.append(Fault("pixels", f"level {level} showing what level {level - 1} shows", got))
    return faults


def _reader_faults(main: PyramidReader, other: PyramidReader, level: int, spread: NDArray[np.uint8]) -> list[Fault]:
    """Compare what two readers show in the tiles of a level that show most."""
    for index in np.argsort(-spread.astype(int), axis=None, kind="stable")[:_COMPARED_TILES]:
        place = TileIndex(*(int(value) for value in np.unravel_index(index, spread.shape)))
        where = f"level {level}, row {place.row}, column {place.col}"
        expected = f"{_reader_name(other)} and {_reader_name(main)} showing the same on {where}"
        here, there = main.tile(level, place), other.tile(level, place)
        if here is None or there is None:
            return [Fault("readers", expected, "one of them cannot decode it")]
        width, height = tile_size(level_size(main, level), place)
        means = [pixels[:height, :width].mean(axis=(0, 1)) for pixels in (here, there)]
        apart = np.abs(means[0] - means[1]).max()
        if apart > _READERS_APART:
            return [Fault("readers", expected, f"colours {apart:.0f} grey levels apart")]
    return []


def _reader_name(reader: PyramidReader) -> str:
    return next(iter(reader.layouts))


def _format_sizes(sizes: Sequence[Size]) -> str:
    return ", ".join(f"{size.width} x {size.height}" for size in sizes)


def _format_mpp(mpp: Mpp | None) -> str:
    return "none" if mpp is None else f"{mpp.x:.6g} x {mpp.y:.6g}"
