"""What networks compute in, on which device."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16", "float16"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """What convolutions compute in: as asked for, or by `auto` bfloat16 where the device computes in it natively."""
    return _DTYPES[settled(precision, device)]


def settled(precision: Precision, device: torch.device) -> Precision:
    """A precision with `auto` replaced by what the device gets."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return "bfloat16" if native else "float32"


def default_device() -> str:
    """Where the generator runs unless one is told, as torch names it: cuda where there is a GPU, else cpu."""
    return "cuda" if torch.cuda.is_available() else "cpu"
