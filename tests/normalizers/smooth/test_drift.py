"""Drift: what a generator is off by on average is taken back in tissue; detail and glass stay."""

from __future__ import annotations

import numpy as np
import torch

from tests.support.made_store import paint_tissue
from wsi_stain.core.geometry import Size
from wsi_stain.normalizers.smooth.drift import STEP, hold_to_table, look_up, reach
from wsi_stain.stain import colour_table

WHITE = torch.tensor([255.0, 255.0, 255.0])
_DRAWN = np.random.default_rng(3).uniform(0, 255, (9, 9, 9, 3)).astype(np.float32)
TABLE = torch.from_numpy(np.sort(_DRAWN.reshape(-1, 3), axis=0).reshape(_DRAWN.shape))
"""Any table; no two entries of it are alike."""


def tissue(side: int) -> torch.Tensor:
    """Stained everywhere, and even in each cell of the coarse grid, so that a cell's mean is its pixels' colour."""
    cells = torch.rand((1, 3, side // STEP, side // STEP), generator=torch.Generator().manual_seed(0)) * 150
    return torch.nn.functional.interpolate(cells, scale_factor=STEP, mode="nearest")


def test_looks_up_as_colour_tables_do() -> None:
    colours = torch.rand((2, 3, 5, 7), generator=torch.Generator().manual_seed(1)) * 255
    expected = colour_table.look_up(TABLE.numpy(), colours.permute(0, 2, 3, 1).reshape(-1, 3).numpy())
    found = look_up(TABLE, colours).permute(0, 2, 3, 1).reshape(-1, 3)
    np.testing.assert_allclose(found, expected, atol=1e-2)


def test_what_is_off_everywhere_is_taken_back() -> None:
    source = tissue(160)
    wanted = look_up(TABLE, source)
    made = hold_to_table(source, wanted + torch.tensor([9.0, -14.0, 5.0])[:, None, None], TABLE, WHITE, 16)
    torch.testing.assert_close(made, wanted, atol=1e-2, rtol=0)


def test_detail_stays() -> None:
    """Also the finest pattern, which a thinned image would take for a shift."""
    source = tissue(160)
    board = (torch.arange(160)[:, None] + torch.arange(160)) % 2 * 20.0 - 10
    generated = look_up(TABLE, source) + board
    torch.testing.assert_close(hold_to_table(source, generated, TABLE, WHITE, 16), generated, atol=1e-2, rtol=0)


def test_glass_stays_beside_tissue_that_is_off() -> None:
    source = tissue(160)
    source[..., 80:] = 255
    generated = look_up(TABLE, source) - 30
    made = hold_to_table(source, generated, TABLE, WHITE, 16)
    assert torch.equal(made[..., 80:], generated[..., 80:])
    torch.testing.assert_close(made[..., :80], generated[..., :80] + 30, atol=1e-2, rtol=0)


def test_looks_no_further_than_its_reach() -> None:
    source, generated = (
        torch.from_numpy(paint_tissue(Size(320, 320), seed)).permute(2, 0, 1)[None].float() for seed in (0, 1)
    )
    whole, far = hold_to_table(source, generated, TABLE, WHITE, 16), reach(16)
    assert far % STEP == 0
    around, inner = slice(160 - far, 160 + STEP + far), slice(far, far + STEP)
    cut = hold_to_table(source[..., around, around], generated[..., around, around], TABLE, WHITE, 16)
    unlike = (cut[..., inner, inner] - whole[..., 160 : 160 + STEP, 160 : 160 + STEP]).abs().max()
    assert unlike < 1e-2
    assert (whole - generated).abs().max() > 5
