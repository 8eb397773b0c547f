"""Memory that a GPU copies by itself: stacked in one copy, and where there is none, said as what it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsi_stain.core.errors import WsiStainError
from wsi_stain.normalize.device_errors import translate_device_errors
from wsi_stain.pix2pix.pinned_memory import copy_to_pinned, pinned, record_event, stack_arrays

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
    assert back.is_pinned() and pinned((2, 3), torch.float32).is_pinned()
    np.testing.assert_array_equal(back.numpy(), np.stack(WINDOWS))
