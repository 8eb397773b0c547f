"""DICOM as its readers see it: valid, derived, anonymous, the very tiles of the TIFF, the same bytes every time."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
from PIL import Image, ImageCms

from tests.support.made_pyramid import picture
from wsi_stain.core import journal
from wsi_stain.core.errors import ConfigError, SlideError
from wsi_stain.core.geometry import BlockIndex, GlassPlacement, Mpp, Size, grid_shape, level_sizes
from wsi_stain.core.icc import input_profile, srgb_profile
from wsi_stain.core.receipts import partial_directory
from wsi_stain.formats.block_file import JpegConfig, write_block
from wsi_stain.pyramid.dicom import DicomTask, require_dicom, write_dicom
from wsi_stain.pyramid.stitch import StitchTask, stitch_slide
from wsi_stain.slides.dicom_series import dicom_levels
from wsi_stain.slides.slide import Slide

pytestmark = pytest.mark.filterwarnings("ignore:get_frame_offsets is deprecated:DeprecationWarning")

SIZE = Size(1301, 700)
PLACEMENT = GlassPlacement((0.0, -1.0, 0.0, -1.0, 0.0, 0.0), 22.53, 58.25)


def make_task(
    directory: Path,
    size: Size = SIZE,
    subsampling: int = 444,
    icc: bytes | None = None,
    placement: GlassPlacement | None = None,
) -> DicomTask:
    """Stitch a slide of one block, whose first tile is glass, and ask for DICOM."""
    jpeg, block = JpegConfig.model_validate({"subsampling": subsampling}), directory / "block"
    kept = np.ones(grid_shape(size), np.bool_)
    kept[0, 0] = kept.size == 1
    write_block(block, picture(size), kept, jpeg)
    pyramid = StitchTask(
        slide_id="patient",
        size=size,
        mpp=Mpp(0.25, 0.26),
        objective_power=40.0,
        placement=placement,
        white=(243, 240, 245),
        icc_profile=icc,
        blocks={BlockIndex(0, 0): block},
        jpeg=jpeg,
        provenance={"checkpoint_sha256": "digest", "template": "he"},
        output=directory / "slide.ome.tif",
        receipt=directory / "ome-tiff.json",
        key="key",
    )
    receipt = stitch_slide(pyramid)
    return DicomTask(
        slide_id="patient",
        pyramid=pyramid.output,
        mpp=pyramid.mpp,
        objective_power=receipt["objective_power"],
        placement=receipt["placement"] and GlassPlacement(*receipt["placement"]),
        icc_profile=icc,
        provenance=receipt["provenance"],
        output=directory / "slides" / "slide.dicom",
        receipt=directory / "dicom.json",
        key="key",
    )


def datasets(folder: Path) -> list[Any]:
    """The levels, finest first."""
    from pydicom import dcmread

    found = [dcmread(path, stop_before_pixels=True) for path in folder.iterdir()]
    return sorted(found, key=lambda dataset: -int(dataset.TotalPixelMatrixColumns))


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> DicomTask:
    task = make_task(tmp_path_factory.mktemp("dicom"))
    write_dicom(task)
    return task


@pytest.mark.parametrize("subsampling", [444, 420])
@pytest.mark.parametrize("size", [SIZE, Size(300, 200), Size(257, 70), Size(100, 2049), Size(1, 1)], ids=str)
def test_openslide_reads_the_very_pixels_of_the_tiff(tmp_path: Path, size: Size, subsampling: int) -> None:
    task = make_task(tmp_path, size, subsampling)
    assert write_dicom(task)["levels"] == len(level_sizes(size))
    file = next(task.output.iterdir())
    with openslide.OpenSlide(file) as dicom, openslide.OpenSlide(task.pyramid) as tiff:
        assert dicom.level_dimensions == tiff.level_dimensions
        assert float(dicom.properties["openslide.mpp-x"]) == pytest.approx(0.25, rel=1e-6)
        assert float(dicom.properties["openslide.mpp-y"]) == pytest.approx(0.26, rel=1e-6)
        assert dicom.properties["openslide.objective-power"] == "40"
        assert not dicom.associated_images
        for level, level_size in enumerate(tiff.level_dimensions):
            pixels = [np.asarray(slide.read_region((0, 0), level, level_size)) for slide in (dicom, tiff)]
            np.testing.assert_array_equal(*pixels)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
@pytest.mark.parametrize("icc", [None, srgb_profile()], ids=["no profile", "profile"])
@pytest.mark.parametrize("placement", [None, PLACEMENT], ids=["place unknown", "place known"])
def test_the_validator_finds_no_error(tmp_path: Path, icc: bytes | None, placement: GlassPlacement | None) -> None:
    task = make_task(tmp_path, icc=icc, placement=placement)
    write_dicom(task)
    for file in task.output.iterdir():
        ended = subprocess.run(["dciodvfy", file], capture_output=True, text=True, check=False)
        lines = (ended.stdout + ended.stderr).splitlines()
        assert "VLWholeSlideMicroscopyImage" in lines
        remarks = [line for line in lines if line.startswith(("Error", "Warning")) and "DICOMDIR" not in line]
        assert remarks == [], "what only a DICOMDIR would need is unknown: patient, date"


def test_every_level_says_that_it_is_derived_and_how(task: DicomTask) -> None:
    first, *coarser = datasets(task.output)
    assert list(first.ImageType) == ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
    assert all(list(level.ImageType) == ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"] for level in coarser)
    for level in (first, *coarser):
        frames = level.SharedFunctionalGroupsSequence[0].WholeSlideMicroscopyImageFrameTypeSequence[0]
        assert frames.FrameType == level.ImageType
        assert level.DerivationDescription == "Stain normalized. checkpoint_sha256=digest; template=he"
        assert level.Manufacturer == "wsi-stain"
        assert level.OpticalPathSequence[0].ICCProfile == input_profile(srgb_profile())


def test_nothing_is_made_up_about_the_patient_or_the_time(task: DicomTask) -> None:
    for level in datasets(task.output):
        names = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID")
        assert [str(level[name].value or "") for name in names] == [""] * len(names)
        assert level.ContentDate == "19700101" and level.ContentTime == "000000.000000"
        assert level.AcquisitionDateTime.startswith("19700101")
    assert not any(b"patient" in path.read_bytes() for path in task.output.iterdir())


def test_the_references_profile_is_embedded(tmp_path: Path) -> None:
    profile = bytearray(srgb_profile())
    profile[24:26] = b"\x07\xd0"  # another year in its header
    task = make_task(tmp_path, Size(300, 200), icc=bytes(profile))
    write_dicom(task)
    assert datasets(task.output)[0].OpticalPathSequence[0].ICCProfile == input_profile(bytes(profile))


def test_equal_tasks_give_equal_bytes_and_other_keys_other_uids(task: DicomTask, tmp_path: Path) -> None:
    files = journal.describe_files(task.output)
    again = replace(task, output=tmp_path / "slide.dicom", receipt=tmp_path / "dicom.json")
    assert write_dicom(again)["product"]["files"] == files
    other = replace(task, output=tmp_path / "other.dicom", receipt=tmp_path / "other.json", key="other")
    assert not write_dicom(other)["product"]["files"].keys() & files.keys()


def test_a_rerun_keeps_what_stands_and_starts_afresh_after_a_kill(task: DicomTask, tmp_path: Path) -> None:
    again = replace(task, output=tmp_path / "slide.dicom", receipt=tmp_path / "dicom.json")
    half = partial_directory(again.output)
    half.mkdir()
    (half / "1.2.3.dcm").write_bytes(b"of a run that was killed")
    receipt = write_dicom(again)
    assert receipt["product"]["files"] == journal.describe_files(task.output)
    written = again.output.stat().st_mtime_ns
    assert write_dicom(again) == receipt
    assert again.output.stat().st_mtime_ns == written


def test_without_the_extra_the_remedy_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wsidicomizer", None)
    with pytest.raises(ConfigError, match=r"wsi-stain\[dicom\]"):
        require_dicom()


def test_its_profile_is_one_of_an_input_device_and_still_one(tmp_path: Path) -> None:
    """PS3.3, C.11.15.1.1; colours do not change by it."""
    task = make_task(tmp_path, Size(300, 200))
    write_dicom(task)
    embedded = datasets(task.output)[0].OpticalPathSequence[0].ICCProfile
    profile = ImageCms.ImageCmsProfile(io.BytesIO(embedded))
    assert profile.profile.device_class == "scnr" and profile.profile.xcolor_space.strip() == "RGB"
    transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), "RGB", "RGB")
    pixels = Image.fromarray(picture(Size(31, 17)))
    shown = ImageCms.applyTransform(pixels, transform)
    assert shown is not None and np.abs(np.asarray(shown).astype(int) - np.asarray(pixels)).max() <= 1


def test_where_the_slide_lies_on_its_glass_is_kept(tmp_path: Path) -> None:
    known = make_task(tmp_path, Size(700, 300), placement=PLACEMENT)
    write_dicom(known)
    for level in datasets(known.output):
        (origin,) = level.TotalPixelMatrixOriginSequence
        assert tuple(level.ImageOrientationSlide) == PLACEMENT.orientation
        assert (origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem) == PLACEMENT[1:]
        assert level.PositionReferenceIndicator == "SLIDE_CORNER"
    levels = dicom_levels(min(known.output.iterdir()))
    assert [level.placement for level in levels] == [PLACEMENT] * 3
    assert [level.mpp for level in levels] == [pytest.approx((0.25 * 2**k, 0.26 * 2**k)) for k in range(3)]
    with Slide(min(known.output.iterdir())) as slide:
        assert (slide.placement, slide.level_count) == (PLACEMENT, 3)


def test_where_it_is_not_known_the_place_is_nominal_and_refers_to_nothing(tmp_path: Path) -> None:
    """The standard wants one. Rows x columns points into the glass, and no pixel lies beyond its corner."""
    unknown = make_task(tmp_path, Size(700, 300))
    write_dicom(unknown)
    for level in datasets(unknown.output):
        (origin,) = level.TotalPixelMatrixOriginSequence
        along_row, along_column = np.reshape(np.array(level.ImageOrientationSlide, float), (2, 3))
        first = np.array([origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem, 0], float)
        assert np.cross(along_row, along_column).tolist() == [0, 0, -1]
        assert first + 700 * 0.25e-3 * along_row + 300 * 0.26e-3 * along_column == pytest.approx(0, abs=1e-9)
        assert level.PositionReferenceIndicator == ""
    with Slide(min(unknown.output.iterdir())) as slide:
        assert slide.placement is None and slide.level_count == 3


def test_a_slide_that_claims_more_than_its_frames_cover_is_refused_with_both_numbers(tmp_path: Path) -> None:
    from pydicom import dcmread

    task = make_task(tmp_path, Size(700, 300))
    write_dicom(task)
    finest = max(task.output.iterdir(), key=lambda file: file.stat().st_size)
    with Slide(finest) as slide:
        assert slide.remarks == ()
    dataset = dcmread(finest)
    dataset.TotalPixelMatrixColumns, dataset.TotalPixelMatrixRows = 200_000, 100_001
    dataset.save_as(finest)
    with pytest.raises(SlideError, match=r"claims 200000 x 100001 px, which take 305762 frames .* but has 6 frames"):
        Slide(finest)


def test_a_level_that_claims_the_size_of_its_frames_lies_where_its_spacing_says(tmp_path: Path) -> None:
    """Some writers state a coarser level's size in whole frames: 350 x 150 px become 512 x 256."""
    from pydicom import dcmread

    task = make_task(tmp_path, Size(701, 300))
    write_dicom(task)
    for file in task.output.iterdir():
        dataset = dcmread(file)
        if dataset.TotalPixelMatrixColumns == 351:
            dataset.TotalPixelMatrixColumns, dataset.TotalPixelMatrixRows = 512, 256
        dataset.save_as(file)
    with Slide(min(task.output.iterdir())) as slide:
        scales = {level.size: (level.scale_x, level.scale_y) for level in slide._file.levels}
    assert scales[Size(512, 256)] == (2, 2)
