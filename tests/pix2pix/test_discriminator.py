"""The discriminator: published size and patch."""

from __future__ import annotations

import pytest
import torch

from wsi_stain.pix2pix.discriminator import Discriminator


def test_parameters_as_published() -> None:
    discriminator = Discriminator(in_channels=1 + 3)
    assert sum(parameter.numel() for parameter in discriminator.parameters()) == 2_766_657


@pytest.mark.parametrize(("side", "logits"), [((256, 256), (30, 30)), ((128, 96), (14, 10))], ids=str)
def test_one_logit_a_patch(side: tuple[int, int], logits: tuple[int, int]) -> None:
    assert Discriminator(in_channels=5, ndf=4)(torch.zeros(2, 5, *side)).shape == (2, 1, *logits)


def test_a_logit_sees_70_px() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(in_channels=1, ndf=4).double().eval()
    image = torch.rand(1, 1, 256, 256, dtype=torch.float64, requires_grad=True)
    discriminator(image)[0, 0, 15, 15].backward()
    assert image.grad is not None
    rows, cols = image.grad[0, 0].nonzero(as_tuple=True)
    assert int(rows.max() - rows.min()) + 1 == 70
    assert int(cols.max() - cols.min()) + 1 == 70
