"""What torch says of a device, and what a task reports of it: by status, not by the library that says it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from wsi_stain.core.errors import BrokenDeviceError, DeviceMemoryError, WsiStainError
from wsi_stain.evaluation.cohort import score_slide
from wsi_stain.evaluation.labelled import extract_labelled
from wsi_stain.evaluation.pairs import score_pair
from wsi_stain.normalize.device_errors import translate_device_errors

SAID: list[tuple[Exception, type[Exception]]] = [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), DeviceMemoryError),
    (RuntimeError("CUDA error: out of memory"), DeviceMemoryError),
    (RuntimeError("CUDA driver error: out of memory"), DeviceMemoryError),
    (RuntimeError("Triton Error [CUDA]: out of memory"), DeviceMemoryError),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), DeviceMemoryError),
    (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), DeviceMemoryError),
    (RuntimeError("GET was unable to find an engine to execute this computation"), DeviceMemoryError),
    (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED_SHAPE"), WsiStainError),
    (RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM"), WsiStainError),
    (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), BrokenDeviceError),
    (RuntimeError("CUDA driver error: invalid device context"), BrokenDeviceError),
    (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), BrokenDeviceError),
    (torch.AcceleratorError("CUDA error: device-side assert triggered"), BrokenDeviceError),
    (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), RuntimeError),
    (ValueError("out of memory, says somebody else"), ValueError),
]


@pytest.mark.parametrize(("said", "reported"), SAID, ids=[str(error)[:60] for error, _ in SAID])
def test_errors_are_told_by_their_status(said: Exception, reported: type[Exception]) -> None:
    @translate_device_errors
    def fail(task: object) -> None:
        raise said.with_traceback(None)

    with pytest.raises(reported) as caught:
        fail(None)
    assert caught.type is reported
    assert str(said) in str(caught.value)


class OnBrokenGpu:
    """A task of any kind whose first attribute is found on a GPU that just failed."""

    def __getattr__(self, name: str) -> object:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")


@pytest.mark.parametrize("function", [score_pair, score_slide, extract_labelled], ids=lambda each: each.__name__)
def test_what_evaluates_on_a_gpu_reports_so_too(function: Callable[[Any], object]) -> None:
    """A broken GPU is replaced with its process, instead of being tried again in it."""
    with pytest.raises(BrokenDeviceError, match="unspecified launch failure"):
        function(OnBrokenGpu())
