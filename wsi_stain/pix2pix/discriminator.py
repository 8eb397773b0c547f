"""The discriminator: a PatchGAN whose every logit judges a patch of 70 x 70 px (arXiv 1611.07004, section 6.1.2)."""

from __future__ import annotations

from torch import Tensor, nn

from wsi_stain.pix2pix.generator import initialize


class Discriminator(nn.Module):
    """C64 - C128 - C256 - C512 - 1, the first three with stride 2.

    Args:
        in_channels: Channels of the condition (the template) and of the image together.
        ndf: Channels of the first layer; 64 as published.
    """

    def __init__(self, in_channels: int, ndf: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, ndf, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            *_conv_batchnorm(ndf, 2 * ndf, stride=2),
            *_conv_batchnorm(2 * ndf, 4 * ndf, stride=2),
            *_conv_batchnorm(4 * ndf, 8 * ndf, stride=1),
            nn.Conv2d(8 * ndf, 1, 4, stride=1, padding=1),
        )
        initialize(self)

    def forward(self, pair_BCHW: Tensor) -> Tensor:
        """Judge pairs of template and image.

        Args:
            pair_BCHW: Template and RGB image, concatenated along the channels, values in [-1, 1]; H and W at least 32.

        Returns:
            Logits, (B, 1, H / 8 - 2, W / 8 - 2): above 0 means real.
        """
        logits: Tensor = self.layers(pair_BCHW)
        return logits


def _conv_batchnorm(channels: int, out: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, out, 4, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(out), nn.LeakyReLU(0.2)]
