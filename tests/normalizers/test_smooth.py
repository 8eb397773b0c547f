"""Smooth parts of a change: the guided filter passes local affine changes and smooths everything else away; drift, what
a generator is off by on average, is taken back in tissue, while detail and glass stay.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter, zoom

from tests.support.made_store import paint_tissue
from wsi_stain.core.geometry import Size
from wsi_stain.normalizers.smooth import (
    STEP,
    crop,
    guided_filter,
    hold_to_table,
    interpolate_table,
    look_up_pixels,
    reach,
)
from wsi_stain.stain import colour_table


def image(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(paint_tissue(Size(width, height), seed)).permute(2, 0, 1)[None].float()


def direct(source: np.ndarray, changed: np.ndarray, radius: int, epsilon: float, y: int, x: int) -> np.ndarray:
    """One pixel by the published equations with plain loops, without subsampling."""

    def coefficients(cy: int, cx: int) -> tuple[np.ndarray, np.ndarray]:
        window = slice(cy - radius, cy + radius + 1), slice(cx - radius, cx + radius + 1)
        guide, wanted = source[window].reshape(-1, 3), changed[window].reshape(-1, 3)
        spread = np.cov(guide.T, bias=True) + epsilon * np.eye(3)
        shared = (guide - guide.mean(0)).T @ (wanted - wanted.mean(0)) / len(guide)
        slope = np.linalg.solve(spread, shared)
        return slope, wanted.mean(0) - guide.mean(0) @ slope

    around = [coefficients(y + dy, x + dx) for dy in range(-radius, radius + 1) for dx in range(-radius, radius + 1)]
    slope, offset = (np.mean([each[part] for each in around], axis=0) for part in (0, 1))
    return source[y, x] @ slope + offset


def test_an_affine_change_passes() -> None:
    source = torch.rand((1, 3, 128, 160), generator=torch.Generator().manual_seed(2)) * 200
    mix = torch.tensor([[0.8, 0.1, 0.1], [0.0, 0.9, 0.2], [0.1, 0.0, 0.7]])
    changed = torch.einsum("oc,bchw->bohw", mix, source) + torch.tensor([3.0, -5.0, 8.0])[:, None, None]
    made = guided_filter(source, changed, radius=16, epsilon=0.01)
    assert (made - changed).abs().max() < 0.5


def test_invented_structure_drops_out() -> None:
    source = torch.full((1, 3, 128, 128), 200.0)
    source += torch.randn(source.shape, generator=torch.Generator().manual_seed(0))
    changed = source.clone()
    changed[..., 60:64, 60:64] = 40.0  # a nucleus that is not there
    made = guided_filter(source, changed, radius=16, epsilon=100.0)
    assert (made - source)[..., 60:64, 60:64].abs().max() < 5


def test_agrees_with_the_equations() -> None:
    """On an image without detail below the coarse grid the subsampling changes hardly anything."""
    rough = torch.rand((1, 3, 16, 16), generator=torch.Generator().manual_seed(1)) * 200
    source, changed = (
        torch.nn.functional.interpolate(each, scale_factor=4, mode="nearest")
        for each in (rough, rough.flip(1) ** 2 / 255)
    )
    made = guided_filter(source, changed, radius=8, epsilon=50.0)[0].permute(1, 2, 0).numpy()
    arrays = [each[0].permute(1, 2, 0).double().numpy() for each in (source, changed)]
    differences = [np.abs(made[y, x] - direct(*arrays, 8, 50.0, y, x)).max() for y, x in ((26, 34), (30, 30), (38, 25))]
    spread = np.abs(arrays[1] - arrays[0]).mean()
    assert max(differences) < 0.15 * spread


@pytest.mark.parametrize("radius", [8, 32])
def test_the_filter_looks_no_further_than_its_reach(radius: int) -> None:
    source, changed = image(320, 320), image(320, 320, seed=1)
    whole = guided_filter(source, changed, radius, 100.0)
    far = reach(radius)
    assert far % STEP == 0
    first, last = 160 - far, 160 + STEP + far
    cut = guided_filter(source[..., first:last, first:last], changed[..., first:last, first:last], radius, 100.0)
    inner = slice(far, far + STEP)
    assert (cut[..., inner, inner] - whole[..., 160 : 160 + STEP, 160 : 160 + STEP]).abs().max() < 1e-2


WHITE = torch.tensor([255.0, 255.0, 255.0])
_DRAWN = np.random.default_rng(3).uniform(0, 255, (9, 9, 9, 3)).astype(np.float32)
TABLE = torch.from_numpy(np.sort(_DRAWN.reshape(-1, 3), axis=0).reshape(_DRAWN.shape))
"""Any table; no two entries of it are alike."""


def tissue(side: int) -> torch.Tensor:
    """Stained everywhere, and even in each cell of the coarse grid, so that a cell's mean is its pixels' colour."""
    cells = torch.randint(0, 150, (1, side // STEP, side // STEP, 3), generator=torch.Generator().manual_seed(0))
    return cells.repeat_interleave(STEP, 1).repeat_interleave(STEP, 2).to(torch.uint8)


def look_up(source: torch.Tensor) -> torch.Tensor:
    return look_up_pixels(TABLE, source).float()


def hold(source: torch.Tensor, generated: torch.Tensor) -> torch.Tensor:
    """Generated pixels, held to the table, without the reach along the edges."""
    return hold_to_table(source, generated, look_up_pixels(TABLE, source), WHITE, 16).float()


def inner(image: torch.Tensor) -> torch.Tensor:
    return crop(image, reach(16))


def hold_directly(source: np.ndarray, generated: np.ndarray, table: np.ndarray, radius: int) -> np.ndarray:
    """The module's equations with SciPy's filters, far from the edges: what is added to the table, (h, w, 3)."""
    cells = [each.reshape(len(each) // STEP, STEP, -1, STEP, 3).mean((1, 3)) for each in (source, generated, table)]
    weight = np.clip((1 - (cells[0] / 255).min(axis=2, keepdims=True)) / 0.2, 0, 1)

    def mean(values: np.ndarray) -> np.ndarray:
        size = (2 * radius // STEP + 1, 2 * radius // STEP + 1, 1)
        return uniform_filter(uniform_filter(values, size, mode="constant"), size, mode="constant")

    off = cells[1] - cells[2]
    kept = off - weight * mean(weight * off) / np.maximum(mean(weight), 1e-3)
    return zoom(kept, (STEP, STEP, 1), order=1, mode="nearest", grid_mode=True)


def test_holds_as_the_equations_say() -> None:
    source, generated = (paint_tissue(Size(320, 240), seed) for seed in (0, 1))
    images = [torch.from_numpy(image)[None] for image in (source, generated)]
    table = look_up_pixels(TABLE, images[0])
    added = torch.from_numpy(hold_directly(source, generated, table[0].numpy(), 16))[None]
    expected, made = inner(table + added).clamp(0, 255).float(), hold(*images)
    torch.testing.assert_close(made, expected, atol=0.5 + 1 / 32 + 1e-2, rtol=0)
    assert (made - inner(table)).abs().max() > 20


def test_looks_up_as_colour_tables_do() -> None:
    pixels = torch.randint(0, 256, (2, 5, 7, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    expected = torch.from_numpy(colour_table.look_up(TABLE.numpy(), pixels.reshape(-1, 3).numpy())).float()
    interpolated, rounded = (look_up(TABLE, pixels) for look_up in (interpolate_table, look_up_pixels))
    torch.testing.assert_close(interpolated.reshape(-1, 3), expected, atol=1e-2, rtol=0)
    assert rounded.dtype == torch.uint8
    torch.testing.assert_close(rounded.reshape(-1, 3).float(), expected, atol=0.52, rtol=0)


def test_what_is_off_everywhere_is_taken_back() -> None:
    source = tissue(160)
    wanted = look_up(source)
    assert torch.equal(hold(source, wanted + torch.tensor([9.0, -14.0, 5.0])), inner(wanted))


def test_what_is_off_in_small_places_stays() -> None:
    """As a nucleus that the generator makes darker than its colour tells."""
    source = tissue(224)
    off = torch.zeros(source.shape)
    off[:, 110:118, 110:118] = -40
    made = hold(source, look_up(source) + off) - inner(look_up(source))
    assert made[:, 76:80, 76:80].max() < -20  # half of it at least
    assert made[:, :36].abs().max() == 0


def test_the_finest_detail_is_the_tables() -> None:
    source = tissue(160)
    board = (torch.arange(160)[:, None, None] + torch.arange(160)[:, None]) % 2 * 20.0 - 10
    assert torch.equal(hold(source, look_up(source) + board), inner(look_up(source)))


def test_glass_stays_beside_tissue_that_is_off() -> None:
    source = tissue(160)
    source[:, :, 80:] = 255
    made = hold(source, look_up(source) - 30 * (source < 255))
    assert torch.equal(made, inner(look_up(source)))


def test_holding_looks_no_further_than_its_reach() -> None:
    source, generated = (torch.from_numpy(paint_tissue(Size(320, 320), seed))[None] for seed in (0, 1))
    whole, far = hold(source, generated.float()), reach(16)
    assert far % STEP == 0
    around = slice(160 - far, 160 + STEP + far)
    cut = hold(source[:, around, around], generated[:, around, around].float())
    assert torch.equal(cut, whole[:, 160 - far :, 160 - far :][:, :STEP, :STEP])
    assert (whole - inner(generated)).abs().max() > 5
