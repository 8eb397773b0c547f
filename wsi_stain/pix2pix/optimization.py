"""One step of Pix2Pix: the discriminator's, then the generator's. Knows no slides, files or epochs.

    loss_D = (gan(D(x, y), real) + gan(D(x, G(x)), fake)) / 2
    loss_G = gan(D(x, G(x)), real) + lambda |y - G(x)|          arXiv 1611.07004, equations 1 to 4 and section 3.3

x is the template, y the target. `gan` is binary cross-entropy as published, or the square of LSGAN (arXiv 1611.04076).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from wsi_stain.pix2pix.discriminator import Discriminator
from wsi_stain.pix2pix.generator import Generator, GeneratorConfig


@dataclass(frozen=True)
class Recipe:
    """How the two networks are trained.

    Attributes:
        steps: Steps in all.
        lr: Adam's learning rate.
        betas: Adam's betas.
        constant_share: Share of the steps at the full rate; from there it falls linearly to 0.
        lambda_l1: Weight of the L1 term.
        gan: The adversarial loss.
        ndf: Channels of the discriminator's first layer.
        ema: Decay of the moving average of the generator's weights, for each step; 0 takes the weights as they are.
        device: Where to compute, as torch names it.
        dtype: What convolutions compute in: float32 or bfloat16.
    """

    steps: int
    lr: float
    betas: tuple[float, float]
    constant_share: float
    lambda_l1: float
    gan: Literal["bce", "lsgan"]
    ndf: int
    ema: float
    device: torch.device
    dtype: torch.dtype


_Network = TypeVar("_Network", bound=nn.Module)


class NotFiniteError(ArithmeticError):
    """A loss is NaN or infinite; the weights were not changed by it."""


class Pix2Pix:
    """Generator and discriminator with their optimizers.

    Args:
        config: The generator's architecture.
        recipe: How to train.
    """

    def __init__(self, config: GeneratorConfig, recipe: Recipe) -> None:
        self.recipe = recipe
        self.generator = self._placed(Generator(config))
        self.discriminator = self._placed(Discriminator(config.in_channels + 3, recipe.ndf))
        self._optimizers = [
            torch.optim.Adam(network.parameters(), recipe.lr, recipe.betas)
            for network in (self.generator, self.discriminator)
        ]
        self._schedules = [torch.optim.lr_scheduler.LambdaLR(each, self._rate) for each in self._optimizers]
        self._average = (
            AveragedModel(self.generator, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema))  # type: ignore[no-untyped-call]
            if recipe.ema
            else None
        )

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self._schedules[0].get_last_lr()[0])

    @property
    def result(self) -> Generator:
        """The generator to keep: of averaged weights, if asked for. Its BatchNorm statistics are not settled."""
        chosen = self._average.module if self._average else self.generator
        assert isinstance(chosen, Generator)
        return chosen

    def autocast(self) -> torch.autocast:
        """The precision that the recipe asks for."""
        device = self.recipe.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.recipe.dtype == torch.bfloat16)

    def step(self, x_BCHW: Tensor, y_BCHW: Tensor) -> dict[str, float]:
        """Train both networks on one batch.

        Args:
            x_BCHW: Templates, values in [-1, 1].
            y_BCHW: Targets, RGB, values in [-1, 1].

        Returns:
            The losses: discriminator, gan (the generator's adversarial term), l1 (without its weight).

        Raises:
            NotFiniteError: A loss is NaN or infinite.
        """
        self.generator.train()
        with self.autocast():
            fake_BCHW = self.generator(x_BCHW).float()
        judged = self._train_discriminator(x_BCHW, y_BCHW, fake_BCHW.detach())
        gan, l1 = self._train_generator(x_BCHW, y_BCHW, fake_BCHW)
        for schedule in self._schedules:
            schedule.step()
        if self._average:
            self._average.update_parameters(self.generator)
        return {"discriminator": judged, "gan": gan, "l1": l1}

    def _train_discriminator(self, x: Tensor, y: Tensor, fake: Tensor) -> float:
        self.discriminator.requires_grad_(True)
        loss = (self._gan(x, y, real=True) + self._gan(x, fake, real=False)) / 2
        value = _finite("discriminator", loss)
        self._descend(1, loss)
        return value

    def _train_generator(self, x: Tensor, y: Tensor, fake: Tensor) -> tuple[float, float]:
        self.discriminator.requires_grad_(False)
        gan, l1 = self._gan(x, fake, real=True), functional.l1_loss(fake, y)
        values = _finite("gan", gan), _finite("l1", l1)
        self._descend(0, gan + self.recipe.lambda_l1 * l1)
        return values

    def _gan(self, x: Tensor, image: Tensor, real: bool) -> Tensor:
        with self.autocast():
            logits = self.discriminator(torch.cat((x, image), dim=1)).float()
        wanted = torch.full_like(logits, float(real))
        if self.recipe.gan == "lsgan":
            return functional.mse_loss(logits, wanted)
        return functional.binary_cross_entropy_with_logits(logits, wanted)

    def _descend(self, which: int, loss: Tensor) -> None:
        self._optimizers[which].zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizers[which].step()

    def _rate(self, step: int) -> float:
        falling = self.recipe.steps * (1 - self.recipe.constant_share)
        return min(1.0, max(0.0, (self.recipe.steps - step) / falling)) if falling else 1.0

    def _placed(self, network: _Network) -> _Network:
        network.to(self.recipe.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network


def _finite(name: str, loss: Tensor) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise NotFiniteError(f"the {name} loss is {value}")
    return value
