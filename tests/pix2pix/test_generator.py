"""The generator: published size, receptive field, tiles equal to the whole."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn.functional import conv2d, interpolate

from wsi_stain.pix2pix.config import GeneratorConfig
from wsi_stain.pix2pix.generator import Generator, ResizeConvolution, aligned_halo, receptive_halo

PUBLISHED = {  # (downs, input channels): parameters at ngf=64
    (8, 1): 54_411_907,
    (8, 3): 54_413_955,
    (7, 1): 41_826_947,
    (6, 1): 29_241_987,
    (5, 1): 16_657_027,
}


def lively(config: GeneratorConfig) -> Generator:
    """A generator in eval mode whose BatchNorm statistics are not the neutral ones."""
    torch.manual_seed(3)
    generator = Generator(config)
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.005, 0.02)
    return generator.eval()


@pytest.mark.parametrize(("shape", "expected"), PUBLISHED.items(), ids=str)
def test_parameters_as_published(shape: tuple[int, int], expected: int) -> None:
    with torch.device("meta"):
        generator = Generator(GeneratorConfig(downs=shape[0], in_channels=shape[1]))
    assert sum(parameter.numel() for parameter in generator.parameters()) == expected


@pytest.mark.parametrize("upsample", ["deconv", "resize"])
def test_shape_and_range_on_an_image_that_is_not_square(upsample: str) -> None:
    generator = lively(GeneratorConfig.model_validate({"downs": 3, "ngf": 4, "in_channels": 2, "upsample": upsample}))
    rgb = generator(torch.rand(2, 2, 40, 72) * 2 - 1)
    assert rgb.shape == (2, 3, 40, 72)
    assert rgb.abs().max() <= 1
    assert rgb.std() > 1e-3


def test_resizing_and_convolving_in_one_has_the_same_result_and_gradients() -> None:
    torch.manual_seed(1)
    layer, x = ResizeConvolution(5, 4, bias=True).double(), torch.randn(2, 5, 6, 9, dtype=torch.float64)
    doubled = interpolate(x.requires_grad_(), scale_factor=2, mode="nearest")
    expected = conv2d(doubled, layer.weight, layer.bias, padding=1)
    found, weigh = layer(x), torch.randn(2, 4, 12, 18, dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    wanted = [x, *layer.parameters()]
    gradients = [torch.autograd.grad((made * weigh).sum(), wanted) for made in (expected, found)]
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-11, rtol=0)


def test_side_that_is_no_multiple_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        Generator(GeneratorConfig(downs=3, ngf=2))(torch.zeros(1, 1, 36, 40))


@pytest.mark.parametrize(("downs", "halo"), [(4, 45), (5, 93), (6, 189), (8, 765)])
def test_halo(downs: int, halo: int) -> None:
    assert receptive_halo(downs) == halo


@pytest.mark.parametrize("upsample", ["deconv", "resize"])
@pytest.mark.parametrize("downs", [3, 4, 5])
def test_tiles_with_a_halo_equal_the_whole(downs: int, upsample: str) -> None:
    generator = lively(GeneratorConfig.model_validate({"downs": downs, "ngf": 4, "upsample": upsample}))
    step = 2**downs
    halo, core = -(-receptive_halo(downs) // step) * step, 4 * step
    image = torch.rand(1, 1, core + 2 * halo + 3 * step, core + 2 * halo + step) * 2 - 1
    y, x = 2 * step, step
    with torch.inference_mode():
        whole = generator(image)[..., y + halo : y + halo + core, x + halo : x + halo + core]
        tile = generator(image[..., y : y + core + 2 * halo, x : x + core + 2 * halo])
    assert whole.std() > 1e-3
    torch.testing.assert_close(tile[..., halo : halo + core, halo : halo + core], whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("downs", [3, 4, 5])
def test_halo_is_the_least_that_holds(downs: int) -> None:
    generator = lively(GeneratorConfig(downs=downs, ngf=2)).double()
    side = 2 ** (downs + 4)
    farthest = 0
    for column in range(side // 2, side // 2 + 2**downs):
        image = torch.rand(1, 1, 2**downs, side, dtype=torch.float64, requires_grad=True)
        generator(image)[0, :, 0, column].sum().backward()
        assert image.grad is not None
        seen = image.grad[0, 0].abs().sum(0).nonzero().flatten()
        farthest = max(farthest, column - int(seen[0]), int(seen[-1]) - column)
    assert farthest == receptive_halo(downs)


@pytest.mark.parametrize("downs", [3, 4])
def test_halo_of_an_aligned_core_is_the_least_that_holds(downs: int) -> None:
    generator, step = lively(GeneratorConfig(downs=downs, ngf=2)).double(), 2**downs
    core = 8 * step
    for beyond in range(step + 1):
        image = torch.rand(1, 1, step, 16 * step, dtype=torch.float64, requires_grad=True)
        generator(image)[0, :, 0, core - beyond].sum().backward()
        assert image.grad is not None
        assert core - int(image.grad[0, 0].abs().sum(0).nonzero()[0]) == aligned_halo(downs, beyond)


@pytest.mark.parametrize(("downs", "blocks"), [(8, [1, 2, 3]), (5, [1, 2, 3]), (3, [1])])
def test_dropout_sits_in_the_inner_up_blocks(downs: int, blocks: list[int]) -> None:
    with torch.device("meta"):
        generator = Generator(GeneratorConfig(downs=downs, ngf=2))
    found = [i for i, block in enumerate(generator.up) if any(isinstance(m, nn.Dropout) for m in block.modules())]
    assert found == blocks


def test_weights_start_as_published() -> None:
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(downs=4, ngf=32))
    convolutions = [m for m in generator.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    scales = torch.cat([m.weight for m in generator.modules() if isinstance(m, nn.BatchNorm2d)])
    assert torch.cat([m.weight.flatten() for m in convolutions]).std().item() == pytest.approx(0.02, rel=0.02)
    assert scales.mean().item() == pytest.approx(1, abs=0.005)
    assert scales.std().item() == pytest.approx(0.02, rel=0.2)


def test_eval_mode_is_deterministic_and_training_is_not() -> None:
    generator, image = lively(GeneratorConfig(downs=4, ngf=4)), torch.rand(2, 1, 32, 48)
    assert torch.equal(generator(image), generator(image))
    generator.train()
    assert not torch.equal(generator(image), generator(image))


@pytest.mark.parametrize("wrong", [{"downs": 0}, {"ngf": 0}, {"dropout": 1.0}, {"norm": "instance"}, {"depth": 5}])
def test_impossible_architecture_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        GeneratorConfig.model_validate(wrong)
