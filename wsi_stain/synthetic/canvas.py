"""Canvas of synthetic tissue: noise, positions, windows and nuclei. Knows shapes, no anatomy and no stain colours.

Everything is drawn in um, so that one seed gives the same tissue at any resolution. A *field* is an array of (h, w)
float32 over the whole canvas; positions are (x, y) in um from the canvas's upper left corner.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from wsi_stain.core.arrays import Mask
from wsi_stain.core.geometry import Size

Field = NDArray[np.float32]

_SMOOTHING = 0.8
"""Blur of the noise lattices, in lattice steps: hides their squares."""

_LATTICE_SD = 1 / (2 * np.pi**0.5 * _SMOOTHING)
"""Standard deviation that the blur leaves of white noise of standard deviation 1."""


class Nucleus(NamedTuple):
    """Ellipse: centre and half axes, um; direction of the long axis, radians from x; hematoxylin at its core."""

    x: float
    y: float
    long: float
    short: float
    angle: float
    stain: float


class Patch(NamedTuple):
    """Window of the canvas, and how far its pixels lie from a position: dx (1, w), dy (h, 1), um."""

    at: tuple[slice, slice]
    dx: Field
    dy: Field


@dataclass
class Canvas:
    """Concentrations under the brush.

    Attributes:
        size: Width and height, px.
        mpp: um per px.
        rng: The one source of chance.
        hematoxylin: (h, w).
        eosin: (h, w).
        grain: Fine noise, (h, w), about -2 to 2; the clumps of chromatin.
        busy: (h, w); where nothing more is placed.
    """

    size: Size
    mpp: float
    rng: np.random.Generator
    hematoxylin: Field = field(init=False)
    eosin: Field = field(init=False)
    grain: Field = field(init=False)
    busy: Mask = field(init=False)

    def __post_init__(self) -> None:
        shape = (self.size.height, self.size.width)
        self.hematoxylin, self.eosin = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self.busy = np.zeros(shape, bool)
        self.grain = self.noise(0.7)

    @property
    def extent(self) -> tuple[float, float]:
        """Width and height, um."""
        return self.size.width * self.mpp, self.size.height * self.mpp

    @property
    def axes(self) -> tuple[Field, Field]:
        """Pixel centres in um: x (1, w) and y (h, 1)."""
        x, y = ((np.arange(length, dtype=np.float32) + 0.5) * np.float32(self.mpp) for length in self.size)
        return x[None, :], y[:, None]

    def noise(self, spacing: float) -> Field:
        """Make a smooth field of mean 0 and standard deviation about 0.8 whose blobs are about `spacing` um wide."""
        width, height = self.extent
        lattice = _lattice(self.rng, ceil(height / spacing) + 2, ceil(width / spacing) + 2)
        x, y = self.axes
        down = _interpolate_rows(lattice, y[:, 0] / np.float32(spacing))
        return np.ascontiguousarray(_interpolate_rows(np.ascontiguousarray(down.T), x[0] / np.float32(spacing)).T)

    def strands(self, along: Field, across: Field, length: float, thickness: float) -> Field:
        """Draw noise out to strands of about `length` by `thickness` um in the curved frame (along, across), um."""
        lattice = _lattice(self.rng, 512, 256)
        positions = np.stack([across / np.float32(thickness), along / np.float32(length)])
        return np.asarray(map_coordinates(lattice, positions, order=1, mode="grid-wrap"), np.float32)

    def positions(self, pitch: float, jitter: float = 0.3) -> NDArray[np.float64]:
        """Scatter (n, 2) positions about `pitch` um apart all over the canvas, in random order."""
        width, height = self.extent
        columns, rows = ceil(width / pitch) + 1, ceil(height / (pitch * 0.866)) + 1
        row, column = (index.ravel() for index in np.mgrid[:rows, :columns])
        grid = np.stack([(column + 0.5 * (row % 2)) * pitch, row * pitch * 0.866], axis=1)
        grid = grid + self.rng.uniform(-jitter * pitch, jitter * pitch, grid.shape)
        return np.asarray(self.rng.permutation(grid))

    def value(self, values: NDArray[np.generic], x: float, y: float) -> float:
        """Return a field's value at a position; the nearest edge's outside the canvas."""
        row, col = (
            min(max(int(um / self.mpp), 0), side - 1) for um, side in ((y, self.size.height), (x, self.size.width))
        )
        return float(values[row, col])

    def patch(self, x: float, y: float, reach: float) -> Patch | None:
        """Return the window within `reach` um of a position, or None when it lies outside the canvas."""
        low = [max(0, int((um - reach) / self.mpp)) for um in (x, y)]
        high = [min(side, int((um + reach) / self.mpp) + 2) for um, side in zip((x, y), self.size, strict=True)]
        if low[0] >= high[0] or low[1] >= high[1]:
            return None
        across, down = self.axes
        at = (slice(low[1], high[1]), slice(low[0], high[0]))
        return Patch(at, across[:, at[1]] - np.float32(x), down[at[0]] - np.float32(y))

    def erase(self, at: tuple[slice, slice], share: Field) -> None:
        """Take away the share, 0 to 1, of both stains within a window."""
        self.hematoxylin[at] *= 1 - share
        self.eosin[at] *= 1 - share

    def lay(self, at: tuple[slice, slice], cover: Field, hematoxylin: Field, eosin: Field) -> None:
        """Cover what is there within a window, opaque where `cover` is 1."""
        self.hematoxylin[at] += cover * (hematoxylin - self.hematoxylin[at])
        self.eosin[at] += cover * (eosin - self.eosin[at])

    def stamp(self, nucleus: Nucleus) -> None:
        """Put a nucleus in its place: a dark membrane, clumped chromatin, less eosin."""
        patch = self.patch(nucleus.x, nucleus.y, nucleus.long * 1.3)
        if patch is None:
            return
        cos, sin = np.cos(nucleus.angle), np.sin(nucleus.angle)
        along = (patch.dx * cos + patch.dy * sin) / nucleus.long
        side = (patch.dy * cos - patch.dx * sin) / nucleus.short
        bend = 0.05 * np.sin(3 * np.arctan2(side, along) + 50 * nucleus.angle)
        reach = np.sqrt(along * along + side * side) * (1 + bend).astype(np.float32)
        soft = max(0.5, self.mpp) / nucleus.short
        cover = smooth_step(reach, 1 + soft / 2, 1 - soft / 2)
        membrane = np.exp(-(((reach - 0.85) / 0.18) ** 2))
        clumps = np.clip(0.86 + 0.22 * self.grain[patch.at], 0.5, 1.3) + 0.16 * membrane
        self.lay(patch.at, 0.94 * cover, nucleus.stain * clumps, np.full_like(cover, 0.34))


def smooth_step(value: Field, low: float, high: float) -> Field:
    """Return 0 at `low`, 1 at `high`, smooth between and constant beyond; `low` may be the larger one."""
    t = np.clip((value - np.float32(low)) / np.float32(high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def _lattice(rng: np.random.Generator, rows: int, cols: int) -> Field:
    white = rng.standard_normal((rows, cols), dtype=np.float32)
    return np.asarray(gaussian_filter(white, _SMOOTHING, mode="wrap") / np.float32(_LATTICE_SD), np.float32)


def _interpolate_rows(rows: Field, at: Field) -> Field:
    """Interpolate rows linearly at fractional indices: (n, m) at (k,) gives (k, m)."""
    low = np.minimum(at.astype(np.intp), rows.shape[0] - 2)
    share = (at - low).astype(np.float32)[:, None]
    between = rows[low + 1] - rows[low]
    between *= share
    between += rows[low]
    return np.asarray(between, np.float32)
