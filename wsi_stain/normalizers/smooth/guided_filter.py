"""The smooth part of a colour change: a guided filter, so that colour moves and detail stays the source's.

In every window the changed image is explained as an affine function of the source's three channels; what no such
function explains (invented or lost structure) drops out.

    q = A I + b,   A = (S + e 1)^-1 cov(I, p),   b = mean(p) - A mean(I)

with S the covariance of the source I over the window, p the changed image: He, Sun and Tang (2013), IEEE Trans.
Pattern Anal. Mach. Intell. 35, 1397-1409, equations 16 to 19. A and b are found on a grid four times coarser and
interpolated: He and Sun (2015), arXiv 1505.00996. Knows no slides or generator.

Shape legend: B batch, C channels (3), H rows, W columns; h, w the coarse grid.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

STEP = 4
"""Pixels of a cell of the coarse grid. Images are cut on its lines, so that the cells of two cuts agree."""


def reach(radius: int) -> int:
    """Return how far, px, a pixel of the result looks in each direction; a multiple of `STEP`."""
    return 2 * radius + 2 * STEP


def guided_filter(source_BCHW: Tensor, changed_BCHW: Tensor, radius: int, epsilon: float) -> Tensor:
    """Keep of a change what is locally affine in the source's colours.

    Args:
        source_BCHW: The guide, RGB, values 0 to 255; height and width are multiples of `STEP`.
        changed_BCHW: The same place with other colours, RGB, 0 to 255.
        radius: Half the side of the windows, px; a multiple of `STEP`.
        epsilon: Variance, in squared grey levels, below which a window counts as even: more is smoother.

    Returns:
        RGB, (B, 3, H, W). Pixels nearer to the edge than `reach` know less than the others.
    """
    cells = 2 * (radius // STEP) + 1

    def window_mean(values: Tensor) -> Tensor:
        for side, pad in (((cells, 1), (cells // 2, 0)), ((1, cells), (0, cells // 2))):
            values = functional.avg_pool2d(values, side, stride=1, padding=pad, count_include_pad=False)
        return values

    guide, target = (functional.avg_pool2d(image, STEP) for image in (source_BCHW, changed_BCHW))
    mean_I, mean_p = window_mean(guide), window_mean(target)
    spread = window_mean(_products(guide, guide)) - _products(mean_I, mean_I)
    shared = window_mean(_products(guide, target)) - _products(mean_I, mean_p)
    slope = _solve(spread, shared, epsilon)
    offset = mean_p - _apply_affine(slope, mean_I)
    size = source_BCHW.shape[-2:]
    slope, offset = (
        functional.interpolate(window_mean(part), size=size, mode="bilinear", align_corners=False)
        for part in (slope, offset)
    )
    return _apply_affine(slope, source_BCHW) + offset


def _products(a: Tensor, b: Tensor) -> Tensor:
    """Return (B, 9, h, w): each channel of `a` times each of `b`."""
    return torch.cat([a[:, channel : channel + 1] * b for channel in range(3)], dim=1)


def _apply_affine(slope: Tensor, image: Tensor) -> Tensor:
    """Return (B, 3, h, w): the image's channels, weighted by the slopes, (B, 9, h, w), of `_products`' order."""
    return _sum(image[:, c : c + 1] * slope[:, 3 * c : 3 * c + 3] for c in range(3))


def _solve(spread: Tensor, shared: Tensor, epsilon: float) -> Tensor:
    """Return (B, 9, h, w): (S + e 1)^-1 cov(I, p) by cofactors; S is symmetric."""
    rr, rg, rb, _, gg, gb, _, _, bb = spread.unbind(1)
    rr, gg, bb = rr + epsilon, gg + epsilon, bb + epsilon
    minors = [
        gg * bb - gb * gb,
        rb * gb - rg * bb,
        rg * gb - rb * gg,
        rr * bb - rb * rb,
        rg * rb - rr * gb,
        rr * gg - rg * rg,
    ]
    determinant = rr * minors[0] + rg * minors[1] + rb * minors[2]
    a, b, c, d, e, f = (minor / determinant for minor in minors)
    inverse = torch.stack([a, b, c, b, d, e, c, e, f], dim=1)
    rows = [
        _sum(inverse[:, 3 * i + j : 3 * i + j + 1] * shared[:, 3 * j : 3 * j + 3] for j in range(3)) for i in range(3)
    ]
    return torch.cat(rows, dim=1)


def _sum(parts: Iterable[Tensor]) -> Tensor:
    return reduce(torch.add, parts)
