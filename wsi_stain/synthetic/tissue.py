"""Plausible tissue with known truth: how much hematoxylin and eosin lies at every pixel. Knows no stains or files.

A mucosa as in a cartoon, from the bottom up: an irregular outline, wavy collagen with clefts, fat, capillaries, glands
of columnar or foamy epithelium around a pale lumen, lymphocytes in clusters, fibroblasts along the fibres.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.geometry import Size
from wsi_stain.synthetic.canvas import Canvas, Field, Nucleus, Patch, smooth_step

__all__ = ["render_tissue"]


@dataclass(frozen=True)
class _Ground:
    """Properties of the tissue at each pixel, (h, w) each.

    Attributes:
        inside: 1 in tissue, 0 on glass.
        across: um across the fibres; it grows at right angles to them.
        glandular: Above 0 where glands grow.
        lymphoid: Above 0 where lymphocytes gather.
        fatty: Above 0 where fat lies.
        foam: Noise whose zero lines are the walls of mucin droplets.
    """

    inside: Field
    across: Field
    glandular: Field
    lymphoid: Field
    fatty: Field
    foam: Field


class _Gland(NamedTuple):
    """Centre and mean radius, thickness of the epithelium, and half of the long nuclear axis; um. Foamy or columnar."""

    x: float
    y: float
    radius: float
    thickness: float
    foamy: bool
    waves: NDArray[np.float32]
    phases: NDArray[np.float32]

    def edge(self, angle: Field) -> Field:
        """Return the distance of the base from the centre in a direction, um."""
        ripple = sum(
            wave * np.cos(order * angle + phase)
            for order, (wave, phase) in enumerate(zip(self.waves, self.phases, strict=True), 2)
        )
        return np.asarray(self.radius * (1 + ripple), np.float32)


def render_tissue(size: Size, mpp: float, seed: int) -> NDArray[np.float32]:
    """Draw a piece of tissue.

    Args:
        size: Width and height, px.
        mpp: Resolution, um per px; sizes are in um, so half the resolution shows the same tissue in half the pixels.
        seed: What makes one tissue another.

    Returns:
        Concentrations of hematoxylin and eosin, (h, w, 2): 0 on glass, about 1 in a dark nucleus and in dense stroma.
    """
    canvas = Canvas(size, mpp, np.random.default_rng(seed))
    ground = _stroma(canvas)
    _fat(canvas, ground)
    nuclei = _capillaries(canvas, ground) + _glands(canvas, ground)
    for nucleus in [*nuclei, *_lymphocytes(canvas, ground), *_fibroblasts(canvas, ground)]:
        canvas.stamp(nucleus)
    amounts = np.stack([canvas.hematoxylin, canvas.eosin], axis=-1)
    amounts *= (ground.inside * (1 + 0.07 * canvas.noise(160)))[..., None]
    return np.asarray(np.clip(amounts, 0, 2), np.float32)


def _outline(canvas: Canvas) -> Field:
    """Measure how far inside the tissue a place is: 0 on its edge, positive inside, about 1 in the middle."""
    width, height = canvas.extent
    x, y = canvas.axes
    x, y = 2 * x / width - 1, 2 * y / height - 1
    round_off = 1 - (np.abs(x + 0.05 * y) / 0.88) ** 3 - (np.abs(y) / 0.87) ** 3
    ragged = 0.22 * canvas.noise(min(width, height) / 4) + 0.03 * canvas.noise(25) + 0.01 * canvas.noise(6)
    return np.asarray(round_off + ragged, np.float32)


def _stroma(canvas: Canvas) -> _Ground:
    """Draw collagen with clefts, dense or loose, on which all else is drawn."""
    depth = _outline(canvas)
    x, y = canvas.axes
    turn = canvas.rng.uniform(0, np.pi)
    across = y * np.cos(turn) - x * np.sin(turn) + 45 * canvas.noise(170) + 5 * canvas.noise(28)
    along = x * np.cos(turn) + y * np.sin(turn) + 20 * canvas.noise(90)
    across, along = across.astype(np.float32), along.astype(np.float32)
    fine, coarse = canvas.strands(along, across, 18, 1.1), canvas.strands(along, across, 50, 5)
    loose = canvas.noise(110)
    canvas.eosin[:] = 0.6 + 0.13 * fine + 0.16 * coarse - 0.14 * loose + 0.05 * canvas.grain
    np.clip(canvas.eosin, 0.1, 1.2, out=canvas.eosin)
    canvas.hematoxylin[:] = np.clip(0.1 + 0.025 * canvas.grain + 0.03 * loose, 0, None)
    clefts = smooth_step(coarse + 0.5 * fine + 0.6 * loose, 1.25, 1.6)
    canvas.erase((slice(None), slice(None)), 0.93 * clefts)
    near_edge = smooth_step(depth, 0.7, 0.0)
    glandular = canvas.noise(230) + 0.75 - 0.8 * near_edge
    inside = smooth_step(depth, 0, 0.012)
    return _Ground(
        inside, across, glandular, canvas.noise(130) - 0.75, canvas.noise(200) - 0.3 - glandular, canvas.noise(2.6)
    )


def _fits(canvas: Canvas, ground: _Ground, x: float, y: float) -> bool:
    width, height = canvas.extent
    if not (0 <= x < width and 0 <= y < height):
        return False
    return canvas.value(ground.inside, x, y) > 0.5 and not canvas.value(canvas.busy, x, y)


def _polar(patch: Patch) -> tuple[Field, Field]:
    """Return the distance in um and direction of a patch's pixels from its position."""
    return np.hypot(patch.dx, patch.dy), np.arctan2(patch.dy, patch.dx)


def _fat(canvas: Canvas, ground: _Ground) -> None:
    """Draw fat: holes with thin walls, side by side."""
    for x, y in canvas.positions(44, jitter=0.12):
        patch = canvas.patch(x, y, 26)
        if patch is None or not _fits(canvas, ground, x, y) or canvas.value(ground.fatty, x, y) < 0:
            continue
        distance, angle = _polar(patch)
        radius = canvas.rng.uniform(16, 22) * (1 + 0.08 * np.cos(2 * angle + canvas.rng.uniform(0, 6)))
        canvas.erase(patch.at, smooth_step(distance - radius, 0.5, -0.5))
        canvas.busy[patch.at] |= distance < radius + 3


def _capillaries(canvas: Canvas, ground: _Ground) -> list[Nucleus]:
    """Draw thin walls with flat nuclei around red cells, which are eosin and nothing else."""
    nuclei = []
    for x, y in canvas.positions(120):
        patch = canvas.patch(x, y, 20)
        if patch is None or not _fits(canvas, ground, x, y) or canvas.rng.random() < 0.5:
            continue
        distance, angle = _polar(patch)
        radius = canvas.rng.uniform(7, 13) * (1 + 0.2 * np.cos(2 * angle + canvas.rng.uniform(0, 6)))
        foam = ground.foam[patch.at]
        cells = np.asarray((foam > -0.5) * np.clip(1.15 - 0.5 * np.sqrt(np.abs(foam)), 0, None), np.float32)
        rim = np.exp(-(((distance - radius) / 0.9) ** 2))
        canvas.lay(patch.at, smooth_step(distance - radius, 0.5, -0.5), np.zeros_like(cells), cells)
        canvas.eosin[patch.at] += 0.25 * rim
        canvas.busy[patch.at] |= distance < radius + 2
        for turn in canvas.rng.uniform(0, 2 * np.pi, 3):
            out = float(np.mean(radius)) + 1.2
            spot = (x + out * np.cos(turn), y + out * np.sin(turn))
            nuclei.append(Nucleus(*spot, 4.2, 1.2, turn + np.pi / 2, 0.85))
    return nuclei


def _glands(canvas: Canvas, ground: _Ground) -> list[Nucleus]:
    nuclei = []
    for x, y in canvas.positions(86, jitter=0.1):
        if _fits(canvas, ground, x, y) and canvas.value(ground.glandular, x, y) > 0:
            gland = _shape(canvas.rng, x, y, foamy=canvas.rng.random() < 0.45)
            _epithelium(canvas, ground, gland)
            nuclei += _basal_nuclei(canvas.rng, gland)
    return nuclei


def _shape(rng: np.random.Generator, x: float, y: float, foamy: bool) -> _Gland:
    radius = rng.uniform(24, 42)
    waves = (rng.uniform(0.3, 1, 4) * (0.16, 0.06, 0.04, 0.02)).astype(np.float32)
    phases = rng.uniform(0, 2 * np.pi, 4).astype(np.float32)
    return _Gland(x, y, radius, min(radius * rng.uniform(0.6, 0.85), 26), foamy, waves, phases)


def _epithelium(canvas: Canvas, ground: _Ground, gland: _Gland) -> None:
    """Draw a ring of cells on a membrane: granular and bluish at its base, paler or foamy above, a lumen within."""
    patch = canvas.patch(gland.x, gland.y, gland.radius * 1.35 + 6)
    if patch is None:
        return
    distance, angle = _polar(patch)
    base = gland.edge(angle)
    depth = base - distance
    foam, grain = ground.foam[patch.at], canvas.grain[patch.at]
    height = gland.thickness + 1.5 * foam
    level = np.clip(depth / height, 0, 1)
    walls = np.exp(-((foam / 0.28) ** 2))
    sides = np.abs(np.sin(angle * round(gland.radius * 0.45))) < 0.05
    pale = smooth_step(level, 0.3, 0.6) * (0.72 * (1 - walls) if gland.foamy else np.float32(0.18))
    eosin = (0.58 + 0.07 * grain + 0.1 * sides) * (1 - pale)
    hematoxylin = (0.3 - 0.1 * level + 0.04 * grain) * (1 - 0.8 * pale)
    lumen = smooth_step(depth - height, -0.8, 0.8)
    eosin = eosin + 0.3 * np.exp(-(((depth - height + 1) / 0.9) ** 2)) - lumen * (eosin - 0.05 * walls)
    cover = smooth_step(depth, -0.6, 0.6)
    crowd = canvas.value(ground.lymphoid, gland.x, gland.y)
    gap = np.exp(-(((depth + 3.2) / 1.5) ** 2)) * smooth_step(crowd - foam, 0, 1)
    canvas.erase(patch.at, np.where(canvas.busy[patch.at], 0, gap).astype(np.float32))
    canvas.lay(patch.at, cover, np.asarray(hematoxylin * (1 - lumen), np.float32), np.asarray(eosin, np.float32))
    canvas.eosin[patch.at] += 0.22 * np.exp(-(((depth + 0.6) / 0.8) ** 2))
    canvas.busy[patch.at] |= depth > -3


def _basal_nuclei(rng: np.random.Generator, gland: _Gland) -> list[Nucleus]:
    """Make nuclei: upright ellipses in columnar glands; flat ones, pressed to the base, in foamy ones."""
    upright, sideways, height = (2.6, 4.2, 3.2) if gland.foamy else (4.6, 2.9, 6.6)
    count = int(2 * np.pi * gland.radius / (sideways * 2.5))
    nuclei = []
    for turn in 2 * np.pi * (np.arange(count) + rng.uniform(-0.2, 0.2, count)) / count:
        if rng.random() < 0.08:
            continue
        out = float(gland.edge(np.float32(turn) * np.ones(1, np.float32))[0]) - height - abs(rng.normal(0, 1.3))
        half = np.array([upright, sideways]) * rng.uniform(0.85, 1.15, 2)
        spot = (gland.x + out * np.cos(turn), gland.y + out * np.sin(turn))
        tilt = turn + rng.normal(0, 0.18) + (np.pi / 2 if gland.foamy else 0)
        nuclei.append(Nucleus(*spot, float(half.max()), float(half.min()), tilt, rng.uniform(0.72, 0.98)))
    return nuclei


def _lymphocytes(canvas: Canvas, ground: _Ground) -> list[Nucleus]:
    """Make nuclei small, round and dark: crowded where lymphoid, strayed elsewhere."""
    rng, nuclei = canvas.rng, []
    for x, y in canvas.positions(8.2, jitter=0.28):
        crowd = canvas.value(ground.lymphoid, x, y)
        if rng.random() < np.clip(0.9 * crowd + 0.35, 0.05, 0.92) and _fits(canvas, ground, x, y):
            radius = rng.uniform(2.5, 3.3)
            long, angle = radius * rng.uniform(1, 1.25), rng.uniform(0, np.pi)
            nuclei.append(Nucleus(x, y, long, radius, angle, rng.uniform(1, 1.2)))
    return nuclei


def _fibroblasts(canvas: Canvas, ground: _Ground) -> list[Nucleus]:
    """Make nuclei long and thin, along the fibres."""
    rng, nuclei = canvas.rng, []
    for x, y in canvas.positions(19, jitter=0.4):
        if rng.random() < 0.75 and _fits(canvas, ground, x, y):
            angle = _along_fibres(canvas, ground, x, y) + rng.normal(0, 0.15)
            nuclei.append(Nucleus(x, y, rng.uniform(4.5, 8), rng.uniform(1.1, 1.9), angle, rng.uniform(0.7, 1.05)))
    return nuclei


def _along_fibres(canvas: Canvas, ground: _Ground, x: float, y: float) -> float:
    """Return the direction of the fibres at a position, radians: at right angles to where `across` grows."""
    right, down = (
        canvas.value(ground.across, x + 2 * a, y + 2 * b) - canvas.value(ground.across, x - 2 * a, y - 2 * b)
        for a, b in ((1, 0), (0, 1))
    )
    return float(np.arctan2(down, right) + np.pi / 2)
