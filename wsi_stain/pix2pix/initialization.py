"""Initial weights of both networks."""

from __future__ import annotations

from torch import nn

DEVIATION = 0.02


def initialize(network: nn.Module) -> None:
    """Draw a network's weights in place, from torch's global random generator.

    Convolutions N(0, 0.02) with zero bias, BatchNorm's scale N(1, 0.02) with zero shift (arXiv 1611.07004, section 6.2,
    with the scale centred on one as in the authors' code).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, DEVIATION)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, DEVIATION)
            nn.init.zeros_(module.bias)
