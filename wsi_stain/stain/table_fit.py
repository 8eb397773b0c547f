"""The fit of a slide's 3-D colour table to pairs of colours. Knows no slides or generator.

The fit has two parts. A base map multiplies optical density (OD) by a 3x3 matrix, as a change of stain does
(Beer-Lambert); it takes white to white and is defined for every colour. What it leaves is a smooth correction on the
table's grid, found by regularised least squares: it bends only where colours were seen and fades away from them, so
that colours never seen (ink, blood) follow the base map.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, cg

from wsi_stain.core.arrays import Rgb
from wsi_stain.stain.colour_bins import ColourPairs, Colours
from wsi_stain.stain.colour_table import Table, look_up, trilinear_weights
from wsi_stain.stain.vectors import LUMINANCE

_LUMINANCE = np.asarray(LUMINANCE)
"""What must not fall along the gray axis."""

_BASE_RIDGE = 0.01
_PIN_WEIGHT = 1e3
_FADE = 1e-3
_MENDINGS = 4
_LEAST_RISE = 0.1
_ROUNDING = 0.5
_SHARES = 101


def fit_table(pairs: ColourPairs, white: Rgb, target_white: Rgb, size: int = 17, smoothness: float = 0.1) -> Table:
    """Fit the table that takes the source's colours to the target's.

    A bin counts for its pixels up to the mean over occupied bins, so that the slide's commonest colours do not decide
    alone. The luminance does not fall along the gray axis, but for a rounding: where the fit would, it is bent back.

    Args:
        pairs: What was seen; may be empty, which gives the plain change of white.
        white: The source's glass, RGB 0..255.
        target_white: What the glass becomes.
        size: N, entries along each side of the table.
        smoothness: Weight of the correction's squared second differences against one fully counted bin, for N = 17;
            for other N it is scaled to mean the same.

    Returns:
        (N, N, N, 3) in 0..255; `white` falls on `target_white` within a rounding.
    """
    source, target, count = pairs.means()
    weight = np.minimum(count, count.mean()) / count.mean() if len(count) else count
    nodes = _node_colours(size)
    base = _base_map(source, target, weight, white, target_white, nodes)
    # Full scale is pinned beside white, or noise above white would bend the table down there.
    weights = trilinear_weights(np.vstack([source, white, (255, 255, 255)]), size)
    targets = np.vstack([target, target_white, base[-1]])
    fit = _LeastSquares(size, smoothness)
    fit.add(weights, np.append(weight, [_PIN_WEIGHT] * 2), targets - weights @ base)
    table = _pin_white(base + _solve_rising(fit, base), white, target_white)
    return _mix_until_rising(table, white, target_white).reshape(size, size, size, 3).astype(np.float32)


def chain_tables(first: Table, second: Table, white: Rgb, target_white: Rgb) -> Table:
    """Return one table, of the first's size, for two that follow each other.

    It is exact at the entries; between them the second counts as straight. As a fitted table, it takes the source's
    glass to what it becomes, and its luminance does not fall along the gray axis.

    Args:
        first: (N, N, N, 3), of the source's colours.
        second: (M, M, M, 3), of those that the first gives.
        white: The source's glass, RGB 0..255.
        target_white: What the glass becomes.
    """
    both = _pin_white(look_up(second, first.reshape(-1, 3)), white, target_white)
    return _mix_until_rising(both, white, target_white).reshape(first.shape).astype(np.float32)


def _base_map(
    source: Colours, target: Colours, weight: Colours, white: Rgb, target_white: Rgb, nodes: Colours
) -> Colours:
    """Map the nodes by OD -> OD @ matrix.T, the matrix ridge-fitted towards 1 and grays kept in order."""
    density, wanted_density = _optical_density(source, white), _optical_density(target, target_white)
    gram = (density.T * weight) @ density
    cross = (wanted_density.T * weight) @ density
    ridge = _BASE_RIDGE * max(float(np.trace(gram)), 1e-9)
    matrix = _ridge_matrix(gram, cross, ridge)
    while (matrix.sum(axis=1) <= 0).any():
        ridge *= 4
        matrix = _ridge_matrix(gram, cross, ridge)
    density_out: Colours = np.maximum(_optical_density(nodes, white) @ matrix.T, _OVER_WHITE)
    return np.asarray(np.clip(np.asarray(target_white) * np.exp(-density_out), 0, 255), np.float64)


_OVER_WHITE = float(-np.log(2.0))
"""A colour may come out at most twice as bright as white before it is clipped."""


def _ridge_matrix(gram: Colours, cross: Colours, ridge: float) -> Colours:
    one = ridge * np.eye(3)
    return np.asarray(np.linalg.solve(gram + one, (cross + one).T).T, np.float64)


def _optical_density(colours: Colours, white: Rgb) -> Colours:
    """Compute optical density relative to white (natural logarithm); 0 counts as 1; brighter than white is negative."""
    return np.asarray(-np.log(np.maximum(colours, 1.0) / np.maximum(np.asarray(white), 1.0)), np.float64)


class _LeastSquares:
    """Weighted equations in the values at the table's nodes, a penalty on second differences, and a pull to nothing."""

    def __init__(self, size: int, smoothness: float) -> None:
        bend = _second_differences(size)
        self._normal = smoothness * (size - 1) / 16 * (bend.T @ bend) + _FADE * sparse.eye_array(size**3)
        self._right = np.zeros((size**3, 3))
        self._solution = np.zeros((size**3, 3))

    def add(self, rows: sparse.csr_array, weight: Colours, targets: Colours) -> None:
        """Ask for rows @ x = targets, (M, size^3) and (M, 3), with weights (M,)."""
        counted = rows.T @ sparse.diags_array(weight)
        self._normal = self._normal + counted @ rows
        self._right = self._right + counted @ targets

    def solve(self) -> Colours:
        """Solve for the values, (size^3, 3); each call begins from the last one's."""
        normal = self._normal.tocsr()
        scales = 1.0 / normal.diagonal()
        scale = LinearOperator(normal.shape, lambda values: scales * values)  # twice as fast as a sparse diagonal
        for column, start in enumerate(self._solution.T):
            right = self._right[:, column]
            self._solution[:, column] = cg(normal, right, x0=start, rtol=1e-6, maxiter=3000, M=scale)[0]
        return self._solution.copy()


def _solve_rising(fit: _LeastSquares, base: Colours) -> Colours:
    """Solve; where the luminance falls along the gray axis, ask for a small rise there and solve again."""
    steps = _gray_steps(round(len(base) ** (1 / 3)))
    solution = fit.solve()
    for _mending in range(_MENDINGS):
        rise = steps @ np.clip(base + solution, 0, 255)
        falling = np.flatnonzero(rise @ _LUMINANCE < 0)
        if not len(falling):
            break
        target = np.maximum(rise[falling], _LEAST_RISE)
        fit.add(steps[falling], np.full(len(target), _PIN_WEIGHT), target - steps[falling] @ base)
        solution = fit.solve()
    return solution


def _mix_until_rising(table: Colours, white: Rgb, target_white: Rgb) -> Colours:
    """Mix the table with the plain change of white, as little as it takes for the gray axis to rise."""
    size = round(len(table) ** (1 / 3))
    steps = _gray_steps(size)
    plain = np.clip(_node_colours(size) * (np.asarray(target_white) / np.maximum(np.asarray(white), 1.0)), 0, 255)
    plain = _pin_white(plain, white, target_white)
    for share in np.linspace(0, 1, _SHARES):
        mixed = (1 - share) * table + share * plain
        luminance = np.cumsum(steps @ mixed @ _LUMINANCE)
        if (luminance >= np.maximum.accumulate(luminance) - _ROUNDING).all():
            break
    return np.asarray(mixed)


def _node_colours(size: int) -> Colours:
    """Return the colour each entry of a table stands for, (size^3, 3)."""
    return np.stack(np.meshgrid(*[np.linspace(0, 255, size)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)


def _gray_steps(size: int) -> sparse.csr_array:
    """Make rows that give a table's rise along the gray axis in steps of 3 grey levels: (85, size^3)."""
    gray = np.repeat(np.linspace(0, 255, 86)[:, None], 3, axis=1)
    weights = trilinear_weights(gray, size)
    return sparse.csr_array(weights[1:] - weights[:-1])


def _second_differences(size: int) -> sparse.csr_array:
    """Make second differences along red, green and blue, stacked: (3 (size - 2) size^2, size^3)."""
    line = sparse.diags_array([1.0, -2.0, 1.0], offsets=[0, 1, 2], shape=(size - 2, size))
    one = sparse.eye_array(size)
    axes = [(line, one, one), (one, line, one), (one, one, line)]
    return sparse.csr_array(sparse.vstack([sparse.kron(sparse.kron(a, b), c) for a, b, c in axes]))


def _pin_white(table: Colours, white: Rgb, target_white: Rgb) -> Colours:
    """Clip the table, and move its 8 nodes around white, least in squares, so that white falls on the target's."""
    size = round(len(table) ** (1 / 3))
    weights = trilinear_weights(np.asarray(white, np.float64)[None], size).toarray().T  # (size^3, 1)
    table = np.clip(table, 0, 255)
    for _full in range(8):  # a node that is full cannot move, the others move more
        missing = np.asarray(target_white) - (weights * table).sum(axis=0)
        free = weights * np.where(missing > 0, table < 255, table > 0)
        table = np.clip(table + free * missing / np.maximum((free**2).sum(axis=0), 1e-12), 0, 255)
    return table
