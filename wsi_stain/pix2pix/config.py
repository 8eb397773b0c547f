"""The settings of the networks. Knows no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from wsi_stain.core.records import StrictRecord

Shrink = Literal[1, 2, 4]
"""How many pixels of a slide, along each axis, are averaged to one of the generator's."""

SHRINKS: tuple[Shrink, ...] = (1, 2, 4)


class GeneratorConfig(StrictRecord):
    """The generator's architecture.

    Attributes:
        downs: How often the U-Net halves the image, 2 to 10; 8 is the paper's unet_256.
        ngf: Channels after the first halving; each further one doubles them, up to 8 times this.
        in_channels: Channels of the template: 1 for `gray`, 2 for `he`.
        norm: Normalization layers. BatchNorm only: whatever looks at one tile's statistics makes seams.
        upsample: `deconv` as published, or `resize`: nearest neighbour and a 3x3 convolution, without checkerboard.
        dropout: Probability in the (up to three) up-blocks above the innermost, while training, 0 to 1.
    """

    downs: int = Field(default=5, ge=2, le=10)
    ngf: int = Field(default=64, ge=1, le=1024)
    in_channels: int = Field(default=1, ge=1, le=16)
    norm: Literal["batch"] = "batch"
    upsample: Literal["deconv", "resize"] = "deconv"
    dropout: float = Field(default=0.5, ge=0, lt=1)
