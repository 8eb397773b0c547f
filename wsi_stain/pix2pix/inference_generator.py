"""A trained generator as it is used: the same function of the template, in fewer steps. It cannot be trained further.

BatchNorm is folded into the convolution before it, dropout is gone, and activations change their tensor in place. The
last doubling, to three channels, is a convolution to the twelve of four neighbouring pixels: as a transposed one it
would leave most of a processor's vector unused. Before all that, BatchNorm's statistics are estimated anew.

Shapes: B batch, C channels, H and W rows and columns.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu
from torch.nn.utils.fusion import fuse_conv_bn_eval

from wsi_stain.pix2pix.generator import LEAK, Generator, ResizeConvolution

_Network = TypeVar("_Network", bound=nn.Module)


def recalibrate_batchnorm(
    network: _Network, inputs: Iterable[Tensor], autocast: AbstractContextManager[object] | None = None
) -> _Network:
    """Estimate a network's BatchNorm statistics with its final weights and without dropout, and put it into eval mode.

    The running averages that training leaves belong to weights of the past and to activations under dropout; used at
    inference they give dull or black images (phillipi/pix2pix, issue 34).

    Args:
        network: Changed in place; its weights stay as they are.
        inputs: Batches like those of training, (B, C, H, W), at least one; the larger the better. Each counts equally.
        autocast: Context in which the network runs.

    Returns:
        The same network.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    network.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a cumulative average
        layer.train()
    with torch.no_grad(), autocast or nullcontext():
        for x_BCHW in inputs:
            network(x_BCHW)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    return network.eval()


class InferenceGenerator(nn.Module):
    """Generator in eval mode, without its last tanh, which would make a number of infinity.

    Args:
        generator: Its weights and BatchNorm statistics are copied.
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.down = nn.ModuleList(_fuse_block(block) for block in generator.down)
        self.up = nn.ModuleList(_fuse_block(block) for block in generator.up)
        self.up[-1] = _as_pixel_convolution(self.up[-1])
        self.requires_grad_(False)

    def forward(self, x_BCHW: Tensor, crop: int = 0) -> Tensor:
        """Generate RGB from a template, within torch.inference_mode.

        The way up computes of each grid what the wanted part needs: itself and one pixel around it.

        Args:
            x_BCHW: The template, values in [-1, 1]; H and W are multiples of 2**downs.
            crop: What is not wanted of the result on each side, px.

        Returns:
            What `Generator.forward` is the tanh of, (B, 3, H - 2 crop, W - 2 crop).
        """
        cuts = [crop, *(max((crop >> level) - 1, 0) for level in range(1, len(self.down) + 1))]
        *outer, innermost = self.down
        skips: list[Tensor] = []
        for halve in outer:
            skips.append(leaky_relu(halve(skips[-1] if skips else x_BCHW), LEAK, inplace=True))
        y = _crop(innermost(skips[-1]), cuts[-1]).relu_()
        *doublings, outermost = self.up
        for level, double in zip(reversed(range(1, len(self.down))), doublings, strict=True):
            y = _crop(double(y), cuts[level] - 2 * cuts[level + 1]).relu()
            skip = _crop(skips.pop(), cuts[level]).relu()  # of what leaked too; parts are slow to join, copies not
            y = torch.cat((skip, y), dim=1)
            del skip
        y = outermost(y)
        return _crop(_interleave_pixels(y), 1 + cuts[0] - 2 * cuts[1])


def _interleave_pixels(pixels_BCHW: Tensor) -> Tensor:
    """Lay channels that are 2 x 2 pixels of three colours, (B, 12, H, W), out as an image, (B, 3, 2 H, 2 W)."""
    pixels_BHWC = pixels_BCHW.permute(0, 2, 3, 1)
    batch, height, width, _ = pixels_BHWC.shape
    rows = pixels_BHWC.reshape(batch, height, width, 2, 6).transpose(2, 3)
    return rows.reshape(batch, 2 * height, 2 * width, 3).permute(0, 3, 1, 2)


def _crop(image_BCHW: Tensor, cut: int) -> Tensor:
    height, width = image_BCHW.shape[-2:]
    return image_BCHW[..., cut : height - cut, cut : width - cut]


def _fuse_block(block: nn.Module) -> nn.Module:
    """Fuse to a copy: the one convolution that a block of the U-Net comes to in eval mode."""
    layers = list(copy.deepcopy(block).eval().children())
    (fused,) = (layer for layer in layers if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d))
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            fused = fuse_conv_bn_eval(fused, layer, transpose=isinstance(fused, nn.ConvTranspose2d))
    return _as_transposed(fused) if isinstance(fused, ResizeConvolution) else fused


def _as_pixel_convolution(doubling: nn.Module) -> nn.Conv2d:
    """Turn a transposed convolution of stride 2 into one whose channels are 2 x 2 pixels, row-major, RGB.

    Both see 2 x 2 pixels of the grid below. The image of this one has a pixel more on each side.
    """
    assert isinstance(doubling, nn.ConvTranspose2d) and doubling.bias is not None
    channels, colours = doubling.in_channels, doubling.out_channels
    taps = doubling.weight.detach().view(channels, colours, 2, 2, 2, 2)  # of y, the row, x, the column
    fused = nn.Conv2d(channels, 4 * colours, 2, padding=1)
    fused.weight = nn.Parameter(taps.flip(2, 4).permute(3, 5, 1, 0, 2, 4).flatten(0, 2).contiguous())
    fused.bias = nn.Parameter(doubling.bias.detach().repeat(4))
    return fused


def _as_transposed(convolution: ResizeConvolution) -> nn.ConvTranspose2d:
    """Turn a doubling and its convolution into one transposed convolution, its kernel computed once and for all."""
    fused = nn.ConvTranspose2d(convolution.in_channels, convolution.out_channels, 4, stride=2, padding=1)
    fused.weight, fused.bias = nn.Parameter(convolution.kernel()), convolution.bias
    return fused
