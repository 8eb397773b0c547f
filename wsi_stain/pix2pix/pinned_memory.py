"""Memory of the host that a GPU copies from and to by itself, while both compute: page-locked, or "pinned".

Where the machine has no more of it, that is said as such, and not taken for a GPU's memory. Knows no slides or files.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_stain.core.errors import WsiStainError


def pinned(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
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
    """Stack 8-bit arrays of one shape, (...) to (B, ...), each copied once: into pinned memory, or any other."""
    shape = (len(arrays), *arrays[0].shape)
    stacked = pinned(shape, torch.uint8) if pin else torch.empty(shape, dtype=torch.uint8)
    np.stack(arrays, out=stacked.numpy())
    return stacked


def copy_to_pinned(values: Tensor) -> Tensor:
    """Begin a copy from a GPU into pinned memory on the present stream."""
    return pinned(values.shape, values.dtype).copy_(values, non_blocking=True)


def record_event(stream: torch.cuda.Stream) -> torch.cuda.Event:
    """Mark a stream's present end; who waits for it sleeps, instead of spinning on a core that others want."""
    event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    event.record(stream)
    return event
