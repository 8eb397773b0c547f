"""Contrast within nuclei: closing them lowers it, a mere change of stain does not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.draw import disk

from wsi_stain.metrics.chromatin import NuclearDetail, contrast_kept, mean_detail, nuclear_detail
from wsi_stain.metrics.nuclei import nuclei_mask

Tiles = NDArray[np.uint8]

MPP = 0.25
WHITE = np.array([242, 240, 243.0])
STAINS = np.array([(0.65, 0.70, 0.29), (0.10, 0.95, 0.25)])
CENTRES = [(row, col) for row in range(24, 250, 44) for col in range(24, 250, 44)]


@pytest.fixture(scope="module")
def stained() -> NDArray[np.float64]:
    """H and E, (2, 256, 256, 2): round nuclei of 6 um with clumps of chromatin of half a um, in plain stroma."""
    rng = np.random.default_rng(0)
    found = np.empty((2, 256, 256, 2))
    for tile in found:
        clumps = gaussian_filter(rng.standard_normal((256, 256)), 2)
        tile[..., 0], tile[..., 1] = 0.15, 0.5
        for centre in CENTRES:
            tile[..., 0][disk(centre, 12)] = (1.3 + 0.3 * clumps / clumps.std())[disk(centre, 12)]
    return found.clip(0)


def show(stained: NDArray[np.float64], h: float = 1, e: float = 1, stains: object = STAINS) -> Tiles:
    od = stained * (h, e) @ np.asarray(stains)
    return np.asarray(np.rint((WHITE + 1) * np.exp(-od) - 1).clip(0, 255), np.uint8)


def kept(after: Tiles, before: Tiles) -> float:
    nuclei = nuclei_mask(before, MPP)
    assert nuclei is not None
    measured = [nuclear_detail(tiles, nuclei, MPP) for tiles in (after, before)]
    assert measured[0] is not None and measured[1] is not None
    share = contrast_kept(measured[0], measured[1])
    assert share is not None
    return share


def test_the_same_image_keeps_all(stained: NDArray[np.float64]) -> None:
    assert kept(show(stained), show(stained)) == 1


@pytest.mark.parametrize(("h", "e"), [(0.4, 1), (0.7, 1.3), (1.3, 0.7), (1, 0.5)])
def test_a_mere_change_of_stain_keeps_it(stained: NDArray[np.float64], h: float, e: float) -> None:
    other = np.array([(0.55, 0.78, 0.31), (0.05, 0.90, 0.42)])
    assert 0.9 < kept(show(stained, h, e, other), show(stained)) < 1.5


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_closed_nuclei_lower_it_by_their_share(stained: NDArray[np.float64], share: float) -> None:
    """A nucleus is closed by one dark colour all over it."""
    before = show(stained)
    closed = stained.copy()
    for centre in CENTRES[: round(share * len(CENTRES))]:
        closed[:, *disk(centre, 12), 0] = 2.2
    assert kept(show(closed), before) == pytest.approx(1 - share, abs=0.1)


def test_too_much_hematoxylin_closes_nuclei(stained: NDArray[np.float64]) -> None:
    before = show(stained)
    shares = [kept(show(stained, h), before) for h in (1, 2, 2.5, 3, 4)]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 0.4


def test_smoothing_a_nucleus_lowers_it(stained: NDArray[np.float64]) -> None:
    smooth, nuclei = stained.copy(), (stained[..., 0] > 0.3).astype(float)
    blurred, weight = (gaussian_filter(part, (0, 4, 4)) for part in (stained[..., 0] * nuclei, nuclei))
    smooth[..., 0] = np.where(nuclei > 0, blurred / np.maximum(weight, 1e-6), stained[..., 0])
    assert kept(show(smooth), show(stained)) < 0.5


def test_the_share_of_dark_pixels_is_that_of_dark_nuclei(stained: NDArray[np.float64]) -> None:
    before, dark = show(stained), stained.copy()
    for centre in CENTRES[:9]:
        dark[:, *disk(centre, 12), 0] = 3.5
    nuclei = nuclei_mask(before, MPP)
    assert nuclei is not None
    detail = nuclear_detail(show(dark), nuclei, MPP)
    assert detail is not None
    assert detail.dark == pytest.approx(9 / len(CENTRES), abs=0.05)


def test_the_rims_of_nuclei_do_not_count(stained: NDArray[np.float64]) -> None:
    flat = stained.copy()
    for centre in CENTRES:
        flat[:, *disk(centre, 12), 0] = 1.3
    nuclei = nuclei_mask(show(stained), MPP)
    assert nuclei is not None
    detail = nuclear_detail(show(flat), nuclei, MPP)
    assert detail is not None
    assert detail.contrast < 0.5


def test_hardly_any_nucleus_is_no_measure(stained: NDArray[np.float64]) -> None:
    nuclei = np.zeros((2, 256, 256), bool)
    nuclei[0, :20, :20] = True
    assert nuclear_detail(show(stained), nuclei, MPP) is None


def test_slides_count_the_same() -> None:
    one, two = (NuclearDetail(contrast=c, dark=d, luminance=100) for c, d in ((4, 0.1), (8, 0.0)))
    assert mean_detail([one, two]) == NuclearDetail(contrast=6, dark=0.05, luminance=100)
    assert mean_detail([]) is None
