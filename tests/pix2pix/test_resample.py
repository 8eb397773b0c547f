"""Means of squares of pixels, and pixels between means."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsi_stain.pix2pix.resample import add_enlarged, enlarge, mean_of_cells, shrink_pixels


@pytest.mark.parametrize("side", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_means_of_squares(side: int, dtype: torch.dtype) -> None:
    image = torch.randint(0, 256, (2, 24, 40, 3), generator=torch.Generator().manual_seed(0)).to(dtype)
    window = image[:, 8:24, 8:40]  # not contiguous
    expected = window.numpy().reshape(2, 16 // side, side, 32 // side, side, 3).mean(axis=(2, 4), dtype=np.float64)
    np.testing.assert_allclose(mean_of_cells(window, side).numpy(), expected, rtol=1e-6)


def test_shrunk_pixels_are_rounded_half_up() -> None:
    pixels = torch.tensor([[0, 1, 255, 255], [1, 0, 255, 254], [0, 0, 7, 8], [0, 1, 8, 7]], dtype=torch.uint8)
    made = shrink_pixels(pixels[None, :, :, None].expand(1, 4, 4, 3), 2)
    assert made.dtype == torch.uint8
    assert made[0, :, :, 0].tolist() == [[1, 255], [0, 8]]
    assert shrink_pixels(pixels, 1) is pixels


@pytest.mark.parametrize("factor", [2, 4])
def test_enlarged_as_torch_does(factor: int) -> None:
    image = torch.rand((2, 9, 7, 3), generator=torch.Generator().manual_seed(1)) * 255
    expected = torch.nn.functional.interpolate(image.permute(0, 3, 1, 2), scale_factor=factor, mode="bilinear")
    torch.testing.assert_close(enlarge(image, factor), expected.permute(0, 2, 3, 1), atol=1e-3, rtol=0)
    assert enlarge(image, 1) is image


@pytest.mark.parametrize("factor", [2, 4])
def test_a_change_is_added_as_it_is_enlarged(factor: int) -> None:
    """In sixteenths of a level, so that it is off by a 32nd at most; what goes beyond black or white stops there."""
    draw = torch.Generator().manual_seed(2)
    change = torch.rand((2, 72, 9, 3), generator=draw) * 510 - 255
    whole = torch.randint(0, 256, (2, 71 * factor, 8 * factor, 3), generator=draw, dtype=torch.uint8)
    base = whole[:, factor:, factor:]  # not contiguous
    expected = (base + enlarge(change, factor)[:, factor:-factor, factor:-factor]).clamp(0, 255)
    made = add_enlarged(base, change, factor)
    torch.testing.assert_close(made.float(), expected, atol=0.5 + 1 / 32 + 1e-4, rtol=0)
    assert made.min() == 0 and made.max() == 255
    part = add_enlarged(base[:, 24 * factor : 40 * factor], change[:, 24:42], factor)
    assert torch.equal(part, made[:, 24 * factor : 40 * factor])
