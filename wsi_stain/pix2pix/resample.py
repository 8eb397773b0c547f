"""Images made smaller by averaging squares of pixels, and larger by lines between them. Knows no networks.

A generator may work on pixels that are coarser than the slide's (`contract.Contract.shrink`), and what is smooth in a
change of colour is worked out on a coarser grid (`normalizers.smooth`).

A processor works on strips of rows that stay in its cache, a GPU on all rows at once; the bytes are the same.

Shape legend: B batch, H rows, W columns, C channels; h, w of the smaller image.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
import torch
from torch import Tensor

from wsi_stain.core.arrays import sum_cells

_STRIP = 32
"""Rows of the smaller image that a processor works on at a time."""

_PARTS = 16
"""Steps to a grey level in which a change is added."""


def mean_of_cells(image_BHWC: Tensor, side: int) -> Tensor:
    """Average squares of pixels: (B, h, w, C) float32.

    Args:
        image_BHWC: uint8 or floating; H and W are multiples of `side`.
        side: Of the squares, px; at most 8.
    """
    if side == 1:
        return image_BHWC.float()
    if _is_bytes_on_cpu(image_BHWC):
        return torch.from_numpy(sum_cells(image_BHWC.numpy(), side).astype(np.float32)) / side**2
    batch, height, width, channels = image_BHWC.shape
    wide = image_BHWC.reshape(batch, height // side, side, width * channels)
    dtype = torch.int16 if wide.dtype == torch.uint8 else wide.dtype
    rows = reduce(torch.add, (wide[:, :, row].to(dtype) for row in range(side)))  # neighbours in memory: faster first
    cells = rows.view(batch, height // side, width // side, side, channels)
    total: Tensor = reduce(torch.add, cells.unbind(3))
    return total.float() / side**2


def shrink_pixels(pixels_BHWC: Tensor, factor: int) -> Tensor:
    """Average squares of pixels, rounded half up: (B, h, w, C) uint8, the same bytes on any device.

    Args:
        pixels_BHWC: uint8; H and W are multiples of `factor`.
        factor: Side of the squares, px; 1 changes nothing.
    """
    if factor == 1:
        return pixels_BHWC
    if _is_bytes_on_cpu(pixels_BHWC):
        sums = sum_cells(pixels_BHWC.numpy(), factor)
        sums += factor**2 // 2
        sums //= factor**2
        return torch.from_numpy(sums.astype(np.uint8))
    return (mean_of_cells(pixels_BHWC, factor) + 0.5).to(torch.uint8)


def enlarge(image_BHWC: Tensor, factor: int) -> Tensor:
    """Put `factor` pixels in place of each along both axes, linearly between their middles: (B, H, W, C).

    Beyond the first and last middle an image goes on as they are.

    Args:
        image_BHWC: Floating.
        factor: 1 changes nothing.
    """
    if factor == 1:
        return image_BHWC
    return _enlarge_axis(_enlarge_axis(image_BHWC, factor, 2), factor, 1)


def add_enlarged(base_BHWC: Tensor, change_BhwC: Tensor, factor: int) -> Tensor:
    """Add a change to an image, enlarged as by `enlarge`: (B, H, W, C) uint8, rounded, from 0 to 255.

    It is added in sixteenths of a grey level: with a factor of 4, 16-bit integers just hold what it comes to.

    Args:
        base_BHWC: uint8; H and W are multiples of `factor`.
        change_BhwC: Floating, -255 to 255, beyond which it is cut off; it shows a pixel more than `base_BHWC` on each
            side: (B, H / factor + 2, W / factor + 2, C).
        factor: 2 or 4.
    """
    batch, height, width, channels = base_BHWC.shape
    fixed_BhwC = (change_BhwC * _PARTS).clamp_(-255 * _PARTS, 255 * _PARTS)
    rows = _enlarge_axis(fixed_BhwC, factor, 2)[:, :, factor:-factor].round().to(torch.int16).flatten(2)
    base = base_BHWC.view(batch, height // factor, factor, width * channels)
    made = torch.empty_like(base, memory_format=torch.contiguous_format)
    strip = _STRIP if base.device.type == "cpu" else height // factor
    for top in range(0, height // factor, strip):
        sums = _steps_between(rows[:, top : top + strip + 2], factor)
        made[:, top : top + strip] = sums.add_(base[:, top : top + strip]).clamp_(0, 255)
    return made.view(batch, height, width, channels)


def round_pixels(image_BHWC: Tensor) -> Tensor:
    """Round floating values to uint8, from 0 to 255; they are used up."""
    return image_BHWC.add_(0.5).clamp_(0, 255).to(torch.uint8, memory_format=torch.contiguous_format)


def _steps_between(rows: Tensor, factor: int) -> Tensor:
    """Put `factor` rows between each three: (B, h, V) int16, in `_PARTS`, to (B, h - 2, factor, V), in grey levels."""
    middle = rows[:, 1:-1]
    before, after = middle - rows[:, :-2], rows[:, 2:] - middle
    scale = 2 * factor * _PARTS
    scaled = middle * (2 * factor) + scale // 2
    made = middle.new_empty(*middle.shape[:2], factor, middle.shape[2])
    for number in range(factor):
        away = 2 * number + 1 - factor
        torch.add(scaled, before if away < 0 else after, alpha=away, out=made[:, :, number])
    return made.bitwise_right_shift_(scale.bit_length() - 1)


def _enlarge_axis(image: Tensor, factor: int, axis: int) -> Tensor:
    length, shape = image.shape[axis], image.shape
    before = torch.cat([image.narrow(axis, 0, 1), image.narrow(axis, 0, length - 1)], axis)
    after = torch.cat([image.narrow(axis, 1, length - 1), image.narrow(axis, length - 1, 1)], axis)
    made = image.new_empty(*shape[: axis + 1], factor, *shape[axis + 1 :])
    for number in range(factor):
        place = (number + 0.5) / factor - 0.5
        torch.lerp(image, before if place < 0 else after, abs(place), out=made.select(axis + 1, number))
    return made.flatten(axis, axis + 1)


def _is_bytes_on_cpu(image: Tensor) -> bool:
    return image.dtype == torch.uint8 and image.device.type == "cpu"
