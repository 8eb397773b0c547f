"""The device's want of memory as an error of ours, upon which a slide is begun again in a smaller shape."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from wsi_stain.errors import DeviceMemoryError


@contextmanager
def device_memory(core: int) -> Iterator[None]:
    """Within it, computing on a device whose memory does not suffice raises DeviceMemoryError.

    Args:
        core: Side of the squares that the generator yields, px: what may be made smaller.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryError(
            f"The device has too little memory for squares of {core} px: {str(error).splitlines()[0]}",
            "Use a device with more memory, or fewer tasks on it at a time (executor.gpu_tasks)",
        ) from error
