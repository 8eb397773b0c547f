"""A black border, a shadow, a coverslip's edge, ink, tiles never written and broken: what a run makes of them.

None of them is normalized, verification knows it, and a slide normalized while it is read shows them at all its levels
as the run's pyramid does.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import openslide
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from tests.support.commands import Run
from tests.support.identity import identity_in_every_mode
from tests.support.made_checkpoint import WHITE
from tests.support.made_run import Unchanged, run_unchanged
from tests.support.slide_files import Jpeg, shrink, write_jpeg_slide
from wsi_stain import NormalizedSlide
from wsi_stain.core.geometry import Size
from wsi_stain.results.finished import load_finished
from wsi_stain.synthetic import LABORATORIES, stain_tissue
from wsi_stain.synthetic.tissue import render_tissue

SIZE = Size(2304, 1792)
INK = np.array((1.15, 0.75, 0.2))
TILE = 128
COLUMNS = SIZE.width // TILE
AREAS = {
    "border": np.s_[:, :224],
    "shadow": np.s_[1664:],
    "ink": np.s_[824:976, 504:1792],
    "coverslip": np.s_[304:760, 1200:1216],
    "lost tissue": np.s_[1152:1280, 640:768],
    "broken tissue": np.s_[1152:1280, 1408:1536],
    "tissue": np.s_[1072:1136, 504:1792],
    "glass never written": np.s_[128:256, 512:1792],
}
"""Rows and columns of level 0."""

Pixels = NDArray[np.uint8]


def draw() -> Pixels:
    pixels = np.full((SIZE.height, SIZE.width, 3), 242, np.uint8)
    pixels[300:1500, 300:2000] = stain_tissue(render_tissue(Size(1700, 1200), 0.5, 7), LABORATORIES["other"], 7)
    od = np.zeros((SIZE.height, SIZE.width, 3))
    od[800:1000] = INK
    od[300:770, 1196:1220] = 1.8
    od[1650:] = 0.64
    pixels = (pixels * np.exp(-gaussian_filter(od, (3, 3, 0)))).astype(np.uint8)
    pixels[:, :250] = 5
    return pixels


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Unchanged:
    root, pixels = tmp_path_factory.mktemp("exempt"), draw()
    source = root / "slides" / "dark.svs"
    source.parent.mkdir()
    unwritten = [COLUMNS + column for column in range(4, 14)] + [9 * COLUMNS + 5]
    spoilt = {(0, place): b"" for place in unwritten} | {(0, 9 * COLUMNS + 11): b"\xff\xd8\xff\xdabroken"}
    jpeg = Jpeg((TILE, TILE), "YCBCR", "444", aperio=True)
    write_jpeg_slide(source, [pixels, shrink(pixels, 4)], jpeg, mpp=0.5, spoilt=spoilt)
    return run_unchanged(source, root / "out", tiling={"max_holes": 0.2})


@pytest.fixture(scope="module")
def streamed(made: Unchanged) -> Iterator[NormalizedSlide]:
    with (
        identity_in_every_mode(),
        NormalizedSlide(made.source, made.source.parents[1] / "untrained.safetensors", "lut") as slide,
    ):
        yield slide


def test_dark_becomes_glass_ink_stays_and_verification_knows(made: Unchanged, wsi_stain: Run) -> None:
    pixels = draw()
    with openslide.OpenSlide(made.pyramid) as pyramid:
        after = np.asarray(pyramid.read_region((0, 0), 0, tuple(SIZE)).convert("RGB")).astype(int)
    assert np.abs(after[AREAS["border"]] - WHITE).max() <= 2  # in tiles with tissue and in those without
    assert np.abs(after[AREAS["shadow"]] - WHITE).max() <= 2
    stain = made.stored.stain
    assert stain is not None
    for name in ("ink", "coverslip"):
        own = (pixels[AREAS[name]] + 1.0) * (np.array(WHITE) + 1) / (np.array(stain.white) + 1) - 1
        assert np.abs(after[AREAS[name]] - own).mean() < 3  # what JPEG takes
    out = made.source.parents[1] / "out"
    row = load_finished(out / "work" / "slides" / "dark.svs")
    assert row is not None and "of the tissue lies under ink or dark, and is shown as scanned" in row.row.reason
    assert "is shown as glass" in row.row.reason
    verified = wsi_stain("verify", out, "-j", 0)
    assert verified.code == 0, verified.out


@pytest.mark.parametrize("area", AREAS)
def test_every_level_of_a_slide_normalized_while_read_shows_what_the_pyramid_shows(
    made: Unchanged, streamed: NormalizedSlide, area: str
) -> None:
    with openslide.OpenSlide(made.pyramid) as pyramid:
        assert pyramid.level_dimensions == streamed.level_dimensions[: pyramid.level_count]
        for level in range(4):
            size, factor = streamed.level_dimensions[level], 2**level
            rows, columns = (slice(*(end and end // factor for end in (axis.start, axis.stop))) for axis in _axes(area))
            shown, written = (
                np.asarray(slide.read_region((0, 0), level, size).convert("RGB")).astype(int)[rows, columns]
                for slide in (streamed, pyramid)
            )
            apart = np.abs(shown - written)
            assert apart.mean() < 5, (
                f"level {level}: the source's coarser levels went through JPEG, the pyramid's did not"
            )
            assert np.abs(shown.mean(axis=(0, 1)) - written.mean(axis=(0, 1))).max() < 1
            if area in ("border", "shadow"):
                assert np.abs(shown - WHITE).max() <= 2


def _axes(area: str) -> tuple[slice, slice]:
    index = AREAS[area]
    return index if isinstance(index, tuple) else (index, slice(None))
