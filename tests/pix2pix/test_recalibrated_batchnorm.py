"""Settled BatchNorm: eval mode computes what training mode did, without dropout."""

from __future__ import annotations

import torch
from torch import nn

from wsi_stain.pix2pix.config import GeneratorConfig
from wsi_stain.pix2pix.generator import Generator
from wsi_stain.pix2pix.inference_generator import recalibrate_batchnorm


def test_statistics_are_those_of_the_inputs_without_dropout() -> None:
    network = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(2))
    batches = [torch.randn(8, 2, 9, 5) * 3 + 7 for _ in range(4)]
    recalibrate_batchnorm(network, batches)
    layer = network[1]
    assert isinstance(layer, nn.BatchNorm2d)
    torch.testing.assert_close(layer.running_mean, torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0))
    torch.testing.assert_close(layer.running_var, torch.stack([b.var((0, 2, 3)) for b in batches]).mean(0))
    assert not network.training
    assert layer.momentum == 0.1


def test_eval_mode_is_training_mode_on_the_same_batch() -> None:
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(downs=4, ngf=4, dropout=0.0))
    batch = torch.randn(4, 1, 64, 48)
    with torch.no_grad():
        trained = generator.train()(batch)
        settled = recalibrate_batchnorm(generator, [batch])(batch)
    assert (settled - trained).abs().max() < 0.2 * trained.std()


def test_weights_stay() -> None:
    generator = Generator(GeneratorConfig(downs=3, ngf=2))
    before = [parameter.clone() for parameter in generator.parameters()]
    recalibrate_batchnorm(generator, [torch.randn(2, 1, 32, 32)])
    assert all(torch.equal(a, b) for a, b in zip(before, generator.parameters(), strict=True))
