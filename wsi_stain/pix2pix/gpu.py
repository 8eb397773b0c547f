"""What a GPU needs of the host, and its errors as a task reports them. Knows no slides or files.

Memory of the host that a GPU copies from and to by itself, while both compute, is page-locked, or "pinned"; where the
machine has no more of it, that is said as such, and not taken for a GPU's memory.

A device's errors are: too little memory, upon which a slide is begun again in a smaller shape; a shape that a library
cannot compute; or a GPU that this process can use no more, upon which the process is replaced.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_stain.core.errors import BrokenDeviceError, DeviceMemoryError, WsiStainError


def empty_pinned(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Allocate a tensor in pinned memory; torch keeps freed ones and gives them again, once no copy needs them.

    Raises:
        WsiStainError: There is none.
    """
    try:
        return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)
    except RuntimeError as error:
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        raise WsiStainError(
            f"The machine gives no {size / 1e6:.1f} MB of page-locked memory for copies to its GPU: "
            f"{str(error).splitlines()[0]}",
            "Give it more memory, or let fewer tasks run at a time: executor.gpu_tasks, normalize.threads, workers",
        ) from error


def stack_arrays(arrays: Sequence[NDArray[np.uint8]], pin: bool) -> Tensor:
    """Stack 8-bit arrays of one shape, (...) to (B, ...), each copied once: into pinned memory, or any other.

    One array that need not be pinned is not copied.
    """
    if len(arrays) == 1 and not pin:
        return torch.from_numpy(arrays[0][None])
    shape = (len(arrays), *arrays[0].shape)
    stacked = empty_pinned(shape, torch.uint8) if pin else torch.empty(shape, dtype=torch.uint8)
    np.stack(arrays, out=stacked.numpy())
    return stacked


def copy_to_pinned(values: Tensor) -> Tensor:
    """Begin a copy from a GPU into pinned memory on the present stream."""
    return empty_pinned(values.shape, values.dtype).copy_(values, non_blocking=True)


def record_event(stream: torch.cuda.Stream) -> torch.cuda.Event:
    """Mark a stream's present end; who waits for it sleeps, instead of spinning on a core that others want."""
    event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    event.record(stream)
    return event


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
