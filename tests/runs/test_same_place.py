"""Every pixel keeps its place: a run with the identity gives the source back, at every level, without a shift.

What is expected is computed from the source's level 0 by arithmetic of this file's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion
from skimage.registration import phase_cross_correlation

from tests.support.made_run import ODD, Unchanged, odd_slide, run_unchanged
from wsi_stain.core.geometry import TILE, Region, Size, ceil_div, level_sizes
from wsi_stain.formats.block_file import encode_jpeg
from wsi_stain.slides.slide import Slide

Pixels = NDArray[np.uint8]
_WINDOW = 512
_COARSER = 1.3


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Unchanged:
    folder = tmp_path_factory.mktemp("native")
    return run_unchanged(odd_slide(folder / "odd.svs"), folder / "out")


@pytest.fixture(scope="module")
def resampled_run(native: Unchanged, tmp_path_factory: pytest.TempPathFactory) -> Unchanged:
    mpp = {"slide": {"mpp": _COARSER * native.stored.mpp.x}}
    return run_unchanged(native.source, tmp_path_factory.mktemp("resampled") / "out", tiling=mpp)


@dataclass(frozen=True)
class Window:
    """A place of a level of a pyramid.

    Attributes:
        level: Which level.
        found: (h, w, 3) of the pyramid.
        expected: (h, w, 3) float, of the source, averaged over each pixel's area.
        untouched: (h, w), where no pixel lies in a tile that is faded into glass.
    """

    level: int
    found: Pixels
    expected: NDArray[np.float64]
    untouched: NDArray[np.bool_]


def windows(run: Unchanged, step: float = 1.0) -> Iterator[Window]:
    """Of each level the places with tissue that reach farthest, up to 512 px wide, with what the source shows there.

    Args:
        run: The run.
        step: Source pixels per pixel of the pyramid's level 0.
    """
    untouched = binary_erosion(run.stored.kept, np.ones((3, 3), bool), border_value=1)
    with tifffile.TiffFile(run.pyramid) as tiff, Slide(run.source) as source:
        for level, page in enumerate(tiff.pages):
            pixels, scale = page.asarray(), 2**level
            for region in farthest(run, Size(page.imagewidth, page.imagelength), scale):
                rows, cols = (range(at, at + n) for at, n in ((region.y, region.height), (region.x, region.width)))
                places = np.ix_(*([(at * scale) // TILE for at in along] for along in (rows, cols)))
                yield Window(
                    level,
                    pixels[np.ix_(rows, cols)],
                    average_region(source, region, step * scale),
                    untouched[places],
                )


def farthest(run: Unchanged, size: Size, scale: int) -> set[Region]:
    """Windows in a level of `size` around the tiles full of tissue that lie farthest in eight directions."""
    full = np.argwhere(run.stored.tissue >= 0.9)
    found = set()
    for direction in [(0, 1), (1, 0), (1, 1), (1, -1)]:
        order = full @ direction
        for row, col in (full[order.argmin()], full[order.argmax()]):
            width, height = min(_WINDOW, size.width), min(_WINDOW, size.height)
            x, y = (round((at + 0.5) * TILE / scale) for at in (col, row))
            left = min(max(x - width // 2, 0), size.width - width)
            top = min(max(y - height // 2, 0), size.height - height)
            found.add(Region(left, top, width, height))
    return found


def average_region(source: Slide, region: Region, step: float) -> NDArray[np.float64]:
    """The source's level 0 averaged over squares of `step` px; what lies beyond its edge repeats the edge."""
    left, top = floor(region.x * step), floor(region.y * step)
    right, bottom = ceil((region.x + region.width) * step), ceil((region.y + region.height) * step)
    inside = Region(left, top, min(right, source.size.width) - left, min(bottom, source.size.height) - top)
    down = average_rows(source.read(inside), region.y * step - top, step, region.height)
    return average_rows(down.swapaxes(0, 1), region.x * step - left, step, region.width).swapaxes(0, 1)


def average_rows(pixels: NDArray[np.generic], first: float, step: float, count: int) -> NDArray[np.float64]:
    rows = []
    for low in first + np.arange(count) * step:
        covered = np.arange(floor(low), ceil(low + step))
        share = np.minimum(low + step, covered + 1) - np.maximum(low, covered)
        rows.append(np.tensordot(share / share.sum(), pixels[covered.clip(0, len(pixels) - 1)], 1))
    return np.stack(rows)


def shift(window: Window) -> NDArray[np.float64]:
    """How far what was found lies from where it should be, (down, right), px of level 0; to a hundredth of a pixel.

    The window fades towards its edges: else these, which stay in place whatever happens, would be what is compared.
    """
    height, width, _ = window.found.shape
    fade = np.outer(np.hanning(height), np.hanning(width))
    found, expected = ((p.mean(axis=2) - p.mean()) * fade for p in (window.found, window.expected))
    moved, _, _ = phase_cross_correlation(expected, found, upsample_factor=100, normalization=None)
    return np.asarray(moved)


def assert_unmoved(run: Unchanged, step: float = 1.0) -> None:
    levels = set()
    for window in windows(run, step):
        assert np.abs(shift(window)).max() < 0.1, f"level {window.level}"
        levels.add(window.level)
    assert len(levels) == len(level_sizes(run.stored.size))


def assert_same_pixels(run: Unchanged, step: float = 1.0) -> None:
    """Found and expected differ as JPEG makes them differ, and by a rounding at each halving."""
    for window in windows(run, step):
        if window.untouched.mean() > 0.05:
            rounded = np.rint(window.expected).astype(np.uint8, order="C")
            once = imagecodecs.jpeg8_decode(encode_jpeg(rounded, 90))
            found, allowed = (
                np.abs(pixels - window.expected)[window.untouched].mean() for pixels in (window.found, once)
            )
            assert found < allowed + 0.15, f"level {window.level}"


def test_the_frame_is_the_sources(native: Unchanged) -> None:
    with openslide.OpenSlide(native.source) as source, openslide.OpenSlide(native.pyramid) as pyramid:
        assert pyramid.dimensions == source.dimensions == ODD
        for axis in "xy":
            assert float(pyramid.properties[f"openslide.mpp-{axis}"]) == pytest.approx(
                float(source.properties[f"openslide.mpp-{axis}"]), rel=1e-6
            )


def test_no_level_is_shifted(native: Unchanged) -> None:
    assert_unmoved(native)


def test_no_level_of_a_resampled_slide_is_shifted(resampled_run: Unchanged) -> None:
    assert resampled_run.stored.size == Size(ceil(ODD.width / _COARSER), ceil(ODD.height / _COARSER))
    assert_unmoved(resampled_run, _COARSER)


def test_every_level_shows_the_source(native: Unchanged) -> None:
    assert_same_pixels(native)


def test_every_level_of_a_resampled_slide_shows_the_source(resampled_run: Unchanged) -> None:
    assert_same_pixels(resampled_run, _COARSER)


def test_level_0_is_the_source_compressed_once(native: Unchanged) -> None:
    untouched = binary_erosion(native.stored.kept, np.ones((3, 3), bool), border_value=1)
    whole = Region(0, 0, ceil_div(ODD.width, TILE) * TILE, ceil_div(ODD.height, TILE) * TILE)
    with tifffile.TiffFile(native.pyramid) as tiff, Slide(native.source) as source:
        found, pixels = tiff.pages[0].asarray(), source.read(whole)
    pixels[ODD.height :] = pixels[ODD.height - 1]
    pixels[:, ODD.width :] = pixels[:, [ODD.width - 1]]
    for row, col in np.argwhere(untouched):
        place = np.s_[row * TILE : (row + 1) * TILE, col * TILE : (col + 1) * TILE]
        once = imagecodecs.jpeg8_decode(encode_jpeg(np.ascontiguousarray(pixels[place]), 90))
        height, width, _ = found[place].shape
        np.testing.assert_array_equal(found[place], once[:height, :width])


@pytest.mark.slow
@pytest.mark.parametrize("mpp", [None, 0.4], ids=["native", "resampled"])
def test_a_real_slide_stays_in_its_place(tmp_path: Path, real_data: Path, mpp: float | None) -> None:
    path = real_data / "slides" / "AT2_gastric_metaplasia.svs"
    run = run_unchanged(path, tmp_path / "out", tiling={"slide": {"mpp": mpp}})
    step = mpp / 0.2528 if mpp else 1.0
    assert_unmoved(run, step)
    assert_same_pixels(run, step)
