"""Precision that networks compute in, by device. Torch is loaded when a device is asked, not by settings alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypedDict

from wsi_stain.core.errors import ConfigError

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "float32", "bfloat16", "float16"]


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the type of convolutions: as asked for; `auto` is bfloat16 where the device has it natively."""
    import torch

    dtype: torch.dtype = getattr(torch, resolve_precision(precision, device.type))
    return dtype


def resolve_precision(precision: Precision, device: str) -> Precision:
    """Return a precision with `auto` replaced by what a device, as torch names it, computes in natively."""
    import torch

    if precision != "auto":
        return precision
    if device.startswith("cuda"):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return "bfloat16" if native else "float32"


class GpuReceipt(TypedDict):
    """Facts of a GPU: the precision that `auto` means there."""

    precision: Precision


def describe_gpu(device: str) -> GpuReceipt:
    """Describe this process's GPU, as a task's receipt; it opens a context on the GPU.

    Args:
        device: As torch names it.

    Raises:
        ConfigError: There is none.
    """
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            f"A worker for tasks on a GPU finds none (torch built for CUDA {torch.version.cuda or 'none'})",
            "Set executor.gpus to 0, or let only workers that have a GPU offer the resource GPU",
        )
    return {"precision": resolve_precision("auto", device)}


def default_device() -> str:
    """Return the device that the generator runs on by default: cuda where there is a GPU, else cpu."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
