"""Plausible tissue with known truth: how much hematoxylin and eosin lies at every pixel. Knows no stains and no files.

What is drawn, from the glass up: an irregular outline, wavy collagen with clefts, pale mucin, fat, glands with a lumen,
lymphocytes in clusters and fibroblasts along the fibres. Lengths are in um and fields in pixels, (h, w); positions are
(row, column).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from wsi_stain.geometry import Size

__all__ = ["render_tissue"]

Field = NDArray[np.float32]
Window = tuple[slice, slice]

_COARSE_SIGMA = 2.0
_STROMA_NUCLEUS_UM2 = 420.0
_GLAND_UM2 = 26_000.0
_CLUSTER_UM2 = 90_000.0
_FAT_UM2 = 150_000.0


@dataclass(frozen=True)
class _Nucleus:
    """An ellipse at (row, col), px: half axes in um, direction of the longer one in radians, hematoxylin, texture."""

    row: float
    col: float
    long_um: float
    short_um: float
    angle: float
    stain: float
    texture: float


@dataclass
class _Scene:
    """What has been drawn so far: concentrations, where tissue is, and where nothing more may be placed."""

    mpp: float
    rng: np.random.Generator
    hematoxylin: Field
    eosin: Field
    tissue: Field
    taken: NDArray[np.bool_]
    chromatin: Field
    fibres: Field

    @property
    def shape(self) -> tuple[int, int]:
        height, width = self.tissue.shape
        return height, width

    @property
    def tissue_um2(self) -> float:
        return float(self.tissue[::4, ::4].sum()) * 16 * self.mpp**2


def render_tissue(size: Size, mpp: float, seed: int) -> NDArray[np.float32]:
    """Draw a piece of tissue.

    Args:
        size: Width and height, px.
        mpp: Resolution, um per px; the same tissue is drawn in its size in um.
        seed: What makes one tissue another.

    Returns:
        Concentrations of hematoxylin and eosin, (h, w, 2): 0 on glass, about 1 in a nucleus and in dense stroma.
    """
    rng = np.random.default_rng(seed)
    scene = _stroma(size, mpp, rng)
    _fat(scene)
    nuclei = [*_glands(scene), *_clusters(scene), *_fibroblasts(scene)]
    for nucleus in nuclei:
        _stamp(scene, nucleus)
    out = np.stack([scene.hematoxylin, scene.eosin], axis=-1)
    out *= scene.tissue[..., None]
    return np.clip(out, 0, None)


def _noise(shape: tuple[int, int], sigma: float, rng: np.random.Generator) -> Field:
    """Smooth noise of mean 0 and deviation about 1, made at a resolution where `sigma` px is a few."""
    factor = max(1.0, sigma / _COARSE_SIGMA)
    rows, cols = (int(np.ceil(length / factor)) + 4 for length in shape)
    coarse = rng.standard_normal((rows, cols), dtype=np.float32)
    smooth = gaussian_filter(coarse, sigma / factor, mode="wrap")
    smooth /= max(float(smooth.std()), 1e-6)
    if factor == 1.0:
        return smooth[: shape[0], : shape[1]]
    box = (2.0, 2.0, 2.0 + shape[1] / factor, 2.0 + shape[0] / factor)
    image = Image.fromarray(smooth).resize((shape[1], shape[0]), Image.Resampling.BICUBIC, box=box)
    return np.asarray(image, np.float32)


def _step(value: Field, low: float, high: float) -> Field:
    """0 below `low`, 1 above `high`, smooth between; falling where `low` > `high`."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def _outline(size: Size, mpp: float, rng: np.random.Generator) -> Field:
    """(h, w): 1 in the tissue, 0 on glass; one piece, or on a large slide sometimes two."""
    rows = np.linspace(-1, 1, size.height, dtype=np.float32)[:, None]
    cols = np.linspace(-1, 1, size.width, dtype=np.float32)[None, :]
    extent = min(size) * mpp
    wobble = 0.17 * _noise((size.height, size.width), extent / mpp / 7, rng)
    wobble += 0.02 * _noise((size.height, size.width), 9 / mpp, rng)
    turn = rng.uniform(-0.5, 0.5)
    x, y = cols * np.cos(turn) + rows * np.sin(turn), rows * np.cos(turn) - cols * np.sin(turn)
    inside = 1 - (np.abs(x) / 0.9) ** 2.6 - (np.abs(y) / 0.86) ** 2.6 + wobble
    if extent > 400 and rng.random() < 0.6:
        inside = np.minimum(inside, np.abs(x - rng.uniform(-0.3, 0.3) + 0.3 * wobble) * 4 - 0.25)
    return _step(np.asarray(inside, np.float32), 0.0, 0.02)


def _stroma(size: Size, mpp: float, rng: np.random.Generator) -> _Scene:
    """Tissue of nothing but wavy collagen with clefts and pale, loose places."""
    shape = (size.height, size.width)
    tissue = _outline(size, mpp, rng)
    fibres = 9 * _noise(shape, 70 / mpp, rng) + 0.9 * _noise(shape, 9 / mpp, rng)
    bundles = 0.5 + 0.5 * np.sin(2 * np.pi * fibres)
    fine = 0.5 + 0.5 * np.sin(2 * np.pi * (2.7 * fibres + 0.3 * _noise(shape, 2 / mpp, rng)))
    density = _noise(shape, 40 / mpp, rng)
    grain = _noise(shape, 0.6 / mpp, rng)
    eosin = 0.62 + 0.1 * density + 0.2 * bundles + 0.1 * fine + 0.04 * grain
    eosin *= 1 - 0.9 * _step(bundles - 0.25 * density + 0.2 * _noise(shape, 6 / mpp, rng), 0.12, -0.15)
    mucin = _step(_noise(shape, 45 / mpp, rng), 1.2, 1.9)
    eosin = np.clip(eosin * (1 - 0.6 * mucin), 0.02, None).astype(np.float32)
    hematoxylin = np.clip(0.07 + 0.02 * grain + 0.12 * mucin, 0, None).astype(np.float32)
    chromatin = _noise(shape, 0.45 / mpp, rng)
    taken = tissue < 0.5
    return _Scene(mpp, rng, hematoxylin, eosin, tissue, taken, chromatin, np.asarray(fibres, np.float32))


def _places(scene: _Scene, count: int, margin_um: float) -> Iterator[tuple[float, float]]:
    """Up to `count` random places, px, whose surroundings are free when they are asked for."""
    height, width = scene.shape
    for _ in range(8 * count):
        row, col = scene.rng.uniform(0, height), scene.rng.uniform(0, width)
        reach = margin_um / scene.mpp
        ring = [(row + reach * np.sin(t), col + reach * np.cos(t)) for t in np.linspace(0, 2 * np.pi, 12)]
        if all(_free(scene, *place) for place in [(row, col), *ring]):
            count -= 1
            yield row, col
            if count <= 0:
                return


def _free(scene: _Scene, row: float, col: float) -> bool:
    height, width = scene.shape
    inside = 0 <= row < height and 0 <= col < width
    return inside and not scene.taken[int(row), int(col)]


def _window(scene: _Scene, row: float, col: float, reach_um: float) -> Window:
    height, width = scene.shape
    reach = reach_um / scene.mpp + 2
    rows = slice(max(0, int(row - reach)), min(height, int(row + reach) + 1))
    return rows, slice(max(0, int(col - reach)), min(width, int(col + reach) + 1))


def _offsets(scene: _Scene, window: Window, row: float, col: float) -> tuple[Field, Field]:
    """Distances in um from (row, col) along rows, (n, 1), and along columns, (1, m)."""
    rows, cols = window
    dy = (np.arange(rows.start, rows.stop, dtype=np.float32) - row) * scene.mpp
    dx = (np.arange(cols.start, cols.stop, dtype=np.float32) - col) * scene.mpp
    return dy[:, None].astype(np.float32), dx[None, :].astype(np.float32)


def _count(scene: _Scene, area_um2: float) -> int:
    return max(1, round(scene.tissue_um2 / area_um2))


def _fat(scene: _Scene) -> None:
    """Clusters of vacuoles: white holes with thin walls."""
    clusters = list(_places(scene, _count(scene, _FAT_UM2), 30)) if scene.tissue_um2 > _FAT_UM2 / 2 else []
    for row, col in clusters:
        for _ in range(int(scene.rng.integers(5, 16))):
            radius = scene.rng.uniform(11, 26)
            spread = 45 / scene.mpp
            y, x = row + scene.rng.normal(0, spread), col + scene.rng.normal(0, spread)
            if _free(scene, y, x):
                _vacuole(scene, y, x, radius)


def _vacuole(scene: _Scene, row: float, col: float, radius_um: float) -> None:
    window = _window(scene, row, col, radius_um * 1.2)
    dy, dx = _offsets(scene, window, row, col)
    theta = np.arctan2(dy, dx)
    first, second = scene.rng.uniform(0, 2 * np.pi, 2)
    edge = radius_um * (1 + 0.06 * np.cos(2 * theta + first) + 0.03 * np.cos(3 * theta + second))
    hole = _step(np.hypot(dy, dx) - edge, 0.4, -0.4)
    hole[scene.taken[window]] = 0
    scene.eosin[window] *= 1 - hole
    scene.hematoxylin[window] *= 1 - hole
    scene.taken[window] |= np.hypot(dy, dx) < edge + 2


def _glands(scene: _Scene) -> list[_Nucleus]:
    nuclei: list[_Nucleus] = []
    wanted = _count(scene, _GLAND_UM2)
    for radius in np.sort(scene.rng.uniform(28, 58, wanted))[::-1]:
        for row, col in _places(scene, 1, radius * 1.15):
            nuclei += _gland(scene, row, col, float(radius))
    return nuclei


def _gland(scene: _Scene, row: float, col: float, radius_um: float) -> list[_Nucleus]:
    """Columnar epithelium around a pale lumen; returns its nuclei, which lie near the base."""
    rng = scene.rng
    phases, sizes = rng.uniform(0, 2 * np.pi, 4), rng.uniform(0.02, 0.09, 4) / np.array([1, 1, 1.5, 2])
    waves = np.arange(2, 6)

    def edge(theta: Field) -> Field:
        return radius_um * (1 + (sizes * np.cos(theta[..., None] * waves + phases)).sum(-1))

    height_um = float(np.clip(rng.uniform(17, 26), 0, radius_um * 0.7))
    window = _window(scene, row, col, radius_um * 1.3)
    dy, dx = _offsets(scene, window, row, col)
    theta = np.arctan2(dy, dx)
    depth = np.asarray(edge(theta) - np.hypot(dy, dx), np.float32)  # um from the base towards the lumen
    mucinous = rng.random() < 0.4
    _epithelium(scene, window, depth, theta * radius_um, height_um, mucinous)
    scene.taken[window] |= depth > -5
    return _gland_nuclei(scene, row, col, edge, height_um)


def _epithelium(
    scene: _Scene, window: Window, depth: Field, along_um: Field, height_um: float, mucinous: bool
) -> None:
    rng = scene.rng
    ragged = height_um + 1.3 * np.cos(along_um * (2 * np.pi / 7.5)) + 0.8 * scene.chromatin[window]
    apical = depth / height_um
    cell = _step(depth, -0.5, 0.5)
    borders = np.cos(along_um * (np.pi / 6.8) + rng.uniform(0, np.pi)) ** 2
    borders = _step(np.asarray(borders, np.float32), 0.93, 1.0)
    pale = _step(np.asarray(apical, np.float32), 0.45, 0.75) * (0.75 if mucinous else 0.25)
    eosin = (0.55 + 0.05 * scene.chromatin[window] + 0.15 * borders) * (1 - pale * (1 - 0.5 * borders))
    hematoxylin = 0.2 + 0.03 * scene.chromatin[window] - 0.1 * pale
    lumen = _step(np.asarray(depth - ragged, np.float32), -0.8, 0.8)
    brush = np.exp(-(((depth - ragged + 0.8) / 0.8) ** 2))
    secretion = 0.1 * _step(scene.fibres[window] % 1.0, 0.3, 0.9)
    eosin = (eosin + 0.25 * brush) * (1 - lumen) + secretion * lumen
    hematoxylin = hematoxylin * (1 - lumen) + 0.2 * secretion * lumen
    membrane = 0.3 * np.exp(-(((depth + 0.7) / 0.7) ** 2))
    scene.eosin[window] = scene.eosin[window] * (1 - cell) + eosin * cell + membrane
    scene.hematoxylin[window] = scene.hematoxylin[window] * (1 - cell) + hematoxylin * cell


def _gland_nuclei(scene, row, col, edge, height_um):  # type: ignore[no-untyped-def]
    rng = scene.rng
    mean_radius = float(edge(np.zeros(1, np.float32))[0])
    count = int(2 * np.pi * mean_radius / 6.4)
    nuclei = []
    for theta in np.linspace(0, 2 * np.pi, count, endpoint=False) + rng.normal(0, 0.15 / count, count):
        distance = float(edge(np.array([theta]))[0]) - height_um * rng.uniform(0.26, 0.42)
        y, x = row + distance * np.sin(theta) / scene.mpp, col + distance * np.cos(theta) / scene.mpp
        stain, angle = rng.uniform(0.75, 1.0), theta + rng.normal(0, 0.15)
        nuclei.append(_Nucleus(y, x, rng.uniform(4.0, 5.2), rng.uniform(2.6, 3.2), angle, stain, 0.13))
    return nuclei


def _clusters(scene: _Scene) -> list[_Nucleus]:
    """Lymphocytes: small, round and dark, many around a place and some strayed."""
    rng, nuclei = scene.rng, []
    for row, col in list(_places(scene, _count(scene, _CLUSTER_UM2), 12)):
        spread = rng.uniform(14, 34, 2) / scene.mpp
        for _ in range(int(rng.integers(40, 130))):
            y, x = row + rng.normal(0, spread[0]), col + rng.normal(0, spread[1])
            if _free(scene, y, x):
                radius = rng.uniform(2.6, 3.3)
                nuclei.append(_Nucleus(y, x, radius * 1.06, radius, rng.uniform(0, np.pi), rng.uniform(1.05, 1.3), 0.2))
    return nuclei


def _fibroblasts(scene: _Scene) -> list[_Nucleus]:
    """Long thin nuclei that lie along the fibres, and a few strayed round ones."""
    rng, nuclei = scene.rng, []
    for row, col in _places(scene, _count(scene, _STROMA_NUCLEUS_UM2), 0):
        angle = _along_fibres(scene, row, col) + rng.normal(0, 0.2)
        if rng.random() < 0.72:
            nuclei.append(_Nucleus(row, col, rng.uniform(4.5, 8), rng.uniform(1.1, 1.9), angle, rng.uniform(0.7, 1.1), 0.12))
        else:
            nuclei.append(_Nucleus(row, col, rng.uniform(3, 4), rng.uniform(2.5, 3.2), angle, rng.uniform(0.7, 1.1), 0.18))
    return nuclei


def _along_fibres(scene: _Scene, row: float, col: float) -> float:
    height, width = scene.shape
    y, x = min(max(int(row), 2), height - 3), min(max(int(col), 2), width - 3)
    down = scene.fibres[y + 2, x] - scene.fibres[y - 2, x]
    right = scene.fibres[y, x + 2] - scene.fibres[y, x - 2]
    return float(np.arctan2(down, right) + np.pi / 2)


def _stamp(scene: _Scene, nucleus: _Nucleus) -> None:
    """Put a nucleus on top: a darker rim, chromatin within, and less eosin."""
    window = _window(scene, nucleus.row, nucleus.col, nucleus.long_um)
    dy, dx = _offsets(scene, window, nucleus.row, nucleus.col)
    cos, sin = np.cos(nucleus.angle), np.sin(nucleus.angle)
    along, across = (dx * cos + dy * sin) / nucleus.long_um, (dy * cos - dx * sin) / nucleus.short_um
    rho = np.sqrt(along * along + across * across)
    soft = 0.35 / nucleus.short_um
    body = _step(np.asarray(rho, np.float32), 1 + soft, 1 - soft)
    rim = np.exp(-(((rho - 0.88) / 0.14) ** 2))
    stain = nucleus.stain * (0.85 + 0.2 * rim + nucleus.texture * scene.chromatin[window])
    scene.hematoxylin[window] = np.maximum(scene.hematoxylin[window], body * stain)
    scene.eosin[window] *= 1 - 0.45 * body
