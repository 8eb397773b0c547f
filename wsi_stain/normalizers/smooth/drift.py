"""Slow drift of a generator's colours, held to the slide's colour table.

A generator that reads the stain from the tissue around each pixel is pulled to the reference's usual shade there: what
is really paler comes out as dark as the rest. The slide's table averages that over the slide. So what the generator and
the table differ by around a pixel, on average over tissue, is taken back; what differs from pixel to pixel stays.

    q = g + w(I) mean(w(I) (t(I) - g)) / mean(w(I))

with I the source, g the generated image, t the table, and w how surely a pixel is tissue, so that glass stays glass.
Means are over squares, twice. Knows no slides or generator.

Shape legend: B batch, C channels (3), H rows, W columns; h, w the coarse grid.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

STEP = 4
"""Pixels of a cell of the coarse grid. Images are cut on its lines, so that the cells of two cuts agree."""

_TISSUE = 0.2
"""Share of the glass's light that a pixel takes up, in the channel where it takes up most, to be tissue for sure."""

_LEAST = 1e-3


def reach(radius: int) -> int:
    """Return how far, px, a pixel of the result looks in each direction; a multiple of `STEP`."""
    return 2 * radius + 2 * STEP


def hold_to_table(source_BCHW: Tensor, generated_BCHW: Tensor, table: Tensor, white: Tensor, radius: int) -> Tensor:
    """Bring the mean colour around each pixel of tissue to what the slide's table makes of it.

    Args:
        source_BCHW: The slide, RGB, values 0 to 255; height and width are multiples of `STEP`.
        generated_BCHW: What the generator made of it, RGB, 0 to 255.
        table: The slide's table, (N, N, N, 3), see `stain.colour_table`; on the same device.
        white: The slide's glass, RGB, (3,).
        radius: Half the side of the squares, px; a multiple of `STEP`.

    Returns:
        RGB, (B, 3, H, W), not cut to 0 to 255. Pixels nearer to the edge than `reach` know less than the others.
    """
    source_BChw, generated_BChw = (functional.avg_pool2d(image, STEP) for image in (source_BCHW, generated_BCHW))
    tissue_B1hw = _tissue(source_BChw, white)
    off_BChw = (look_up(table, source_BChw) - generated_BChw) * tissue_B1hw
    sums_B4hw = _mean_around(torch.cat([off_BChw, tissue_B1hw], dim=1), radius)
    mean_BChw = sums_B4hw[:, :3] / sums_B4hw[:, 3:].clamp(min=_LEAST)
    size = source_BCHW.shape[-2:]
    drift_BCHW = functional.interpolate(mean_BChw, size=size, mode="bilinear", align_corners=False)
    return drift_BCHW.mul_(_tissue(source_BCHW, white)).add_(generated_BCHW)


def look_up(table: Tensor, colours_BChw: Tensor) -> Tensor:
    """Look colours, 0 to 255, up in a table, trilinearly: (B, 3, h, w)."""
    volume_CRGB = table.permute(3, 0, 1, 2)
    blue_first_B1hwC = (colours_BChw / 127.5 - 1).flip(1).permute(0, 2, 3, 1)[:, None]  # as grid_sample wants its axes
    volumes = volume_CRGB.expand(len(colours_BChw), *volume_CRGB.shape)
    return functional.grid_sample(volumes, blue_first_B1hwC, padding_mode="border", align_corners=True)[:, :, 0]


def _tissue(source_BCHW: Tensor, white: Tensor) -> Tensor:
    """Return how surely each pixel is tissue, 0 to 1: (B, 1, H, W)."""
    light_B1HW = (source_BCHW / white[:, None, None]).amin(dim=1, keepdim=True)
    return ((1 - light_B1HW) / _TISSUE).clamp_(0, 1)


def _mean_around(values_BChw: Tensor, radius: int) -> Tensor:
    """Average over squares of the coarse grid, twice."""
    cells = radius // STEP
    for side, pad in 2 * (((2 * cells + 1, 1), (cells, 0)), ((1, 2 * cells + 1), (0, cells))):
        values_BChw = functional.avg_pool2d(values_BChw, side, 1, pad, count_include_pad=False)
    return values_BChw
