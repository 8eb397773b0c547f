"""Errors of a device as a task reports them: too little memory, upon which a slide is begun again in a smaller shape,
or a GPU that this process can use no more, upon which the process is replaced.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

from wsi_stain.core.errors import BrokenDeviceError, DeviceMemoryError, WsiStainError
from wsi_stain.normalizers.config import NormalizeConfig

_OUT_OF_MEMORY = ("out of memory", "_ALLOC_FAILED", "ALLOCATION_FAILED")
"""What CUDA, cuBLAS and cuDNN say of it, in this order, where it is not torch that asked for the memory."""

_BROKEN = ("CUDA error", "cuDNN error")
"""What torch says of any other failure on a GPU. Most leave the process's context there unusable: "the process must be
terminated and relaunched" (CUDA Runtime API, cudaError_t)."""


class DeviceTask(Protocol):
    """A task for the generator."""

    @property
    def normalize(self) -> NormalizeConfig: ...


T = TypeVar("T", bound=DeviceTask)
R = TypeVar("R")


def translate_device_errors(function: Callable[[T], R]) -> Callable[[T], R]:
    """Wrap a task's function so that its device's errors are ours: DeviceMemoryError and BrokenDeviceError.

    When either is raised, nothing that the call computed is held any more, neither by frames nor by torch's cache:
    the next try has the device's whole memory.
    """

    @functools.wraps(function)
    def guarded(task: T) -> R:
        try:
            return function(task)
        except RuntimeError as error:
            translated = _translate(error, task.normalize.stride_px)
            if translated is None:
                raise
            traceback.clear_frames(error.__traceback__)
        # Out here the error is gone, and with it the last that held what its frames did.
        if isinstance(translated, DeviceMemoryError) and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()
        raise translated

    return guarded


def _translate(error: RuntimeError, stride_px: int) -> WsiStainError | None:
    """Return the error of ours that torch's stands for; None where the device is not at fault."""
    message = str(error)
    first = message.splitlines()[0] if message else type(error).__name__
    if isinstance(error, torch.OutOfMemoryError) or any(words in message for words in _OUT_OF_MEMORY):
        return DeviceMemoryError(
            f"The device has too little memory for squares of {stride_px} px: {first}",
            "Use a device with more memory, or fewer tasks on it at a time (executor.gpu_tasks)",
        )
    if isinstance(error, torch.AcceleratorError) or any(words in message for words in _BROKEN):
        return BrokenDeviceError(
            f"The GPU failed, and this process can use it no more: {first}",
            "Run the same command again: finished work is kept. If it comes again, check the GPU's driver",
        )
    return None
