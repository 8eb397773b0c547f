"""Precision: as asked for, and by default what the device is fast at."""

from __future__ import annotations

import pytest
import torch

from wsi_stain.pix2pix.precision import compute_dtype

CPU = torch.device("cpu")


def test_as_asked_for() -> None:
    assert compute_dtype("float32", CPU) == torch.float32
    assert compute_dtype("bfloat16", CPU) == torch.bfloat16


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_takes_what_the_processor_is_fast_at(
    monkeypatch: pytest.MonkeyPatch, native: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    assert compute_dtype("auto", CPU) == expected


def test_auto_takes_float32_on_other_devices() -> None:
    assert compute_dtype("auto", torch.device("meta")) == torch.float32
