"""One step of Pix2Pix: the discriminator's, then the generator's. Knows no slides, files or epochs.

    loss_D = (gan(D(x, y), real) + gan(D(x, G(x)), fake)) / 2
    loss_G = gan(D(x, G(x)), real) + lambda |y - G(x)|          arXiv 1611.07004, equations 1 to 4 and section 3.3

x is the template, y the target. `gan` is binary cross-entropy as published, or the square of LSGAN (arXiv 1611.04076).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from wsi_stain.pix2pix import distributed
from wsi_stain.pix2pix.config import GeneratorConfig
from wsi_stain.pix2pix.discriminator import Discriminator
from wsi_stain.pix2pix.generator import Generator
from wsi_stain.pix2pix.gpu import copy_to_pinned, record_event


@dataclass(frozen=True)
class Recipe:
    """Recipe of the training of both networks.

    Attributes:
        steps: Steps in all.
        lr: Adam's learning rate.
        betas: Adam's betas.
        constant_share: Share of the steps at the full rate; from there it falls linearly to 0.
        lambda_l1: Weight of the L1 term.
        gan: The adversarial loss.
        ndf: Channels of the discriminator's first layer.
        ema: Decay of the moving average of the generator's weights, for each step, at most (1 + n) / (10 + n) after n
            steps; 0 takes the weights as they are.
        clip: Largest norm of each network's gradient; 0 sets no limit.
        compile: Whether torch.compile makes both networks faster first.
        device: Where to compute, as torch names it.
        dtype: What convolutions compute in: float32, bfloat16 or float16.
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
    clip: float = 0.0
    compile: bool = False


_Network = TypeVar("_Network", bound=nn.Module)
_Call = Callable[[Tensor], Tensor]

_GENERATOR, _DISCRIMINATOR = 0, 1


class NotFiniteError(ArithmeticError):
    """A loss is NaN or infinite, and so are the weights that it moved."""


class PendingLosses:
    """The losses of a step that a GPU may still be at work on; whoever reads them waits for it.

    Args:
        losses: One number each, by name; means over all replicas.
    """

    def __init__(self, losses: Mapping[str, Tensor]) -> None:
        self._names, values = list(losses), torch.stack(list(losses.values()))
        on_gpu = values.device.type == "cuda"
        self._values = copy_to_pinned(values) if on_gpu else values
        self._event = record_event(torch.cuda.current_stream(values.device)) if on_gpu else None

    def read(self) -> dict[str, float]:
        """Read the losses: discriminator, gan (the generator's adversarial term), l1 (without its weight).

        Raises:
            NotFiniteError: One is NaN or infinite.
        """
        if self._event is not None:
            self._event.synchronize()
        losses = dict(zip(self._names, self._values.tolist(), strict=True))
        for name, value in losses.items():
            if not math.isfinite(value):
                raise NotFiniteError(f"the {name} loss is {value}")
        return losses


class Pix2Pix:
    """Generator and discriminator with their optimizers.

    Args:
        config: The generator's architecture.
        recipe: How to train.

    Attributes:
        steps_done: How many steps these weights have seen.
    """

    def __init__(self, config: GeneratorConfig, recipe: Recipe) -> None:
        self.recipe = recipe
        self.steps_done = 0
        self.generator = self._to_device(Generator(config))
        self.discriminator = self._to_device(Discriminator(config.in_channels + 3, recipe.ndf))
        self._networks: tuple[nn.Module, nn.Module] = self.generator, self.discriminator
        self._generate, self._judge = (self._compile(network) for network in self._networks)
        self._optimizers = [
            torch.optim.Adam(network.parameters(), recipe.lr, recipe.betas) for network in self._networks
        ]
        self._scaler = torch.amp.GradScaler(recipe.device.type, enabled=recipe.dtype == torch.float16)
        self._average = (
            AveragedModel(self.generator, multi_avg_fn=self._move_average)  # type: ignore[arg-type]
            if recipe.ema
            else None
        )

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self.recipe.lr * self._lr_factor(self.steps_done)

    @property
    def result(self) -> Generator:
        """The generator to keep: of averaged weights, if asked for. Its BatchNorm statistics are not recalibrated."""
        chosen = self._average.module if self._average else self.generator
        assert isinstance(chosen, Generator)
        return chosen

    @property
    def is_finite(self) -> bool:
        """True if all weights are numbers, averaged ones included."""
        networks = [network for _, network in self._stateful()]
        return all(bool(torch.isfinite(each).all()) for network in networks for each in network.parameters())

    def autocast(self) -> torch.autocast:
        """Return the context of the precision that the recipe asks for."""
        reduced = self.recipe.dtype != torch.float32
        return torch.autocast(self.recipe.device.type, self.recipe.dtype if reduced else None, enabled=reduced)

    def step(self, x_BCHW: Tensor, y_BCHW: Tensor) -> PendingLosses:
        """Train both networks on one batch.

        Args:
            x_BCHW: Templates, values in [-1, 1].
            y_BCHW: Targets, RGB, values in [-1, 1].

        Returns:
            The losses. Whoever reads them before the next step is begun makes a GPU wait.
        """
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.lr
        self.generator.train()
        with self.autocast():
            fake_BCHW = self._generate(x_BCHW).float()
        judged = self._train_discriminator(x_BCHW, y_BCHW, fake_BCHW.detach())
        gan, l1 = self._train_generator(x_BCHW, y_BCHW, fake_BCHW)
        self._scaler.update()
        self.steps_done += 1
        if self._average:
            self._average.update_parameters(self.generator)
        return PendingLosses({"discriminator": judged, "gan": gan, "l1": l1})

    def state(self) -> dict[str, Tensor]:
        """Return everything the next step depends on but its batch and chance, by name."""
        tensors: dict[str, Tensor] = {}
        for name, network in self._stateful():
            tensors |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
        for name, optimizer in zip(("generator", "discriminator"), self._optimizers, strict=True):
            for number, moments in optimizer.state_dict()["state"].items():
                tensors |= {f"adam.{name}.{number}.{key}": value for key, value in moments.items()}
        tensors["steps_done"] = torch.tensor(self.steps_done)
        if scaling := self._scaler.state_dict():
            tensors |= {f"scaler.{key}": torch.tensor(scaling[key]) for key in ("scale", "_growth_tracker")}
        return tensors

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave, from a Pix2Pix of the same architecture and recipe."""
        for name, network in self._stateful():
            network.load_state_dict(_entries_below(name, state))
        for name, optimizer in zip(("generator", "discriminator"), self._optimizers, strict=True):
            moments: dict[int, dict[str, Tensor]] = {}
            for key, value in _entries_below(f"adam.{name}", state).items():
                number, moment = key.split(".")
                moments.setdefault(int(number), {})[moment] = value
            optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
        self.steps_done = int(state["steps_done"])
        if scaling := _entries_below("scaler", state):
            self._scaler.load_state_dict(
                self._scaler.state_dict()
                | {"scale": float(scaling["scale"]), "_growth_tracker": int(scaling["_growth_tracker"])}
            )

    def _stateful(self) -> list[tuple[str, nn.Module]]:
        average = [("average", self._average)] if self._average else []
        return [("generator", self.generator), ("discriminator", self.discriminator), *average]

    def _train_discriminator(self, x: Tensor, y: Tensor, fake: Tensor) -> Tensor:
        self.discriminator.requires_grad_(True)
        loss = (self._gan(x, y, real=True) + self._gan(x, fake, real=False)) / 2
        self._descend(_DISCRIMINATOR, loss)
        return _replica_mean(loss)

    def _train_generator(self, x: Tensor, y: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        self.discriminator.requires_grad_(False)
        gan, l1 = self._gan(x, fake, real=True), functional.l1_loss(fake, y)
        self._descend(_GENERATOR, gan + self.recipe.lambda_l1 * l1)
        return _replica_mean(gan), _replica_mean(l1)

    def _gan(self, x: Tensor, image: Tensor, real: bool) -> Tensor:
        with self.autocast():
            logits = self._judge(torch.cat((x, image), dim=1)).float()
        wanted = torch.full_like(logits, float(real))
        if self.recipe.gan == "lsgan":
            return functional.mse_loss(logits, wanted)
        return functional.binary_cross_entropy_with_logits(logits, wanted)

    def _descend(self, which: int, loss: Tensor) -> None:
        optimizer, parameters = self._optimizers[which], list(self._networks[which].parameters())
        optimizer.zero_grad()
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        distributed.all_reduce_mean(parameter.grad for parameter in parameters if parameter.grad is not None)
        if self.recipe.clip:
            self._scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(parameters, self.recipe.clip)
        self._scaler.step(optimizer)

    def _move_average(self, average: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        """Move the average by one step; its decay grows, so that the first weights do not outlive the training."""
        decay = min(self.recipe.ema, (1 + self.steps_done) / (10 + self.steps_done))
        get_ema_multi_avg_fn(decay)(average, current, count)  # type: ignore[no-untyped-call]

    def _lr_factor(self, step: int) -> float:
        falling = self.recipe.steps * (1 - self.recipe.constant_share)
        return min(1.0, max(0.0, (self.recipe.steps - step) / falling)) if falling else 1.0

    def _to_device(self, network: _Network) -> _Network:
        network.to(self.recipe.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    def _compile(self, network: nn.Module) -> _Call:
        compiled: _Call = torch.compile(network) if self.recipe.compile else network
        return compiled


def _entries_below(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries whose names begin with `name` and a dot, without both."""
    return {key[len(name) + 1 :]: value for key, value in state.items() if key.startswith(f"{name}.")}


def _replica_mean(loss: Tensor) -> Tensor:
    """Average a loss over all replicas, so that they agree on whether it is a number."""
    mean = loss.detach().clone()
    distributed.all_reduce_mean([mean])
    return mean
