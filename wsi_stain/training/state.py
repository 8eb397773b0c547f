"""State of a training in one file, so that it can be taken up exactly there. Nothing pickled.

The file is safetensors: the tensors of `Pix2Pix.state`, and as metadata the course so far and the key of the training
it belongs to. Chance needs no place here: it depends on seed, epoch and step alone.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as encode
from torch import Tensor

from wsi_stain.core.journal import atomic_write
from wsi_stain.core.records import StrictRecord

_METADATA_KEY = "wsi_stain_training"


class TrainingState(StrictRecord):
    """State of a training between two steps.

    Attributes:
        epoch: The epoch at work, from 1.
        step: Steps done in it.
        sums: Sums of the losses over these steps.
        rows: The epochs before it, as `metrics.csv` has them.
        best: Best score so far, lower is better; None where there is none yet.
        stale: Epochs since then.
        threads: Threads that it computes with, on a CPU.
    """

    epoch: int = 1
    step: int = 0
    sums: dict[str, float] = Field(default_factory=dict)
    rows: list[dict[str, str]] = Field(default_factory=list)
    best: float | None = None
    stale: int = 0
    threads: int | None = None


def save_state(path: Path, key: str, state: TrainingState, tensors: dict[str, Tensor]) -> None:
    """Write a training's state, atomically.

    Args:
        path: The file.
        key: Fingerprint of the training.
        state: How it went so far.
        tensors: Of `Pix2Pix.state`.
    """
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    text = json.dumps({"key": key, "state": state.model_dump(mode="json")})  # unsorted: the rows' columns have an order
    atomic_write(path, encode(flat, metadata={_METADATA_KEY: text}))


def load_state(path: Path, key: str) -> tuple[TrainingState, dict[str, Tensor]] | None:
    """Read the state in a file; None where there is none, or one of another training, or a damaged one."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            stored = json.loads((file.metadata() or {})[_METADATA_KEY])
            if stored["key"] != key:
                return None
            tensors = {name: _to_channels_last(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
            return TrainingState.model_validate(stored["state"]), tensors
    except (SafetensorError, KeyError, TypeError, ValueError, ValidationError, OSError):
        return None


def _to_channels_last(tensor: Tensor) -> Tensor:
    """Bring weights of convolutions into the layout that training keeps them in."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
