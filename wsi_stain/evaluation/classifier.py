"""A small classifier of patches, trained from nothing: what a laboratory's model would be. Downloads nothing.

The network is one of torchvision's, by name, without weights. The same patches and seed give the same network on the
same kind of device with the same number of threads.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from wsi_stain.core.arrays import RgbTiles
from wsi_stain.core.errors import ConfigError
from wsi_stain.core.records import StrictRecord

_EVALUATION_BATCH = 256


class ClassifierConfig(StrictRecord):
    """Settings of the classifier's training.

    Attributes:
        backbone: A classification network of torchvision, such as resnet18 or shufflenet_v2_x0_5.
        side: Side of the patches it sees, px.
        epochs: Passes over the patches.
        batch: Patches in a step.
        lr: Learning rate of AdamW at its highest; it falls to 0 along a cosine.
    """

    backbone: str = "resnet18"
    side: int = Field(default=64, ge=32, le=512)
    epochs: int = Field(default=10, ge=1)
    batch: int = Field(default=32, ge=2)
    lr: float = Field(default=1e-3, gt=0)


def make_network(backbone: str) -> nn.Module:
    """Make a network with one output; ConfigError where torchvision has none of that name."""
    known = torchvision.models.list_models(module=torchvision.models)
    if backbone not in known:
        raise ConfigError(
            f"torchvision has no network {backbone}", "Give resnet18, shufflenet_v2_x0_5, mobilenet_v3_small, ..."
        )
    network: nn.Module = torchvision.models.get_model(backbone, weights=None, num_classes=1)
    return network


def train_classifier(
    patches: RgbTiles,
    labels: NDArray[np.bool_],
    config: ClassifierConfig,
    seed: int,
    device: str = "cpu",
    on_epoch: Callable[[], None] = lambda: None,
) -> nn.Module:
    """Train on patches, flipped and turned at random; both labels weigh the same.

    Args:
        patches: RGB, (n, side, side, 3).
        labels: (n,), true for the positive label; both occur.
        config: How.
        seed: Of the network's start and of all chance.
        device: As torch names it.
        on_epoch: Called after each pass.

    Returns:
        The network in eval mode.
    """
    torch.manual_seed(seed)
    network = make_network(config.backbone).to(device).train()
    steps = max(1, len(patches) // config.batch)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps * config.epochs)
    positive = torch.tensor(float((~labels).sum() / labels.sum()), device=device)
    loss = nn.BCEWithLogitsLoss(pos_weight=positive)
    rng = np.random.default_rng(seed)
    for _ in range(config.epochs):
        for chosen in np.array_split(rng.permutation(len(patches)), steps):
            augmented = np.rot90(patches[chosen], int(rng.integers(4)), axes=(1, 2))
            x_BCHW = _as_input(augmented[:, :, ::-1] if rng.integers(2) else augmented, device)
            targets = torch.from_numpy(labels[chosen].astype(np.float32)).to(device)
            optimizer.zero_grad(set_to_none=True)
            loss(network(x_BCHW)[:, 0], targets).backward()
            optimizer.step()
            schedule.step()
        on_epoch()
    _recalibrate_batchnorm(network, patches[rng.permutation(len(patches))], config.batch, device)
    return network.eval()


def classify(network: nn.Module, patches: RgbTiles, device: str = "cpu") -> NDArray[np.float64]:
    """Measure how much each patch, (n, side, side, 3), looks like the positive label: (n,), unbounded."""
    logits = []
    with torch.inference_mode():
        for start in range(0, len(patches), _EVALUATION_BATCH):
            batch = _as_input(patches[start : start + _EVALUATION_BATCH], device)
            logits.append(network(batch)[:, 0].double().cpu().numpy())
    return np.concatenate(logits)


def _recalibrate_batchnorm(network: nn.Module, patches: RgbTiles, batch: int, device: str) -> None:
    """Measure the statistics of batch normalization again: running means lag behind a short training."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # the plain mean over all batches
    with torch.no_grad():
        for start in range(0, len(patches) - 1, batch):
            network(_as_input(patches[start : start + batch], device))


def _as_input(patches: RgbTiles, device: str) -> Tensor:
    x_BHWC = torch.from_numpy(np.ascontiguousarray(patches)).to(device)
    return x_BHWC.permute(0, 3, 1, 2).float() / 127.5 - 1
