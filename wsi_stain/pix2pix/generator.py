"""The generator: a U-Net with skip connections, and dropout as its noise.

Shapes: B batch, C input channels, H and W rows and columns.

             skip          skip
    x -> down[0] -> down[1] -> ... -> down[n-1]      every step halves H and W
    y <- up[n-1] <- up[n-2] <- ... <- up[0]          every step doubles them; the skip is concatenated below it

`downs=8, ngf=64` is unet_256 of arXiv 1611.07004 exactly. Fewer downs give a finite, small receptive field: see
`receptive_halo`.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d, pad

from wsi_stain.pix2pix.config import GeneratorConfig

_DROPOUT_BLOCKS = 3
_DEVIATION = 0.02

LEAK = 0.2
"""Slope of the leaky activations below zero."""


def receptive_halo(downs: int) -> int:
    """Return the distance, px, that an output pixel of a U-Net with `downs` halvings can see: 3 (2**downs - 1).

    A tile whose origin lies on a multiple of 2**downs and that is read with at least this halo (rounded up to such a
    multiple) comes out exactly as within the whole image, in eval mode.
    """
    return 3 * int(2**downs - 1)


def aligned_halo(downs: int, beyond: int) -> int:
    """Return how far a window must reach beyond a core, px, for its results up to `beyond` px outside that to be exact.

    Core and window begin and end on multiples of 2**downs. A pixel there sees less far than `receptive_halo` says,
    which holds for the place between two such multiples that sees farthest.
    """
    for _halving in range(downs):
        beyond = beyond // 2 + 1  # two pixels of the coarser grid make one, so that one beyond it counts
    return int(2**downs * (beyond + 1) - 1)  # a pixel of the coarser grid sees one of the finer on each side of its own


def initialize(network: nn.Module) -> None:
    """Draw the weights of either network in place, from torch's global random generator.

    Convolutions N(0, 0.02) with zero bias, BatchNorm's scale N(1, 0.02) with zero shift (arXiv 1611.07004, section 6.2,
    with the scale centred on one as in the authors' code). Weights of the device `meta` have no values and are left:
    to draw them would load a second and a half of torch's own Python.
    """
    if any(weight.is_meta for weight in network.parameters()):
        return
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, _DEVIATION)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, _DEVIATION)
            nn.init.zeros_(module.bias)


class Generator(nn.Module):
    """The U-Net.

    Args:
        config: The architecture; the weights start as published, from torch's global random generator.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.ngf * min(2**level, 8) for level in range(config.downs)]
        self.down = nn.ModuleList(_down_block(config, widths, level) for level in range(config.downs))
        self.up = nn.ModuleList(_up_block(config, widths, level) for level in reversed(range(config.downs)))
        initialize(self)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Generate RGB from a template.

        Args:
            x_BCHW: The template, values in [-1, 1]; H and W are multiples of 2**downs.

        Returns:
            RGB, (B, 3, H, W), values in [-1, 1].

        Raises:
            ValueError: H or W is not such a multiple.
        """
        step = 2**self.config.downs
        if x_BCHW.shape[-1] % step or x_BCHW.shape[-2] % step:
            raise ValueError(f"height and width must be multiples of {step}, got {tuple(x_BCHW.shape[-2:])}")
        skips = [x_BCHW]
        for block in self.down:
            skips.append(block(skips[-1]))
        y: Tensor = self.up[0](skips.pop())
        for block in self.up[1:]:
            y = block(torch.cat((skips.pop(), y), dim=1))
        return y


def _down_block(config: GeneratorConfig, widths: list[int], level: int) -> nn.Sequential:
    """Make the block that halves the image; neither the first nor the innermost block is normalized."""
    channels = widths[level - 1] if level else config.in_channels
    layers: list[nn.Module] = [nn.LeakyReLU(LEAK)] if level else []
    layers.append(nn.Conv2d(channels, widths[level], 4, stride=2, padding=1, bias=False))
    if 0 < level < config.downs - 1:
        layers.append(nn.BatchNorm2d(widths[level]))
    return nn.Sequential(*layers)


def _up_block(config: GeneratorConfig, widths: list[int], level: int) -> nn.Sequential:
    """Make the block that doubles the image, from the grid of down[level] to the one above it."""
    depth = config.downs - 1 - level  # 0 is the innermost
    channels = widths[level] * (2 if depth else 1)
    if not level:
        return nn.Sequential(nn.ReLU(), _upsample_layer(config, channels, 3, bias=True), nn.Tanh())
    wide = widths[level - 1]
    layers = [nn.ReLU(), _upsample_layer(config, channels, wide, bias=False), nn.BatchNorm2d(wide)]
    if 0 < depth <= _DROPOUT_BLOCKS and config.dropout:
        layers.append(nn.Dropout(config.dropout))
    return nn.Sequential(*layers)


def _upsample_layer(config: GeneratorConfig, channels: int, out: int, bias: bool) -> nn.Module:
    if config.upsample == "resize":
        return ResizeConvolution(channels, out, bias)
    return nn.ConvTranspose2d(channels, out, 4, stride=2, padding=1, bias=bias)


class ResizeConvolution(nn.Conv2d):
    """Nearest-neighbour doubling, then a 3x3 convolution with a border of one zero.

    It is computed as one transposed convolution: an output pixel needs four products instead of nine, since its
    neighbours are copies of each other, and the doubled image is never made.

    Args:
        channels: Of the input.
        out: Channels of the output.
        bias: Whether each of them has one.
    """

    def __init__(self, channels: int, out: int, bias: bool) -> None:
        super().__init__(channels, out, 3, padding=1, bias=bias)

    def kernel(self) -> Tensor:
        """Compute the kernel of the transposed convolution of stride 2, (channels, out, 4, 4).

        The doubling is such a convolution too, with 2x2 ones. So each weight of the two together is the sum of the (up
        to four) 3x3 weights that fall on it.
        """
        kernel_IOHW = self.weight.transpose(0, 1).flip(-2, -1)
        corners = itertools.product((0, 1), repeat=2)
        return torch.stack([pad(kernel_IOHW, (left, 1 - left, top, 1 - top)) for top, left in corners]).sum(0)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Double an image: (B, channels, H, W) to (B, out, 2 H, 2 W)."""
        return conv_transpose2d(x_BCHW, self.kernel(), self.bias, stride=2, padding=1)
