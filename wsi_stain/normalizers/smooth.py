"""What is smooth in a change of colour: filters that a generator's passes go through. Knows no slides.

    guided_filter   keeps the smooth part of a change, so that colour moves and detail stays the source's
    hold_to_table   holds the slow drift and the finest detail of generated colours to the slide's colour table

In every window of the guided filter the changed image is explained as an affine function of the source's three
channels; what no such function explains (invented or lost structure) drops out.

    q = A I + b,   A = (S + e 1)^-1 cov(I, p),   b = mean(p) - A mean(I)

with S the covariance of the source I over the window, p the changed image: He, Sun and Tang (2013), IEEE Trans.
Pattern Anal. Mach. Intell. 35, 1397-1409, equations 16 to 19. A and b are found on a grid four times coarser and
interpolated: He and Sun (2015), arXiv 1505.00996.

A generator that reads the stain from the tissue around each pixel is pulled to the reference's usual shade there: what
is really paler comes out as dark as the rest. The slide's table averages that over the slide. So what the generator and
the table differ by around a pixel, on average over tissue, is taken back. And what is generated is softer than the
slide: detail finer than a cell of the coarse grid is the table's, which has the slide's own. What stays is what the
generator knows of nuclei and fibres that their colours do not tell.

    d = g - t(I),   q = t(I) + d - w mean(w d) / mean(w)

with g the generated image, t the table, and w how surely a cell is tissue, so that glass stays glass. d and w are means
over cells, what is added to t(I) is interpolated from them; means are over squares, twice.

Shape legend: B batch, C channels (3), H rows, W columns; h, w the coarse grid.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

from wsi_stain.pix2pix.resample import add_enlarged, mean_of_cells, round_pixels
from wsi_stain.stain.colour_table import apply_table

STEP = 4
"""Pixels of a cell of the coarse grid. Images are cut on its lines, so that the cells of two cuts agree."""

_TISSUE = 0.2
"""Share of the glass's light that a pixel takes up, in the channel where it takes up most, to be tissue for sure."""

_LEAST = 1e-3


def reach(radius: int) -> int:
    """Return how far, px, a result looks beyond its edges, which lie on the grid's lines; a multiple of `STEP`."""
    return 2 * radius + STEP


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
    cells = _cells_across(radius)

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


def hold_to_table(
    source_BHWC: Tensor, generated_BHWC: Tensor, table_BHWC: Tensor, white: Tensor, radius: int
) -> Tensor:
    """Bring the mean colour around each pixel of tissue, and the finest detail, to what the slide's table makes of it.

    Args:
        source_BHWC: The slide, RGB, values 0 to 255, with pixels of its own or the generator's size.
        generated_BHWC: What the generator made of it, RGB, 0 to 255; its pixels may be as wide as 2 or 4 of the
            slide's.
        table_BHWC: What the slide's table makes of it, see `look_up_pixels`; height and width are multiples of `STEP`.
        white: The slide's glass, RGB, (3,).
        radius: Half the side of the squares, px; a multiple of `STEP`.

    Returns:
        RGB, (B, H - 2 reach, W - 2 reach, 3) uint8.
    """
    source_BChw, generated_BChw, made_BChw = (  # by planes, which takes half of the time
        mean_of_cells(image, image.shape[1] * STEP // table_BHWC.shape[1]).permute(0, 3, 1, 2).contiguous()
        for image in (source_BHWC, generated_BHWC, table_BHWC)
    )
    off_BChw, tissue_B1hw = generated_BChw - made_BChw, _tissue(source_BChw, white)
    sums_B4hw = _sum_around(torch.cat([off_BChw * tissue_B1hw, tissue_B1hw], dim=1), radius)
    cut = 2 * (radius // STEP)
    off_BChw, tissue_B1hw = (image[:, :, cut:-cut, cut:-cut] for image in (off_BChw, tissue_B1hw))
    weights_B1hw = sums_B4hw[:, 3:].clamp(min=_LEAST * _cells_across(radius) ** 4)
    kept_BChw = off_BChw - tissue_B1hw * sums_B4hw[:, :3] / weights_B1hw
    return add_enlarged(crop(table_BHWC, reach(radius)), kept_BChw.permute(0, 2, 3, 1).contiguous(), STEP)


def crop(image_BHWC: Tensor, cut: int) -> Tensor:
    """Leave away as many pixels on each side."""
    height, width = image_BHWC.shape[1:3]
    return image_BHWC[:, cut : height - cut, cut : width - cut]


def look_up_pixels(table: Tensor, pixels_BHWC: Tensor) -> Tensor:
    """Send pixels through a slide's colour table.

    Args:
        table: (N, N, N, 3) float32, see `stain.colour_table`; on the pixels' device.
        pixels_BHWC: RGB, uint8.

    Returns:
        RGB, (B, H, W, 3) uint8.
    """
    if pixels_BHWC.device.type != "cpu":
        return round_pixels(interpolate_table(table, pixels_BHWC))
    rows = pixels_BHWC.reshape(-1, *pixels_BHWC.shape[2:]).numpy()
    return torch.from_numpy(apply_table(table.numpy(), rows)).view(pixels_BHWC.shape)


def interpolate_table(table: Tensor, pixels_BHWC: Tensor) -> Tensor:
    """Look colours, 0 to 255, up in a table, trilinearly: (B, H, W, 3)."""
    volume_CRGB = table.permute(3, 0, 1, 2)
    blue_first_B1HWC = (pixels_BHWC / 127.5 - 1).flip(3)[:, None]  # as grid_sample wants its axes
    volumes = volume_CRGB.expand(len(pixels_BHWC), *volume_CRGB.shape)
    made_BC1HW = functional.grid_sample(volumes, blue_first_B1HWC, padding_mode="border", align_corners=True)
    return made_BC1HW[:, :, 0].permute(0, 2, 3, 1)


def _tissue(source_BCHW: Tensor, white: Tensor) -> Tensor:
    """Return how surely each pixel is tissue, 0 to 1: (B, 1, H, W)."""
    light_B1HW = (source_BCHW / white[:, None, None]).amin(dim=1, keepdim=True)
    return ((1 - light_B1HW) / _TISSUE).clamp_(0, 1)


def _sum_around(values_BChw: Tensor, radius: int) -> Tensor:
    """Sum over squares of the coarse grid, twice; what squares would look beyond the edges for is left away."""
    for axis in (2, 3, 2, 3):
        values_BChw = _sum_neighbours(values_BChw, _cells_across(radius), axis)
    return values_BChw


def _cells_across(radius: int) -> int:
    return 2 * (radius // STEP) + 1


def _sum_neighbours(values: Tensor, count: int, axis: int) -> Tensor:
    """Sum each value and those after it, `count` in all, in about log2(count) additions."""
    if count == 1:
        return values
    length, half = values.shape[axis] - count + 1, count // 2
    halves = _sum_neighbours(values, half, axis)
    total = halves.narrow(axis, 0, length) + halves.narrow(axis, half, length)
    return total.add_(values.narrow(axis, count - 1, length)) if count % 2 else total
