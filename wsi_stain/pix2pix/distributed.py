"""The processes that train one generator together, as torchrun starts them; alone, everything here does nothing.

Each replica computes on its share of every batch; gradients are averaged, so that all keep the same weights. The first
one writes the files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor, distributed

_PATIENCE = timedelta(hours=1)
"""How long a replica waits for the others, who may be scoring."""


def rank() -> int:
    """Return the number of this replica, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_main() -> bool:
    """Check whether this is the first replica, which writes the files."""
    return rank() == 0


def world_size() -> int:
    """Count the replicas that train together; 1 alone."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_distributed() -> bool:
    """Check whether torchrun started this process among several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def rank_device(device: str) -> str:
    """Return the device of this replica: with several GPUs in a machine, its own."""
    if device == "cuda" and is_distributed():
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return device


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """Join the replicas that torchrun started, and leave them at the end; alone, nothing happens."""
    if not is_distributed():
        yield
        return
    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=_PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def all_reduce_mean(tensors: Iterable[Tensor]) -> None:
    """Replace tensors of one type, in place, by their means over all replicas."""
    if world_size() == 1:
        return
    parts = list(tensors)
    flat = torch.cat([part.reshape(-1) for part in parts]) / world_size()
    distributed.all_reduce(flat)
    for part, mean in zip(parts, torch.split(flat, [part.numel() for part in parts]), strict=True):
        part.copy_(mean.view(part.shape))


def any_rank(wish: bool) -> bool:
    """Check whether any replica wishes so."""
    if world_size() == 1:
        return wish
    wishes = torch.tensor([float(wish)], device=_collective_device())
    distributed.all_reduce(wishes)
    return bool(wishes.item())


def barrier() -> None:
    """Wait until all replicas have come here."""
    if world_size() > 1:
        distributed.barrier()


def _collective_device() -> str:
    return "cuda" if distributed.get_backend() == "nccl" else "cpu"
