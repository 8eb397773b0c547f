"""Tiles that were never written: one rule for inspect, run, view and verify, whatever the vendor and the coding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.dicom_files import leave_out_frames, write_dicom_slide
from tests.support.other_slides import write_leica, write_philips, write_trestle, write_ventana
from tests.support.slide_files import TILE, Jpeg, shrink, write_jpeg_slide, write_slide
from tests.support.tiled_slides import SMALL, Run, paint
from wsi_stain.core.errors import UnreadableError
from wsi_stain.core.geometry import Region, TileIndex
from wsi_stain.slides.dicom_series import dicom_levels
from wsi_stain.slides.listing.find import SlideSource
from wsi_stain.slides.slide import Slide, SlideConfig
from wsi_stain.tiling.config import TilingConfig
from wsi_stain.tiling.inspect import InspectTask, inspect_slide, probe_slide
from wsi_stain.viewer.tiles import SlideTiles

PIXELS = paint(SMALL)
COLUMNS, ROWS = -(-SMALL.width // TILE), -(-SMALL.height // TILE)
GLASS = [(row, col) for row in range(1, ROWS) for col in range(3)]
TISSUE = [(5, 12), (5, 13), (6, 12), (8, 9)]
"""(row, column) of tiles of 64 px."""

KINDS = [("aperio", "jpeg"), ("aperio", "zlib"), ("generic", "jpeg"), ("generic", "zlib")]
ALL_KINDS = [*KINDS, *((vendor, "jpeg") for vendor in ("philips", "leica", "trestle", "ventana"))]

OTHERS = {"philips": write_philips, "leica": write_leica, "trestle": write_trestle, "ventana": write_ventana}


def write(path: Path, kind: tuple[str, str], missing: list[tuple[int, int]], levels: int = 2) -> SlideSource:
    """The slide with some tiles of level 0 never written."""
    vendor, coding = kind
    pyramid = [PIXELS, shrink(PIXELS, 4, "ceil")][:levels]
    places = [row * COLUMNS + col for row, col in missing]
    if vendor in OTHERS:
        OTHERS[vendor](path, [PIXELS, shrink(PIXELS, 2, "ceil"), shrink(PIXELS, 4, "ceil")], {0: places})
    elif coding == "jpeg":
        jpeg = Jpeg((TILE, TILE), "YCBCR", "420", aperio=vendor == "aperio")
        write_jpeg_slide(path, pyramid, jpeg, mpp=0.25, spoilt={(0, place): b"" for place in places})
    else:
        aperio = "AppMag = 40|MPP = 0.25" if vendor == "aperio" else None
        write_slide(path, pyramid, mpp=0.25, aperio=aperio, holes=places)
    return SlideSource(path=path, slide_id="a", relative="a.tif")


def tiles_around(missing: list[tuple[int, int]]) -> set[tuple[int, int]]:
    """The tiles of 256 px that tiles of 64 px lie in."""
    return {(row * TILE // 256, col * TILE // 256) for row, col in missing}


@pytest.mark.parametrize("kind", ALL_KINDS, ids=" ".join)
def test_glass_that_was_never_written_is_glass(tmp_path: Path, kind: tuple[str, str]) -> None:
    source, whole = write(tmp_path / "a.tif", kind, GLASS), write(tmp_path / "whole.tif", kind, [])
    stored = Run(source, tmp_path / "store").whole()
    assert stored.record.holes == 0
    with Slide(source.path) as slide, Slide(whole.path) as other:
        region = Region(0, 0, *SMALL)
        pixels, lost = slide.read_repaired(region)
        assert not lost and np.abs(pixels.astype(int) - other.read(region)).mean() < 2
        assert (pixels[64:, :192] < 250).all(), "the scanner's glass, and not white"
    receipt = inspect_slide(InspectTask(source, TilingConfig()))
    assert receipt["remarks"] == [] and receipt["tiles"] == int(stored.kept.sum())
    assert SlideTiles().jpeg(source.path, 11, 0, 0)


@pytest.mark.parametrize("kind", ALL_KINDS, ids=" ".join)
def test_tissue_that_was_never_written_is_a_hole(tmp_path: Path, kind: tuple[str, str]) -> None:
    source = write(tmp_path / "a.tif", kind, [*GLASS, *TISSUE])
    run = Run(source, tmp_path / "store", TilingConfig(max_holes=1))
    stored = run.whole()
    holes = {(int(row), int(col)) for row, col in np.argwhere(stored.map("holes"))}
    assert holes == tiles_around(TISSUE) and stored.record.holes == len(holes)
    assert stored.read_tile(TileIndex(1, 3)).std() > 10, "it shows the coarser level"
    with pytest.raises(UnreadableError, match=r"(coarser level shows tissue|raw tile); expected at most 1\.0%"):
        inspect_slide(InspectTask(source, TilingConfig(max_holes=0.01)))
    receipt = inspect_slide(InspectTask(source, TilingConfig(max_holes=1)))
    assert [remark for remark in receipt["remarks"] if "tiles looked at are lost: " in remark]
    with pytest.raises(UnreadableError, match="is lost"):
        SlideTiles().jpeg(source.path, 11, 1, 0)


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_most_of_the_tissue_missing_fails_the_slide_as_soon_as_it_is_looked_at(
    tmp_path: Path, kind: tuple[str, str]
) -> None:
    missing = [(row, col) for row in range(2, 12) for col in range(7, 17)]
    source = write(tmp_path / "a.tif", kind, missing)
    with pytest.raises(UnreadableError, match=r"\d+ of \d+ tiles looked at are lost"):
        inspect_slide(InspectTask(source, TilingConfig()))
    run = Run(source, tmp_path / "store")
    survey = run.survey()
    run.blocks(survey)
    with pytest.raises(UnreadableError, match=r"cannot be read, expected at most 5\.0%"):
        run.finish(survey)


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_where_no_coarser_level_tells_there_is_a_remark_with_the_share_or_a_failure(
    tmp_path: Path, kind: tuple[str, str]
) -> None:
    few, many = write(tmp_path / "few.tif", kind, GLASS[:9], levels=1), write(tmp_path / "a.tif", kind, GLASS, levels=1)
    remark = f"9 of {ROWS * COLUMNS} tiles of the file were never written, on no level"
    for look in (inspect_slide, probe_slide):
        assert look(InspectTask(few, TilingConfig()))["remarks"][0].startswith(remark)
        with pytest.raises(UnreadableError, match=f"{len(GLASS)} of {ROWS * COLUMNS} tiles .* expected at most 5.0%"):
            look(InspectTask(many, TilingConfig()))
    assert Run(few, tmp_path / "store").whole().record.holes == 0
    with pytest.raises(UnreadableError, match="never written"):
        Run(many, tmp_path / "store").survey()
    assert Run(many, tmp_path / "other", TilingConfig(max_holes=0.5)).whole().record.holes == 0


def test_glass_that_philips_leaves_out_on_all_levels_is_no_fault(tmp_path: Path) -> None:
    """Tissue begins where what was left out ends, and more is left out than `max_holes`."""
    glass = [(row, col) for row in range(1, ROWS - 1) for col in range(6)]
    numbers = {0: [row * COLUMNS + col for row, col in glass], 1: [0, 1, 12, 13, 24, 25], 2: [0, 6]}
    path = write_philips(tmp_path / "a.tif", [PIXELS, shrink(PIXELS, 2, "ceil"), shrink(PIXELS, 4, "ceil")], numbers)
    source = SlideSource(path=path, slide_id="a", relative="a.tif")
    stored = Run(source, tmp_path / "store").whole()
    assert stored.record.holes == 0
    assert inspect_slide(InspectTask(source, TilingConfig()))["remarks"] == []


@pytest.mark.parametrize("spoilt", [b"", b"\xff\xd8\xff\xc5bogus"], ids=["never written", "damaged"])
def test_what_a_coarser_level_lacks_is_averaged_from_the_finer_one(tmp_path: Path, spoilt: bytes) -> None:
    """Two tiles of level 1 in the tissue: the overview is whole, to the values that level 1 had."""
    levels, jpeg = [PIXELS, shrink(PIXELS, 4)], Jpeg((TILE, TILE), "YCBCR", "444")
    whole = write_jpeg_slide(tmp_path / "whole.tif", levels, jpeg, mpp=0.25)
    path = write_jpeg_slide(tmp_path / "a.tif", levels, jpeg, mpp=0.25, spoilt={(1, 8): spoilt, (1, 9): spoilt})
    tiles = SlideTiles()
    with Slide(path) as slide, Slide(whole) as other:
        shown, expected = slide.thumbnail(1.0), other.thumbnail(1.0)
    assert np.abs(shown.astype(int) - expected)[64:128, 128:256].mean() < 6
    assert tiles.jpeg(path, 9, 0, 0) and tiles.jpeg(path, 8, 0, 0)
    with Slide(path, SlideConfig(mpp=1.0)) as slide:
        assert slide.reason_lost(Region(0, 0, *slide.size)) == ""


# ---- DICOM, which leaves out frames of 256 px


@pytest.mark.filterwarnings("ignore:get_frame_offsets is deprecated:DeprecationWarning")
@pytest.mark.parametrize(("coding", "reader"), [("YBR_FULL_422", "openslide"), ("YBR_FULL", "wsidicom")])
def test_frames_that_dicom_leaves_out_are_glass_or_holes_by_its_coarser_level(
    tmp_path: Path, coding: str, reader: str
) -> None:
    folder = write_dicom_slide(tmp_path, PIXELS)
    leave_out_frames(folder, {SMALL.width: [6, 9, 12, 18]}, PhotometricInterpretation=coding)
    path = min(folder.glob("*.dcm"))
    with Slide(path) as slide:
        assert (slide.reader, slide.remarks, slide.tiles_nowhere) == (reader, (), (0, 1))
        glass, lost = slide.read_repaired(Region(0, 256, 256, 512))
        assert not lost and np.abs(glass.astype(int) - PIXELS[256:768, :256]).mean() < 3, "the scanner's, not white"
        tissue, lost = slide.read_repaired(Region(768, 256, 256, 256))
        assert lost and np.abs(tissue.astype(int) - PIXELS[256:512, 768:1024]).mean() < 20, "the coarser level"
    run = Run(SlideSource(path=path, slide_id="a", relative="a"), tmp_path / "store", TilingConfig(max_holes=1))
    assert np.argwhere(run.whole().map("holes")).tolist() == [[1, 3]]


def test_frames_off_their_grid_are_doubted(tmp_path: Path) -> None:
    folder = write_dicom_slide(tmp_path, PIXELS)
    leave_out_frames(folder, {SMALL.width: [9]}, shift=3)
    assert all(level.places is None for level in dicom_levels(min(folder.glob("*.dcm"))))
