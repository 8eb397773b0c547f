"""Steps of Pix2Pix: losses, schedule, averages."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from wsi_stain.pix2pix.config import GeneratorConfig
from wsi_stain.pix2pix.step import NotFiniteError, Pix2Pix, Recipe

SMALL = GeneratorConfig(downs=3, ngf=4, dropout=0.0)


def recipe(**changes: Any) -> Recipe:
    fields: dict[str, Any] = {
        "steps": 8,
        "lr": 1e-3,
        "betas": (0.5, 0.999),
        "constant_share": 0.5,
        "lambda_l1": 100.0,
        "gan": "bce",
        "ndf": 4,
        "ema": 0.0,
        "device": torch.device("cpu"),
        "dtype": torch.float32,
    }
    return Recipe(**{**fields, **changes})


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    x_BCHW = torch.rand(3, 1, 32, 40) * 2 - 1
    return x_BCHW, torch.cat((x_BCHW, -x_BCHW, x_BCHW * 0.5), 1)


@pytest.mark.parametrize(("gan", "at_start"), [("bce", math.log(2)), ("lsgan", 0.5)])
def test_first_losses_are_those_of_an_undecided_discriminator(gan: str, at_start: float) -> None:
    torch.manual_seed(0)
    losses = Pix2Pix(SMALL, recipe(gan=gan)).step(*pair()).read()
    assert losses["discriminator"] == pytest.approx(at_start, rel=0.3)
    assert set(losses) == {"discriminator", "gan", "l1"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_l1_falls(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    pix2pix, (x, y) = Pix2Pix(SMALL, recipe(steps=60, lr=3e-3, dtype=dtype)), pair()
    course = [pix2pix.step(x, y).read()["l1"] for _ in range(60)]
    assert sum(course[-5:]) < 0.75 * sum(course[:5])


def test_the_discriminator_learns_what_is_real() -> None:
    torch.manual_seed(0)
    pix2pix, (x, y) = Pix2Pix(SMALL, recipe(steps=30, lambda_l1=0.0, lr=2e-3)), pair()
    before = [parameter.clone() for parameter in pix2pix.discriminator.parameters()]
    course = [pix2pix.step(x, y).read()["discriminator"] for _ in range(6)]
    assert min(course) < course[0]
    assert not all(torch.equal(a, b) for a, b in zip(before, pix2pix.discriminator.parameters(), strict=True))


def test_rate_is_constant_then_falls_to_nothing() -> None:
    pix2pix = Pix2Pix(SMALL, recipe())
    rates = []
    for _ in range(8):
        rates.append(pix2pix.lr / 1e-3)
        pix2pix.step(*pair())
    assert rates == pytest.approx([1, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    assert pix2pix.lr == pytest.approx(0)


def test_result_is_the_average_when_asked_for() -> None:
    torch.manual_seed(0)
    pix2pix = Pix2Pix(SMALL, recipe(ema=0.3))
    expected = None
    for step in range(1, 5):
        pix2pix.step(*pair())
        now = pix2pix.generator.up[-1][1].weight.detach().clone()
        decay = min(0.3, (1 + step) / (10 + step))  # 0.25 at the second step, 0.3 from the third on
        expected = now if expected is None else decay * expected + (1 - decay) * now
    torch.testing.assert_close(pix2pix.result.up[-1][1].weight, expected)
    plain = Pix2Pix(SMALL, recipe())
    assert plain.result is plain.generator


def test_a_loss_that_is_no_number_is_told_when_it_is_read() -> None:
    """As late as a step later, so that a GPU need not wait; the weights say so as well."""
    pix2pix, (x, y) = Pix2Pix(SMALL, recipe()), pair()
    spoilt = pix2pix.step(x, y * float("nan"))
    later = pix2pix.step(x, y)
    with pytest.raises(NotFiniteError, match="the discriminator loss is nan"):
        spoilt.read()
    with pytest.raises(NotFiniteError):
        later.read()
    assert not pix2pix.is_finite


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_state_restores_every_bit(ema: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    first, (x, y) = Pix2Pix(SMALL, recipe(ema=ema, dtype=dtype)), pair()
    for _ in range(3):
        first.step(x, y)
    second = Pix2Pix(SMALL, recipe(ema=ema, dtype=dtype))
    second.restore({name: tensor.clone() for name, tensor in first.state().items()})
    assert second.lr == first.lr
    assert [second.step(x, y).read() for _ in range(3)] == [first.step(x, y).read() for _ in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(first.state().values(), second.state().values(), strict=True))


def test_clipping_bounds_the_gradient() -> None:
    torch.manual_seed(0)
    pix2pix, (x, y) = Pix2Pix(SMALL, recipe(clip=1e-3)), pair()
    pix2pix.step(x, y)
    norms = [
        torch.cat([parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None]).norm()
        for network in (pix2pix.generator, pix2pix.discriminator)
    ]
    assert max(norms) <= 1.001e-3
