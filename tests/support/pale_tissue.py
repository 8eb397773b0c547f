"""Tissue that is easy to miss: fat, which is nearly all empty, and mucin, which is nearly all pale."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from scipy.spatial import cKDTree

from wsi_stain.core.geometry import Size
from wsi_stain.synthetic import LABORATORIES, render_tissue, stain_tissue
from wsi_stain.synthetic.canvas import Canvas, Field, smooth_step

MPP = 8.0
"""Resolution of the thumbnails made here, um per px."""

_FINE = 4
_SIZE = Size(800, 1000)


def render_fat(size: Size, mpp: float, seed: int) -> NDArray[np.float32]:
    """Fat cells of about 85 um, walls of 2 um between them; hematoxylin and eosin, (h, w, 2)."""
    canvas = Canvas(size, mpp, np.random.default_rng(seed))
    x, y = np.broadcast_arrays(*canvas.axes)
    near, _ = cKDTree(np.array(canvas.positions(85, jitter=0.25))).query(np.stack([x.ravel(), y.ravel()], 1), k=2)
    wall = np.exp(-((((near[:, 1] - near[:, 0]) / 2 / 1.2).reshape(x.shape)) ** 2)) * _oval(canvas)
    return np.stack([0.06 * wall, 0.75 * wall], axis=-1).astype(np.float32)


def render_mucin(size: Size, mpp: float, seed: int) -> NDArray[np.float32]:
    """A pale bluish lake with wisps; hematoxylin and eosin, (h, w, 2)."""
    canvas = Canvas(size, mpp, np.random.default_rng(seed))
    clouds, wisps = np.clip(canvas.noise(60) / 2 + 0.5, 0, 1), np.clip(canvas.noise(8), 0, None)
    inside = _oval(canvas)
    return np.stack([0.7 * (0.05 + 0.1 * clouds + 0.1 * wisps) * inside, 0.02 * inside], axis=-1).astype(np.float32)


RENDERERS: dict[str, Callable[[Size, float, int], NDArray[np.float32]]] = {
    "fat": render_fat,
    "mucin": render_mucin,
    "tissue": render_tissue,
}


@cache
def beside_tissue(kind: str, laboratory: str, strength: float = 1.0) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A thumbnail with well stained tissue on its left and another piece on its right.

    Args:
        kind: Of the other piece: fat, mucin, tissue.
        laboratory: Who stains and scans.
        strength: Of the other piece's stain.

    Returns:
        RGB, (h, w, 3), and where the other piece lies, (h, w).
    """
    mpp = MPP / _FINE
    pieces = [render_tissue(_SIZE, mpp, 1), RENDERERS[kind](_SIZE, mpp, 3)]
    amounts = np.concatenate([pieces[0], strength * pieces[1]], axis=1)
    truth = np.concatenate([np.zeros(pieces[0].shape[:2], bool), pieces[1].max(axis=2) > 0.02], axis=1)
    pixels = stain_tissue(amounts, LABORATORIES[laboratory])
    return np.rint(_blocks(pixels).mean(axis=(1, 3))).astype(np.uint8), _blocks(truth).any(axis=(1, 3))


def glass_beside(truth: NDArray[np.bool_], distance: int) -> NDArray[np.bool_]:
    """Where a thumbnail of `beside_tissue` shows glass around the other piece, `distance` px away from it."""
    glass = ~binary_dilation(truth, iterations=distance)
    glass[:, : truth.shape[1] // 2] = False
    return np.asarray(glass)


def _blocks(values: NDArray[np.generic]) -> NDArray[np.generic]:
    height, width = (side // _FINE for side in values.shape[:2])
    return values.reshape(height, _FINE, width, _FINE, *values.shape[2:])


def _oval(canvas: Canvas) -> Field:
    x, y = canvas.axes
    (width, height), ragged = canvas.extent, 0.1 * canvas.noise(300)
    inside = 1 - ((2 * x / width - 1) / 0.8) ** 2 - ((2 * y / height - 1) / 0.8) ** 2
    return smooth_step((inside + ragged).astype(np.float32), 0, 0.02)
