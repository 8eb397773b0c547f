"""What runs on a GPU keeps to it: each operation on tensors that have a device, a shape and a type, and no values.

Torch's fake tensors refuse what CUDA would: operands on two devices, shapes that do not fit, types that do not mix. So
the passes of all modes, and the making of training's templates, are gone through where no GPU is. Speed, memory,
streams, the order of what is queued, and every value need a real one: the tests marked `gpu`.
"""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.support.made_checkpoint import STATISTICS, lively
from wsi_stain.laboratories.perturbation import draw_perturbation
from wsi_stain.normalizers.generator import GeneratorNormalizer, GuardNormalizer
from wsi_stain.normalizers.lut import TableFit
from wsi_stain.normalizers.predictor import GeneratorPredictor, _join_seen
from wsi_stain.pix2pix.config import Shrink
from wsi_stain.pix2pix.discriminator import Discriminator
from wsi_stain.pix2pix.precision import Precision
from wsi_stain.stain.template import apply_template
from wsi_stain.store.artifact import TABLE
from wsi_stain.training.simulated_labs import LabBatch, SimulatedLab, own_lab

WHITE, STRIDE, BATCH = (240, 238, 242), 512, 2
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def imagined() -> FakeTensorMode:
    """Tensors without values, on whatever device; real ones of the host may be copied there."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def imagine(network: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A network on the GPU, with weights that have no values."""
    network = copy.deepcopy(network)
    with imagined():
        for module in network.modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                empty = torch.empty(weight.shape, dtype=dtype, device=GPU)
                setattr(module, name, nn.Parameter(empty, requires_grad=False))
            for name, values in list(module.named_buffers(recurse=False)):
                setattr(module, name, torch.empty(values.shape, dtype=values.dtype, device=GPU))
    return network


def test_two_devices_do_not_mix() -> None:
    """These tests can fail."""
    convolution = imagine(nn.Conv2d(3, 3, 3))
    with imagined():
        with pytest.raises(RuntimeError, match=r"same device|two devices"):
            torch.empty(2, device=GPU) + torch.empty(2)
        with pytest.raises(RuntimeError, match=r"type"):
            convolution(torch.empty(1, 3, 8, 8, device=GPU, dtype=torch.bfloat16))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("shrink", [1, 2])
@pytest.mark.parametrize("mode", ["generator", "guard", "generated"])
def test_a_pass_stays_on_the_gpu(tmp_path: Path, mode: str, shrink: Shrink, precision: Precision) -> None:
    checkpoint = lively(tmp_path / "checkpoint.safetensors", shrink=shrink, downs=4)
    predictor = GeneratorPredictor(checkpoint, "cuda", precision)
    predictor._loaded = imagine(predictor._exact, predictor._dtype)
    table = None if mode == "generated" else TableFit(predictor, WHITE)
    if mode == "guard":
        normalizer: GeneratorNormalizer = GuardNormalizer(predictor, WHITE, STRIDE, 16, table, BATCH, 64)
    else:
        normalizer = GeneratorNormalizer(predictor, WHITE, STRIDE, table, BATCH, 64)
    side = STRIDE + 2 * normalizer.halo
    artifact, part = {TABLE: np.zeros((17, 17, 17, 3), np.float32)}, (slice(256, STRIDE), slice(0, STRIDE))
    with imagined():
        windows = torch.empty(BATCH, side, side, 3, dtype=torch.uint8, device=GPU)
        postprocess = partial(normalizer._postprocess, normalizer._upload_target(artifact, STATISTICS), part)
        result, is_finite = predictor._predict(windows, STATISTICS, normalizer._crop, postprocess)
    assert (result.device, is_finite.device) == (GPU, GPU)
    assert (result.dtype, result.shape) == (torch.uint8, (BATCH, STRIDE - 256, STRIDE, 3))


@pytest.mark.parametrize("shrink", [1, 2])
def test_what_a_table_is_fitted_to_is_joined_on_the_gpu(tmp_path: Path, shrink: Shrink) -> None:
    checkpoint = lively(tmp_path / "checkpoint.safetensors", shrink=shrink, downs=4)
    predictor = GeneratorPredictor(checkpoint, "cuda")
    predictor._loaded = imagine(predictor._exact, predictor._dtype)
    with imagined():
        windows = torch.empty(BATCH, 256, 256, 3, dtype=torch.uint8, device=GPU)
        result, _ = predictor._predict(windows, STATISTICS, 32, _join_seen)
    side = 192 // shrink
    assert (result.device, result.dtype, result.shape) == (GPU, torch.uint8, (BATCH, 2, side, side, 3))


def test_templates_of_a_batch_are_made_on_the_gpu(tmp_path: Path) -> None:
    template = lively(tmp_path / "checkpoint.safetensors", in_channels=2).contract.template
    rng = np.random.default_rng(0)
    labs = [own_lab(STATISTICS)]
    labs += [SimulatedLab(draw_perturbation(rng, 1.0), STATISTICS, STATISTICS) for _ in range(3)]
    gathered = LabBatch.of(labs, template)
    with imagined():
        pixels = torch.empty(4, 64, 64, 3, dtype=torch.uint8, device=GPU)
        made, shown = gathered.templates(pixels), labs[1].simulate(pixels)
        single = apply_template(pixels[0], STATISTICS, template)
    assert {made.device, shown.device, single.device} == {GPU}
    assert (made.shape, shown.shape, single.shape) == ((4, 64, 64, 2), (4, 64, 64, 3), (64, 64, 2))


def test_both_networks_judge_on_the_gpu(tmp_path: Path) -> None:
    generator = imagine(lively(tmp_path / "checkpoint.safetensors", in_channels=2).generator)
    discriminator = imagine(Discriminator(5, 8))
    with imagined():
        template = torch.empty(2, 2, 128, 128, device=GPU)
        judged = discriminator(torch.cat((template, generator(template)), dim=1))
    assert judged.device == GPU
