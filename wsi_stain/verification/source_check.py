"""Check of a pyramid against its source: first the source's thumbnail that the run kept, then the source itself.

Thumbnails show whether it is this slide and whether it has lost tissue; 32 tiles, chosen by their places, whether it
lies on the source, keeps its structure and keeps its nuclei: see `quality_check`.

Memory bound: that of `quality_check`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_stain.core import html
from wsi_stain.core.arrays import Mask
from wsi_stain.core.errors import SlideError, StoreError, UnreadableError
from wsi_stain.core.geometry import TILE, Region, Size, TileIndex
from wsi_stain.core.storage import S3Path, is_there, storage_path
from wsi_stain.metrics.chromatin import NuclearDetail
from wsi_stain.metrics.structure import luminance_correlation
from wsi_stain.results.advice import another_way
from wsi_stain.results.finished import FinishedSlide, Origin
from wsi_stain.slides.slide import Slide
from wsi_stain.stain.statistics import is_hardly_there
from wsi_stain.stain.vectors import LUMINANCE
from wsi_stain.store import StoredSlide
from wsi_stain.store.stain_sample import sample_tiles
from wsi_stain.verification.faults import REPORT, Fault
from wsi_stain.verification.quality_check import Similarity, compare_quality
from wsi_stain.verification.readers.base import PyramidReader, level_size, overview, tile_size
from wsi_stain.verification.source_oracle import TiffOracle, tile_means

RESEMBLANCE = 0.85
"""Least correlation of a pyramid's thumbnail with its source's: real pairs have 0.99, two slides at most 0.64."""

TISSUE_OD = 0.05
"""Least mean optical density of a tile of the source that cannot be of one colour in the output."""


_TILES = 32
_TISSUE_REMEDY = f"Look at the slide there, with wsi-stain view. {REPORT}"
_TIFF_VENDORS = {"aperio", "generic-tiff"}
_ORACLE_TILES, _FLAT = 8, 6
_READERS_APART = 6.0
"""Mean difference in grey levels between decoders of one tile: real ones are at most 2 apart."""

_MOST_CONFIRMED = 1000
_LEAST_PX_A_TILE = 3


def check_against_source(
    pyramid: PyramidReader,
    blank: Mask,
    finished: FinishedSlide,
    source_path: Path | None,
    reference: NuclearDetail | None = None,
) -> tuple[list[Fault], Similarity | None]:
    """Compare a pyramid with its source.

    Args:
        pyramid: The open pyramid, all of whose tiles can be decoded.
        blank: (rows, cols) of level 0: tiles of one colour.
        finished: What the run kept of the slide.
        source_path: Where the source is now; None where the record says.
        reference: Nuclei of the reference; None where they are not known.
    """
    tissue = _tissue(finished)
    lost = _confirm_lost(tissue & blank, finished, source_path)
    if 2 * lost.sum() > tissue.sum():  # too little is left to say more
        return _tissue_faults(tissue, lost), None
    if faults := _picture_faults(pyramid, finished, lost):
        return faults, None
    faults = _tissue_faults(tissue, lost)
    try:
        with _open_source(finished.origin, source_path) as source:
            found, similarity = _compare_tiles(pyramid, source, finished, lost, reference)
    except (SlideError, StoreError) as error:
        return [*faults, Fault("source", "a source that can be read", error.problem, error.remedy)], None
    return faults + found, similarity


def _tissue(finished: FinishedSlide) -> Mask:
    """Find (rows, cols): kept tiles that the source's thumbnail shows to be more than glass, and more than is blank."""
    before, stain, kept = finished.row.before, finished.row.stain, finished.grid.kept
    if before is None or stain is None:
        return np.zeros_like(kept)
    picture = html.open_picture(before)
    od = _od(np.asarray(picture), stain.white)
    od[_blank(finished, picture.size)] = 0
    return kept & (tile_means(od, finished.grid.size) >= TISSUE_OD)


def _blank(finished: FinishedSlide, size: tuple[int, int]) -> Mask:
    """Return (h, w) of a picture of the whole frame, of (w, h) px: what is shown as glass on purpose."""
    return np.asarray(Image.fromarray(finished.blank).resize(size, Image.Resampling.NEAREST))


def _confirm_lost(lost: Mask, finished: FinishedSlide, source_path: Path | None) -> Mask:
    """Find the tiles that the source itself shows to be more than glass.

    A pixel of a vast slide's thumbnail is as wide as a tile, and shows its neighbours as well. Without the source only
    thumbnails are believed that show a tile in several pixels.
    """
    before, size = finished.row.before, finished.grid.size
    if not lost.any() or before is None or finished.row.stain is None:
        return lost
    try:
        with _open_source(finished.origin, source_path) as source:
            if source is not None and not _source_faults(source, finished):
                places = np.argwhere(lost)
                places = places[np.unique(np.linspace(0, len(places) - 1, _MOST_CONFIRMED).astype(int))]
                confirmed = np.zeros_like(lost)
                for row, col in places.tolist():
                    pixels = _read_source(source, TileIndex(row, col))
                    confirmed[row, col] = float(_od(pixels, finished.row.stain.white).mean()) >= TISSUE_OD
                return confirmed
    except (SlideError, StoreError):
        pass  # reported where the source is compared
    sharp = html.open_picture(before).width * TILE >= _LEAST_PX_A_TILE * size.width
    return lost if sharp else np.zeros_like(lost)


def _od(pixels: NDArray[np.uint8], white: Sequence[float]) -> NDArray[np.float32]:
    """Return optical density of luminance, (h, w), at least 0."""
    weights = np.asarray(LUMINANCE, np.float32)
    od = -np.log((pixels.astype(np.float32) @ weights + 1) / (np.asarray(white, np.float32) @ weights + 1))
    return np.asarray(np.maximum(od, 0), np.float32)


def _picture_faults(pyramid: PyramidReader, finished: FinishedSlide, lost: Mask) -> list[Fault]:
    """Check that it is this slide: its thumbnail against the source's, where no tissue was lost."""
    if finished.row.before is None:
        return []
    before, size = html.open_picture(finished.row.before), finished.grid.size
    after = overview(pyramid, Size(*before.size))
    frame = (0, 0, size.width / TILE, size.height / TILE)
    seen = ~np.asarray(Image.fromarray(lost).resize(before.size, Image.Resampling.NEAREST, box=frame))
    seen &= ~_blank(finished, before.size)
    correlation = luminance_correlation(after[seen], np.asarray(before)[seen])
    if correlation >= RESEMBLANCE:
        return []
    expected = f"a picture of {finished.row.slide}: thumbnails correlated by at least {RESEMBLANCE}"
    got = f"{correlation:.2f}: of another slide, or not all in its place"
    return [Fault("picture", expected, got, another_way(finished.origin.mode))]


def _tissue_faults(tissue: Mask, lost: Mask) -> list[Fault]:
    if not lost.any():
        return []
    row, col = np.argwhere(lost)[0]
    got = f"{int(lost.sum())} of them of one colour, the first at row {row}, column {col}"
    return [Fault("tissue", f"tissue in {int(tissue.sum())} tiles", got, _TISSUE_REMEDY)]


@contextmanager
def _open_source(origin: Origin, source_path: Path | None) -> Iterator[Slide | StoredSlide | None]:
    """Open the slide's file, or its tiles where those were kept; None where neither is there."""
    file = source_path or origin.slide
    if file is not None and is_there(file):
        with Slide(file, origin.reading) as slide:
            yield slide
        return
    try:
        tiles = StoredSlide(storage_path(origin.tiles)) if origin.tiles else None
    except StoreError:
        tiles = None
    yield tiles


def _compare_tiles(
    pyramid: PyramidReader,
    source: Slide | StoredSlide | None,
    finished: FinishedSlide,
    lost: Mask,
    reference: NuclearDetail | None,
) -> tuple[list[Fault], Similarity]:
    """Compare sampled tiles that still have their tissue, and nothing that is blank on purpose."""
    if source is None:
        return [], Similarity(source=False)
    if faults := _source_faults(source, finished) or _oracle_faults(pyramid, source, finished):
        return faults, Similarity(source=False)
    blank = tile_means(finished.blank.astype(np.float32), finished.grid.size) > 0
    sampled = sample_tiles(finished.grid.kept & ~lost & ~blank, finished.grid.tissue)[:_TILES]
    if not sampled:
        return [], Similarity(source=True)
    before = np.stack([_read_source(source, tile_index) for tile_index in sampled])
    after = np.stack([_read_output(pyramid, tile_index) for tile_index in sampled])
    stain = finished.row.stain
    has_nuclei = stain is None or not is_hardly_there(stain.evidence[0])
    remedy = another_way(finished.origin.mode)
    return compare_quality(after, before, sampled, source.mpp.mean, reference, remedy, has_nuclei)


def _source_faults(source: Slide | StoredSlide, finished: FinishedSlide) -> list[Fault]:
    """Check that a source is the one that was normalized."""
    known, size = finished.origin.fingerprint, finished.grid.size
    fingerprint = source.fingerprint() if isinstance(source, Slide) else source.record.fingerprint
    if fingerprint == known and source.size == size:
        return []
    expected = f"the source as it was: {known['size']} bytes, {size.width} x {size.height} px"
    got = f"another at {source.path}: {fingerprint['size']} bytes, {source.size.width} x {source.size.height} px"
    return [Fault("source", expected, got, "Name the slide that was normalized with --slides, or run again")]


def _oracle_faults(pyramid: PyramidReader, source: Slide | StoredSlide, finished: FinishedSlide) -> list[Fault]:
    """Check whether tifffile reads a TIFF source as the run did, and misses no tissue that was never written."""
    if not isinstance(source, Slide) or source.vendor not in _TIFF_VENDORS:
        return []
    path = source.path
    if isinstance(path, S3Path) or source.size != source.size_l0:
        return []
    if source.config.icc != "keep" or finished.row.stain is None:
        return []
    try:
        with TiffOracle(path, finished.grid.size) as oracle:
            return _reading_faults(source, oracle, finished) or _unwritten_faults(pyramid, oracle, finished)
    except UnreadableError:
        return []  # tifffile does not know it: no second opinion


def _reading_faults(source: Slide, oracle: TiffOracle, finished: FinishedSlide) -> list[Fault]:
    for place in sample_tiles(finished.grid.kept, finished.grid.tissue)[:_ORACLE_TILES]:
        there = oracle.tile(place)
        if there is None:
            continue  # a hole, or a coding that tifffile does not know
        apart = np.abs(_read_source(source, place).astype(np.int16) - there).mean()
        if apart > _READERS_APART:
            expected = f"the same pixels of the source by OpenSlide and tifffile at row {place.row}, column {place.col}"
            return [Fault("source", expected, f"{apart:.0f} grey levels apart", "Convert the slide and run again")]
    return []


def _unwritten_faults(pyramid: PyramidReader, oracle: TiffOracle, finished: FinishedSlide) -> list[Fault]:
    """Find tiles that the source's file lacks, where a coarser level shows tissue and the output is blank."""
    missing, shown, stain = oracle.unwritten(), oracle.overview(), finished.row.stain
    if shown is None or stain is None or not missing.any():
        return []
    tissue = missing & (tile_means(_od(shown, stain.white), finished.grid.size) >= 2 * TISSUE_OD)
    lost = [TileIndex(*place) for place in np.argwhere(tissue).tolist() if _is_blank(pyramid, TileIndex(*place))]
    if not lost:
        return []
    got = f"{len(lost)} tiles that were never written are blank, the first at row {lost[0].row}, column {lost[0].col}"
    return [Fault("tissue", "the tissue that a coarser level of the source shows", got, "Run again")]


def _is_blank(pyramid: PyramidReader, place: TileIndex) -> bool:
    tile = pyramid.tile(0, place)
    return tile is not None and int(np.ptp(tile, axis=(0, 1)).max()) <= _FLAT


def _region(tile_index: TileIndex) -> Region:
    return Region(tile_index.col * TILE, tile_index.row * TILE, TILE, TILE)


def _read_source(source: Slide | StoredSlide, tile_index: TileIndex) -> NDArray[np.uint8]:
    """Read a tile, (256, 256, 3), as a run does: what a slide's file cannot give is shown by its next coarser level."""
    return (
        source.read_repaired(_region(tile_index))[0] if isinstance(source, Slide) else source.read(_region(tile_index))
    )


def _read_output(pyramid: PyramidReader, tile_index: TileIndex) -> NDArray[np.uint8]:
    """Read a tile of level 0, (256, 256, 3); 255 outside the slide, as sources are read."""
    tile, size = pyramid.tile(0, tile_index), tile_size(level_size(pyramid, 0), tile_index)
    assert tile is not None
    pixels = np.full_like(tile, 255)
    pixels[: size.height, : size.width] = tile[: size.height, : size.width]
    return pixels
