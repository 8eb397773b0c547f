"""Seam score: how much lines show where a slide was cut into pieces, from numbers that each block leaves.

A seam is a line along which neighbours differ more than elsewhere. So the score is the mean step of luminance across
the lines where pieces meet, divided by the mean step across lines beside them, and that divided by the same of the
source, which has steps of its own there: it was JPEG, in blocks of 8 px. The lines beside lie multiples of 32 px away,
where both the source's JPEG blocks and the generator's grids have the same phase. 1 is perfect.

The interval says how far apart whole lines are, not pieces of them: on real slides, lines where nothing was cut differ
from each other more than their pieces do, by the scanner's and the resampling's own patterns.

Two kinds of line: where two passes of the generator meet within a block, and where two blocks meet. Of the second kind
a block knows only its own side, and leaves thinned rows of luminance there, which are paired afterwards.
Everything is integers until the last division, so the order of blocks is nothing. Knows no files or generator.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from wsi_stain.core.arrays import Mask, RgbImage
from wsi_stain.core.geometry import BLOCK, TILE, TILES_PER_BLOCK, BlockIndex
from wsi_stain.core.records import StrictRecord

Values = NDArray[np.int32]
Sums = NDArray[np.int64]
"""(n, 5): a row for each piece of line: which line, then across and beside, of the output, of the source."""

TISSUE_MIN = 0.25
"""Share of tissue in a tile from which its lines count."""

_THIN = 8
"""One in so many pixels along a line is looked at."""

_FIRST = _THIN // 2

_SAMPLES = TILE // _THIN
_BESIDE = (32, 64, 96, 128)
"""How far from a line, px, the lines lie that it is compared with."""

_SIDE = np.dtype([("dense", "?"), ("beside", "<u4", 2), ("line", "u1", (2, _SAMPLES))])
"""A tile's part of a block's outermost row: whether it counts, steps beside, luminance; of the output, the source."""

_PIECES_MIN, _LINES_MIN = 8, 2


class SeamSums(TypedDict):
    """Sums that a block leaves of its lines, in base64: those within it, and its own sides of those around it."""

    inner: str
    sides: str


class SeamScore(StrictRecord):
    """Score of the lines along which a slide was cut.

    Attributes:
        score: Steps across these lines over steps elsewhere, relative to the source's own; 1 means that none shows.
        low: Lower end of its 95 % interval.
        high: Upper end.
    """

    score: float
    low: float
    high: float


class SeamLines:
    """Luminance along a block's lines, of source and output, gathered band by band: no more of a block need be held.

    Args:
        shape: The block's height and width, px.
        stride_px: Passes of the generator meet on multiples of this, px; a multiple of 256.
    """

    def __init__(self, shape: tuple[int, int], stride_px: int) -> None:
        self._stride = stride_px
        rows, columns = (_needed_rows(length, stride_px) for length in shape)
        height, width = (length // TILE * _SAMPLES for length in shape)
        self._axes = [_Lines(shape[0], rows, width), _Lines(shape[1], columns, height)]

    def add(self, top: int, source: RgbImage, output: RgbImage) -> None:
        """Add a band.

        Args:
            top: Its first row in the block, a multiple of 256.
            source: (h, w, 3) RGB before normalization.
            output: (h, w, 3) RGB after it, before JPEG.
        """
        across, down = self._axes
        here = (across.rows >= top) & (across.rows < top + len(source))
        for number, image in enumerate((output, source)):
            samples = image[across.rows[here] - top, _FIRST::_THIN]
            across.luminance[number, here] = _luminance(samples)[:, : across.luminance.shape[2]]
            along = _luminance(image[_FIRST::_THIN][:, down.rows]).T
            part = down.luminance[number, :, top // _THIN :][:, : along.shape[1]]
            part[:] = along[:, : part.shape[1]]

    def measure(self, tissue: NDArray[np.float32]) -> SeamSums:
        """Measure the steps across a block's lines, for its receipt; at most about 6 KB.

        Args:
            tissue: (ceil(h / 256), ceil(w / 256)): share of tissue in each tile.
        """
        dense = tissue >= TISSUE_MIN
        sides, inner = np.zeros((2, 2, TILES_PER_BLOCK), _SIDE), [np.zeros((0, 5), np.int64)]
        for axis, (lines, tiles) in enumerate(zip(self._axes, (dense, dense.T), strict=True)):
            for line in range(self._stride, lines.length - max(_BESIDE), self._stride):
                inner.append(np.insert(lines.inner(tiles, line), 0, axis * BLOCK + line, axis=1))
            for end in (0, 1):
                lines.fill_side(sides[axis, end], tiles, end)
        return {"inner": _pack_array(np.concatenate(inner).astype("<u4")), "sides": _pack_array(sides)}


def _needed_rows(length: int, stride_px: int) -> NDArray[np.intp]:
    """List the rows of a block, `length` px high, whose luminance its score needs, in order."""
    last = max(_BESIDE)
    lines = np.arange(stride_px, length - last, stride_px)
    below = [lines, *(lines + sign * away for away in _BESIDE for sign in (-1, 1))]
    ends = np.array([], np.intp)
    if length > last:
        below.append(np.array(_BESIDE))
        ends = np.array([0])
        if length >= BLOCK:
            below.append(length - np.array(_BESIDE))
            ends = np.array([0, length - 1])
    second = np.concatenate(below)
    return np.unique(np.concatenate([second, second - 1, ends]))


def seam_score(blocks: Mapping[BlockIndex, SeamSums]) -> SeamScore | None:
    """Score a slide.

    Args:
        blocks: What `measure_seams` gave for each block that has pixels.

    Returns:
        The score, its interval by the jackknife over lines (Efron and Tibshirani 1993, equation 11.5; Student's t on
        the logarithm); None where fewer than 8 pieces of line, a tile long, or only one line lie in tissue.
    """
    pieces = [
        _shift_lines(_unpack_array(sums["inner"], np.dtype("<u4")).reshape(-1, 5), at) for at, sums in blocks.items()
    ]
    sides = {block: _unpack_array(sums["sides"], _SIDE).reshape(2, 2, -1) for block, sums in blocks.items()}
    rows = np.concatenate([*pieces, *_pair_sides(sides), np.zeros((0, 5), np.int64)])
    lines = [rows[rows[:, 0] == line, 1:].sum(axis=0) for line in np.unique(rows[:, 0])]
    total = np.sum([np.zeros(4, np.int64), *lines], axis=0)
    without = [total - line for line in lines]
    if len(rows) < _PIECES_MIN or len(lines) < _LINES_MIN or not all(rest.all() for rest in without):
        return None
    count, score = len(lines), _ratio(total)
    spread = np.log([_ratio(rest) for rest in without])
    error = np.sqrt((count - 1) / count * ((spread - spread.mean()) ** 2).sum())
    away = float(np.exp(stdtrit(count - 1, 0.975) * error))
    return SeamScore(score=round(score, 4), low=round(score / away, 4), high=round(score * away, 4))


def _ratio(sums: NDArray[np.int64]) -> float:
    """Compute the score from (across, beside) of the output and (across, beside) of the source."""
    across, beside, source_across, source_beside = map(int, sums)
    return across * source_beside / (beside * source_across)


def _shift_lines(pieces: NDArray[np.uint32], block: BlockIndex) -> Sums:
    """Count the lines of pieces from the slide's origin: columns as negative numbers."""
    shifted = pieces.astype(np.int64)
    across_rows = shifted[:, 0] < BLOCK
    line = np.where(across_rows, shifted[:, 0] + block.row * BLOCK, -(shifted[:, 0] + (block.col - 1) * BLOCK))
    shifted[:, 0] = line
    return shifted


class _Lines:
    """Luminance of those rows of a block that count; its columns are rows of the transposed block.

    Args:
        length: The block's height, px.
        rows: Which rows, in order.
        samples: Along each of them, in whole tiles.

    Attributes:
        luminance: (2, rows, samples): of the output, of the source.
    """

    def __init__(self, length: int, rows: NDArray[np.intp], samples: int) -> None:
        self.length, self.rows = length, rows
        self.luminance = np.zeros((2, len(rows), samples), np.int32)

    def inner(self, tiles: Mask, line: int) -> NDArray[np.int64]:
        """Measure each piece of the line above row `line`, (n, 4): across and beside, of the output, of the source."""
        across = len(_BESIDE) * 2 * self._steps(line)
        beside = np.sum([self._steps(line + sign * away) for away in _BESIDE for sign in (-1, 1)], axis=0)
        columns = np.stack([across[0], beside[0], across[1], beside[1]], axis=1)
        both = tiles[line // TILE - 1] & tiles[line // TILE]
        return np.asarray(columns[both[: len(columns)]])

    def fill_side(self, side: NDArray[Any], tiles: Mask, end: int) -> None:
        """Describe the first (end 0) or the last row (end 1) of a block; nothing where the slide ends before."""
        height = self.length
        if height <= max(_BESIDE) or (end and height < BLOCK):
            return
        line, beside = (height - 1, [height - away for away in _BESIDE]) if end else (0, list(_BESIDE))
        pieces = self._pieces(line)
        whole = slice(pieces.shape[1])
        side["line"][whole] = pieces.swapaxes(0, 1)
        side["beside"][whole] = np.sum([self._steps(row) for row in beside], axis=0).T
        side["dense"][whole] = tiles[-end][whole]

    def _steps(self, row: int) -> NDArray[np.int64]:
        """Sum of |step of luminance| from row - 1 to row, (2, whole tiles along it)."""
        change = self._pieces(row) - self._pieces(row - 1)
        return np.asarray(np.abs(change).sum(axis=2, dtype=np.int64))

    def _pieces(self, row: int) -> Values:
        """Return the luminance of a row, (2, whole tiles along it, samples)."""
        return self.luminance[:, np.searchsorted(self.rows, row)].reshape(2, -1, _SAMPLES)


def _pair_sides(sides: Mapping[BlockIndex, NDArray[Any]]) -> Iterator[Sums]:
    """Yield the pieces between each pair of neighbouring blocks."""
    for block, ours in sides.items():
        for axis, neighbour in enumerate((BlockIndex(block.row + 1, block.col), BlockIndex(block.row, block.col + 1))):
            if neighbour not in sides:
                continue
            last, first = ours[axis, 1], sides[neighbour][axis, 0]
            across = np.abs(last["line"].astype(np.int64) - first["line"]).sum(axis=2) * len(_BESIDE) * 2
            beside = last["beside"].astype(np.int64) + first["beside"]
            line = -neighbour.col * BLOCK if axis else neighbour.row * BLOCK
            columns = [np.full(len(across), line), across[:, 0], beside[:, 0], across[:, 1], beside[:, 1]]
            yield np.stack(columns, axis=1)[last["dense"] & first["dense"]]


def _luminance(pixels: RgbImage) -> Values:
    """Compute rounded luminance (ITU-R BT.601), (...) of (..., 3)."""
    red, green, blue = (pixels[..., channel].astype(np.int32) for channel in range(3))
    return np.asarray((77 * red + 150 * green + 29 * blue + 128) >> 8)


def _pack_array(array: NDArray[Any]) -> str:
    return base64.b64encode(zlib.compress(array.tobytes())).decode("ascii")


def _unpack_array(text: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype)
