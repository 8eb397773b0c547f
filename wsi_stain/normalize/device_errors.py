"""Errors of a device as a task reports them: too little memory, upon which a slide is begun again in a smaller shape,
a shape that a library cannot compute, or a GPU that this process can use no more, upon which the process is replaced.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from typing import TypeVar

import torch

from wsi_stain.core.errors import BrokenDeviceError, DeviceMemoryError, WsiStainError

_OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED", "unable to find an engine")
"""What is said of it where it is not torch's allocator that speaks: by CUDA, its driver and Triton; by cuBLAS and
cuDNN; and by torch when no engine of cuDNN could run, since it drops each that finds no memory to work in."""

_UNSUPPORTED = (
    *("CUDNN_STATUS_NOT_SUPPORTED", "CUDNN_STATUS_BAD_PARAM", "CUBLAS_STATUS_NOT_SUPPORTED"),
    "cuDNN Frontend error",
)
"""Statuses of a call that was refused before anything ran: the process can go on, the same call never will."""

_BROKEN = ("CUDA error", "CUDA driver error", "cuDNN error", "Triton Error [CUDA]")
"""What torch says of any other failure on a GPU. Most leave the process's context there unusable: "the process must be
terminated and relaunched" (CUDA Runtime API, cudaError_t)."""

T = TypeVar("T")
R = TypeVar("R")


def translate_device_errors(function: Callable[[T], R]) -> Callable[[T], R]:
    """Wrap a task's function so that its device's errors are ours: DeviceMemoryError, BrokenDeviceError, or refused.

    When one is raised, nothing that the call computed is held any more, neither by frames nor by torch's cache: the
    next try has the device's whole memory.
    """

    @functools.wraps(function)
    def guarded(task: T) -> R:
        try:
            return function(task)
        except RuntimeError as error:
            translated = _translate(error)
            if translated is None:
                raise
            traceback.clear_frames(error.__traceback__)
        # Out here the error is gone, and with it the last that held what its frames did.
        if isinstance(translated, DeviceMemoryError) and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()
        raise translated

    return guarded


def _translate(error: RuntimeError) -> WsiStainError | None:
    """Return the error of ours that torch's stands for; None where the device is not at fault."""
    message = str(error)
    first = message.splitlines()[0].rstrip(".") if message else type(error).__name__

    def says(*words: str) -> bool:
        return any(each in message for each in words)

    if isinstance(error, torch.OutOfMemoryError) or says(*_OUT_OF_MEMORY):
        return DeviceMemoryError(
            f"The device has too little memory: {first}",
            "Use a device with more memory, or fewer tasks on it at a time (executor.gpu_tasks)",
        )
    if says(*_UNSUPPORTED):
        return WsiStainError(
            f"The GPU's libraries cannot compute this: {first}",
            "Set a smaller normalize.stride_px or batch, normalize.precision to float32, or executor.gpus to 0",
        )
    if isinstance(error, torch.AcceleratorError) or says(*_BROKEN):
        return BrokenDeviceError(
            f"The GPU failed, and this process can use it no more: {first}",
            "Run the same command again: finished work is kept. If it comes again, check the GPU's driver",
        )
    return None
