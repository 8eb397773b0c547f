"""BatchNorm statistics for inference: estimated anew with the final weights and without dropout, then frozen.

The running averages that training leaves behind belong to weights of the past and to activations under dropout; used
at inference they give dull or black images (FACTS: phillipi/pix2pix#34).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn

_Network = TypeVar("_Network", bound=nn.Module)


def recalibrate_batchnorm(
    network: _Network, inputs: Iterable[Tensor], autocast: AbstractContextManager[object] | None = None
) -> _Network:
    """Estimate a network's BatchNorm statistics and put it into eval mode.

    Args:
        network: Changed in place; its weights stay as they are.
        inputs: Batches like those of training, (B, C, H, W), at least one; the larger the better. Each counts equally.
        autocast: Context in which the network runs.

    Returns:
        The same network.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    network.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a cumulative average
        layer.train()
    with torch.no_grad(), autocast or nullcontext():
        for x_BCHW in inputs:
            network(x_BCHW)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    return network.eval()
