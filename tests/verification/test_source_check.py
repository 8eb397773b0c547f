"""Comparing an output with its source: a second opinion, no alarm by rounding, advice that was not followed already."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support.made_checkpoint import STATISTICS
from tests.support.made_pyramid import stitch_task
from tests.support.slide_files import Jpeg, shrink, write_jpeg_slide, write_slide
from tests.support.tiled_slides import paint
from wsi_stain.core.geometry import Mpp, Size, TileIndex, grid_shape
from wsi_stain.pyramid.stitch import stitch_slide
from wsi_stain.results import SlideRow
from wsi_stain.results.advice import another_way
from wsi_stain.results.finished import FinishedSlide, Origin
from wsi_stain.slides import claims
from wsi_stain.slides.slide import Slide, SlideConfig
from wsi_stain.tissue.grid import TileGrid
from wsi_stain.verification import source_check
from wsi_stain.verification.pyramid_check import Expected, check_pyramid
from wsi_stain.verification.readers.base import StoredTile
from wsi_stain.verification.readers.openslide import OpenSlidePyramid
from wsi_stain.verification.readers.tiff import TiffPyramid
from wsi_stain.verification.source_oracle import TiffOracle

SIZE = Size(1503, 905)
PIXELS = paint(SIZE)


class Output:
    """A pyramid that shows given pixels. Only its tiles are asked for."""

    layouts = {"made": [SIZE]}  # noqa: RUF012
    resolutions: dict[str, Mpp | None] = {"made": None}  # noqa: RUF012
    icc_profile = None

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self._pixels = np.pad(pixels, ((0, 256), (0, 256), (0, 0)), mode="edge")

    def tiles(self, level: int) -> Iterator[StoredTile]:
        raise NotImplementedError

    def tile(self, level: int, place: TileIndex) -> NDArray[np.uint8]:
        return self._pixels[place.row * 256 :, place.col * 256 :][:256, :256]


def finish(source: Path, thumbnail: tuple[int, int] = (750, 450), mode: str = "lut") -> FinishedSlide:
    """What a run keeps of the slide; every tile is kept."""
    jpeg = io.BytesIO()
    Image.fromarray(PIXELS).resize(thumbnail, Image.Resampling.BOX).save(jpeg, "JPEG", quality=90)
    row = SlideRow(
        slide="a.tif",
        slide_id="a",
        status="done",
        size=SIZE,
        mpp=Mpp(0.25, 0.25),
        stain=STATISTICS,
        before=jpeg.getvalue(),
    )
    with Slide(source) as slide:
        origin: Any = {"slide": source, "tiles": None, "reading": SlideConfig(), "fingerprint": slide.fingerprint()}
    shape = grid_shape(SIZE)
    grid = TileGrid(SIZE, np.ones(shape, np.float32), np.ones(shape, bool))
    return FinishedSlide("key", row, Origin(**origin, icc_sha256=None, mode=mode), grid, np.zeros((1, 1), bool))


# ---- another reader


@pytest.mark.parametrize("jpeg", [Jpeg((240, 240), "YCBCR", "420"), Jpeg((64, 64), "RGB", "444", aperio=True), None])
def test_both_readers_agree_on_sound_slides(tmp_path: Path, jpeg: Jpeg | None) -> None:
    path = tmp_path / "a.tif"
    write_jpeg_slide(path, [PIXELS], jpeg) if jpeg else write_slide(path, [PIXELS])
    with Slide(path) as slide, TiffOracle(path, SIZE) as oracle:
        assert source_check._reading_faults(slide, oracle, finish(path)) == []
        tile = oracle.tile(TileIndex(3, 5))
        assert tile is not None and (tile[905 - 768 :] == 255).all() and (tile[:, 1503 - 1280 :] == 255).all()


def test_a_reader_that_mirrors_tiles_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As before its tag was looked at: OpenSlide mirrors each tile within itself."""
    path = write_slide(tmp_path / "a.tif", [PIXELS], extratags=[(274, "H", 1, 4, False)])
    monkeypatch.setattr(claims, "check_level", lambda path, directory: None)
    with openslide.OpenSlide(path) as handle:
        shown = np.asarray(handle.read_region((512, 256), 0, (256, 256)))[..., :3]
    assert not np.array_equal(shown, PIXELS[256:512, 512:768])
    with Slide(path) as slide:
        faults = source_check._oracle_faults(Output(PIXELS), slide, finish(path))
    assert [fault.check for fault in faults] == ["source"]
    assert "OpenSlide and tifffile" in faults[0].expected


@pytest.mark.parametrize("aperio", ["AppMag = 40|MPP = 0.25", None], ids=["aperio", "generic"])
def test_tissue_that_was_never_written_and_came_out_white_is_seen_in_the_file_itself(
    tmp_path: Path, aperio: str | None
) -> None:
    holes = [24 * row + col for row in range(4, 8) for col in range(12, 16)]
    path = write_slide(tmp_path / "a.tif", [PIXELS, shrink(PIXELS, 4)], aperio=aperio, holes=holes)
    white = PIXELS.copy()
    white[256:512, 768:1024] = 240
    with Slide(path) as slide:
        (fault,) = source_check._oracle_faults(Output(white), slide, finish(path))
        assert fault.check == "tissue" and "1 tiles" in fault.got and "row 1, column 3" in fault.got
        assert source_check._oracle_faults(Output(PIXELS), slide, finish(path)) == []


# ---- no false alarm


def test_glass_beside_tissue_is_not_missed_where_a_thumbnail_is_coarser_than_tiles(tmp_path: Path) -> None:
    """Two tiles a pixel: the thumbnail shows tissue in tiles that are glass. A tile that had some is missed."""
    path = write_slide(tmp_path / "a.tif", [PIXELS])
    finished = finish(path, thumbnail=(3, 2))
    glass, tissue = TileIndex(0, 0), TileIndex(1, 3)
    assert source_check._tissue(finished)[glass] and (PIXELS[:256, :256] > 220).all()
    lost = np.zeros(grid_shape(SIZE), bool)
    lost[glass] = lost[tissue] = True
    confirmed = source_check._confirm_lost(lost, finished, None)
    assert [TileIndex(*place) for place in np.argwhere(confirmed).tolist()] == [tissue]
    assert not source_check._confirm_lost(lost, finish(path, (3, 2)), tmp_path / "gone.tif").any()
    assert source_check._confirm_lost(lost, finish(path), tmp_path / "gone.tif")[tissue]


def test_levels_of_a_narrow_slide_are_the_same_in_all_readers(tmp_path: Path) -> None:
    """190 px become 48 at level 2: OpenSlide takes it for 3.979 times smaller, and shows other places if asked by 4."""
    wide = np.tile(PIXELS[300:490, 450:1350], (1, 7, 1))[:, :6000]
    task = stitch_task(tmp_path, wide)
    stitch_slide(task)
    with TiffPyramid(task.output) as tiff, OpenSlidePyramid(task.output) as slide:
        assert check_pyramid([tiff, slide], Expected(Size(6000, 190), task.mpp, None)).faults == []


def test_nuclei_are_not_asked_for_where_the_row_says_that_there_are_hardly_any(tmp_path: Path) -> None:
    """What a threshold takes for nuclei then is the denser part of stroma, which need not stay the denser one."""
    path, after = write_slide(tmp_path / "a.tif", [PIXELS]), PIXELS.copy()
    rng, (y, x) = np.random.default_rng(0), np.mgrid[: SIZE.height, : SIZE.width]
    for row, column in zip(rng.integers(200, 600, 80), rng.integers(550, 1250, 80), strict=True):
        after[(y - row) ** 2 + (x - column) ** 2 < 64] = 70, 40, 120
    finished, blank = finish(path), np.zeros(grid_shape(SIZE), bool)
    faults, _ = source_check.check_against_source(Output(after), blank, finished, None)
    assert [fault.check for fault in faults] == ["nuclei"]
    few = finished.row.model_copy(update={"stain": STATISTICS.model_copy(update={"evidence": (0.2, 1.0)})})
    faults, similarity = source_check.check_against_source(Output(after), blank, replace(finished, row=few), None)
    assert faults == [] and similarity is not None and similarity.nuclei is None


# ---- remedies


@pytest.mark.parametrize("mode", ["generator", "guard", "lut", "macenko", "reinhard"])
def test_no_remedy_repeats_what_was_done(mode: str) -> None:
    remedy = another_way(mode)
    assert f"--mode {mode}" not in remedy and f"--method {mode}" not in remedy
    assert ("--mode lut" in remedy) == (mode in ("generator", "guard"))
    assert ("--method" in remedy) == (mode in ("macenko", "reinhard"))


def test_an_output_whose_bytes_are_right_is_not_to_be_made_again(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.tif", [PIXELS])
    faults, _ = source_check.check_against_source(
        Output(np.full_like(PIXELS, 240)), np.ones(grid_shape(SIZE), bool), finish(path), None
    )
    assert [fault.check for fault in faults] == ["tissue"]
    assert "same command" not in faults[0].remedy and "report it" in faults[0].remedy
