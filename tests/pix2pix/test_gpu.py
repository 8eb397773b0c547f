"""What a GPU needs of the host, and what is reported of its errors.

Memory that a GPU copies by itself is stacked in one copy, and where there is none, that is said as what it is. Errors
are told by their status, not by the library that says it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from wsi_stain.core.errors import BrokenDeviceError, DeviceMemoryError, WsiStainError
from wsi_stain.evaluation.cohort import score_slide
from wsi_stain.evaluation.labelled import extract_labelled
from wsi_stain.evaluation.pairs import score_pair
from wsi_stain.pix2pix.gpu import copy_to_pinned, empty_pinned, record_event, stack_arrays, translate_device_errors

WINDOWS = list(np.random.default_rng(0).integers(0, 256, (3, 40, 32, 3), np.uint8))


def test_stacking_is_that_of_numpy() -> None:
    apart = [np.pad(window, ((1, 2), (3, 4), (0, 0)))[1:-2, 3:-4] for window in WINDOWS]
    np.testing.assert_array_equal(stack_arrays(apart, pin=False).numpy(), np.stack(WINDOWS))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, for which there is such memory")
def test_where_there_is_none_it_is_not_the_device_s_memory_that_lacks() -> None:
    """Without a GPU there is no such memory: torch's own error, told as that and not as a pass that is too large."""

    @translate_device_errors
    def task(_: object) -> None:
        stack_arrays(WINDOWS, pin=True)

    with pytest.raises(WsiStainError, match=r"no 0\.0 MB of page-locked memory") as caught:
        task(None)
    assert caught.type is WsiStainError
    assert "executor.gpu_tasks" in caught.value.remedy


@pytest.mark.gpu
def test_copies_there_and_back_are_the_same() -> None:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        there = stack_arrays(WINDOWS, pin=True).to("cuda", non_blocking=True)
        back = copy_to_pinned(there)
        event = record_event(stream)
    event.synchronize()
    assert back.is_pinned() and empty_pinned((2, 3), torch.float32).is_pinned()
    np.testing.assert_array_equal(back.numpy(), np.stack(WINDOWS))


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
