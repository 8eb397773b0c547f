"""A trained generator as it is used: the same function of the template, in fewer steps. It cannot be trained further.

BatchNorm is folded into the convolution before it, dropout is gone, and activations change their tensor in place.

Shapes: B batch, C input channels, H and W rows and columns.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu
from torch.nn.utils.fusion import fuse_conv_bn_eval

from wsi_stain.pix2pix.generator import LEAK, Generator, ResizeConvolution


class FrozenGenerator(nn.Module):
    """A generator in eval mode, without its last tanh, which would make a number of infinity.

    Args:
        generator: Its weights and BatchNorm statistics are copied.
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.down = nn.ModuleList(_single(block) for block in generator.down)
        self.up = nn.ModuleList(_single(block) for block in generator.up)
        self.requires_grad_(False)

    def forward(self, x_BCHW: Tensor, crop: int = 0) -> Tensor:
        """Colour a template, within torch.inference_mode.

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
        y = _inner(innermost(skips[-1]), cuts[-1]).relu_()
        for level, double in zip(reversed(range(len(self.down))), self.up, strict=True):
            y = _inner(double(y), cuts[level] - 2 * cuts[level + 1])
            if skips:
                skip = _inner(skips.pop(), cuts[level])
                y = torch.cat((skip, y), dim=1).relu_()  # of what leaked too: relu takes it away
        return y


def _inner(image_BCHW: Tensor, cut: int) -> Tensor:
    height, width = image_BCHW.shape[-2:]
    return image_BCHW[..., cut : height - cut, cut : width - cut]


def _single(block: nn.Module) -> nn.Module:
    """The one convolution that a block of the U-Net comes to in eval mode; a copy."""
    layers = list(copy.deepcopy(block).eval().children())
    (made,) = (layer for layer in layers if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d))
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            made = fuse_conv_bn_eval(made, layer, transpose=isinstance(made, nn.ConvTranspose2d))
    return _transposed(made) if isinstance(made, ResizeConvolution) else made


def _transposed(convolution: ResizeConvolution) -> nn.ConvTranspose2d:
    """What a doubling and its convolution are together, its kernel worked out once and for all."""
    made = nn.ConvTranspose2d(convolution.in_channels, convolution.out_channels, 4, stride=2, padding=1)
    made.weight, made.bias = nn.Parameter(convolution.kernel()), convolution.bias
    return made
