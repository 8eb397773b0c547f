"""The generator as it is used gives what the trained one gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.pix2pix.test_generator import lively
from wsi_stain.pix2pix.config import GeneratorConfig
from wsi_stain.pix2pix.generator import Generator
from wsi_stain.pix2pix.inference_generator import InferenceGenerator


def make_generator(upsample: str, **config: int) -> Generator:
    return lively(GeneratorConfig.model_validate({"ngf": 4, "in_channels": 2, "upsample": upsample, **config}))


def template(channels: int = 2) -> Tensor:
    return torch.rand(2, channels, 96, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("upsample", ["deconv", "resize"])
@pytest.mark.parametrize("downs", [2, 5])
def test_the_same_function_to_the_very_border(upsample: str, downs: int) -> None:
    generator, x = make_generator(upsample, downs=downs).double(), template().double()
    with torch.inference_mode():
        expected, found = generator(x), InferenceGenerator(generator)(x).tanh()
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("crop", [1, 2, 3, 7, 8, 13, 16, 24, 31])
@pytest.mark.parametrize("downs", [2, 3, 4])
def test_a_crop_is_a_part_of_the_whole(crop: int, downs: int) -> None:
    frozen, x = InferenceGenerator(make_generator("resize", downs=downs).double()), template().double()
    with torch.inference_mode():
        expected, found = frozen(x)[..., crop:-crop, crop:-crop], frozen(x, crop)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("upsample", ["deconv", "resize"])
def test_neither_the_original_nor_the_template_is_changed(upsample: str) -> None:
    generator = make_generator(upsample, downs=3).train()
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    x = template()
    frozen = InferenceGenerator(generator)
    with torch.inference_mode():
        first = frozen(x)
        assert torch.equal(frozen(x), first)
    assert torch.equal(x, template())
    assert generator.training and all(module.training for module in generator.modules())
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
    with torch.no_grad():
        next(frozen.parameters()).fill_(0)
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


def test_it_is_convolutions_alone() -> None:
    frozen = InferenceGenerator(make_generator("resize", downs=4))
    kinds = {type(module) for module in frozen.modules()} - {InferenceGenerator, nn.ModuleList}
    assert kinds == {nn.Conv2d, nn.ConvTranspose2d}


def test_what_is_no_number_stays_none() -> None:
    x = template()
    x[0, 0, 40, 30] = float("nan")
    with torch.inference_mode():
        assert InferenceGenerator(make_generator("resize", downs=3))(x).isnan().any()
