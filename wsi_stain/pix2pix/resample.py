"""Images made smaller by averaging squares of pixels, and larger by lines between them. Knows no networks.

A generator may work on pixels that are coarser than the slide's (`checkpoint.Contract.shrink`), and what is smooth in a
change of colour is worked out on a coarser grid (`normalizers.smooth`).

Shape legend: B batch, H rows, W columns, C channels; h, w of the smaller image.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor


def mean_of_cells(image_BHWC: Tensor, side: int) -> Tensor:
    """Average squares of pixels: (B, h, w, C) float32.

    Args:
        image_BHWC: uint8 or floating; H and W are multiples of `side`.
        side: Of the squares, px; at most 8.
    """
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


def _enlarge_axis(image: Tensor, factor: int, axis: int) -> Tensor:
    length = image.shape[axis]
    before = torch.cat([image.narrow(axis, 0, 1), image.narrow(axis, 0, length - 1)], axis)
    after = torch.cat([image.narrow(axis, 1, length - 1), image.narrow(axis, length - 1, 1)], axis)
    places = [(number + 0.5) / factor - 0.5 for number in range(factor)]
    parts = [torch.lerp(image, before if place < 0 else after, abs(place)) for place in places]
    return torch.stack(parts, axis + 1).flatten(axis, axis + 1)
