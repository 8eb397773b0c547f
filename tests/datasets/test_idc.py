"""The IDC layout: patches lie at their coordinates; what is malformed is told, by file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from tests.support.patch_files import glass, idc_patient, import_source, refusals, save, table, tissue, whole
from wsi_stain.core.errors import ConfigError
from wsi_stain.core.geometry import BLOCK, Region, Size
from wsi_stain.datasets.idc import IdcPatient, find_patients
from wsi_stain.store import StoredSlide
from wsi_stain.store.patches import MAX_REMARKS, Patch, from_csv


@pytest.fixture(scope="module")
def idc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("idc")
    idc_patient(root, "10253", tissue(), x=551, y=301)
    return root


@pytest.fixture(scope="module")
def patient(idc: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[StoredSlide, dict[str, Any]]:
    return import_source(IdcPatient(idc / "10253"), tmp_path_factory.mktemp("idc-store") / "store")


def test_idc_patches_lie_at_their_coordinates(patient: tuple[StoredSlide, dict[str, Any]]) -> None:
    slide, receipt = patient
    expected = np.full((1024, 1280, 3), 255, np.uint8)
    expected[256:, 512:] = glass(slide)
    expected[301:801, 551:1251] = tissue()
    assert slide.size == Size(1280, 1024)
    np.testing.assert_array_equal(whole(slide), expected)
    assert slide.kept.tolist() == [[False] * 5] + [[False, False, True, True, True]] * 3
    assert receipt["tiles"] == 9
    assert (receipt["patches"], receipt["refused"]) == (140, 0)
    assert receipt["labels"] == {"0": 70, "1": 70}


def test_an_imported_slide_says_what_is_known_of_it(patient: tuple[StoredSlide, dict[str, Any]]) -> None:
    record = patient[0].record
    assert (record.slide_id, record.relative, record.patient) == ("10253", "10253", "10253")
    assert (record.mpp, record.mpp_origin) == ((1.0, 1.0), "--mpp")
    assert record.stain is not None
    assert record.stain.white == pytest.approx((243, 242, 245), abs=1)
    assert record.stain.white_origin == "glass"


def test_tissue_is_found_on_what_patches_show(patient: tuple[StoredSlide, dict[str, Any]]) -> None:
    slide, _ = patient
    assert slide.thumbnail.shape[:2] == slide.mask.shape == (1024, 1280)
    covered = np.zeros(slide.mask.shape, bool)
    covered[301:801, 551:1251] = True
    assert not (slide.mask & ~covered).any()
    assert slide.tissue[2, 3] > 0.9
    assert slide.tissue[0].max() == 0


def test_idc_labels_are_maps_and_a_table(patient: tuple[StoredSlide, dict[str, Any]]) -> None:
    slide, _ = patient
    tumour, normal = slide.map("label-1"), slide.map("label-0")
    np.testing.assert_array_equal(np.isnan(tumour), ~slide.kept)
    np.testing.assert_array_equal(tumour[1, 2:], np.float32([1, 133 / 256, 0]))
    np.testing.assert_array_equal(normal[1, 2:], np.float32([0, 123 / 256, 1]))
    patch = table(slide)["1/10253_idx5_x601_y401_class1.png"]
    assert patch == Patch("1/10253_idx5_x601_y401_class1.png", Region(601, 401, 50, 50), "1")
    np.testing.assert_array_equal(slide.read(patch.region), tissue()[100:150, 50:100])


def test_zarr_reads_an_imported_slide(patient: tuple[StoredSlide, dict[str, Any]]) -> None:
    group = zarr.open_group(patient[0].path, mode="r")
    members = dict(group.members(max_depth=2))  # a stray file would be a warning, and a warning fails
    np.testing.assert_array_equal(np.moveaxis(members["0"][:], 0, 2), whole(patient[0]))
    assert from_csv(members["tables/patches"][:].tobytes().decode())[0].name.startswith("1/10253_idx5")


def test_patches_across_blocks_are_whole(tmp_path: Path) -> None:
    idc_patient(tmp_path, "7", tissue(), x=BLOCK - 325, y=BLOCK - 231)
    slide, receipt = import_source(IdcPatient(tmp_path / "7"), tmp_path / "store")
    np.testing.assert_array_equal(slide.read(Region(BLOCK - 325, BLOCK - 231, 700, 500)), tissue())
    assert receipt["tiles"] == slide.kept.sum() == 4 * 3
    assert len(slide.grid.blocks()) == 4
    assert slide.thumbnail.shape[:2] == (4608 // 4, 4608 // 4)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param("0/picture.png", "the name is not like 9_idx5_x1001_y1101_class0.png", id="no coordinates"),
        pytest.param("0/9_idx5_x1000000_y1_class0.png", "the name is not like", id="absurd coordinate"),
        pytest.param("0/9_idx5_x-49_y1_class0.png", "the name is not like", id="negative coordinate"),
        pytest.param("0/8_idx5_x2001_y1_class0.png", "the name says patient 8, the folder 9", id="another patient"),
        pytest.param("0/9_idx5_x2001_y1_class1.png", "the name says class 1, the folder 0", id="another class"),
        pytest.param("0/9_idx5_x2012_y1_class0.png", "does not lie on the patient's grid of 50 px", id="off the grid"),
        pytest.param("1/9_idx5_x401_y1_class1.png", "lies where 0/9_idx5_x401_y1_class0.png lies", id="twice"),
    ],
)  # fmt: skip
def test_a_malformed_name_is_told_and_the_rest_imported(tmp_path: Path, name: str, reason: str) -> None:
    idc_patient(tmp_path, "9", tissue(), x=1, y=1)
    save(tmp_path / "9" / name, tissue()[:50, :50])
    slide, receipt = import_source(IdcPatient(tmp_path / "9"), tmp_path / "store")
    assert receipt["refused"] == 1
    assert refusals(receipt)[name].startswith(reason)
    assert table(slide)[name].region is None
    np.testing.assert_array_equal(slide.read(Region(1, 1, 700, 500)), tissue())


def test_unreadable_and_too_large_patches_leave_glass_behind(tmp_path: Path) -> None:
    idc_patient(tmp_path, "9", tissue(), x=1, y=1)
    folder = tmp_path / "9" / "1"
    cut_short, large, empty = (folder / f"9_idx5_x{x}_y101_class1.png" for x in (1, 51, 101))
    cut_short.write_bytes(cut_short.read_bytes()[:2000])
    save(large, tissue()[:64, :60])
    empty.write_bytes(b"")
    slide, receipt = import_source(IdcPatient(tmp_path / "9"), tmp_path / "store")
    found = refusals(receipt)
    assert receipt["refused"] == len(found) == 3
    assert found[f"1/{cut_short.name}"].startswith("cannot be read")
    assert found[f"1/{large.name}"] == "60 x 64 px, expected 50 x 50"
    assert found[f"1/{empty.name}"] == "is no picture that can be read"
    expected = tissue().copy()
    expected[100:150, :150] = glass(slide)
    np.testing.assert_array_equal(slide.read(Region(1, 1, 700, 500)), expected)


def test_a_smaller_patch_is_laid_as_it_is(tmp_path: Path) -> None:
    idc_patient(tmp_path, "9", tissue(), x=1, y=1)
    save(tmp_path / "9/0/9_idx5_x701_y1_class0.png", tissue()[:50, :31])
    slide, receipt = import_source(IdcPatient(tmp_path / "9"), tmp_path / "store")
    assert receipt["refused"] == 0
    assert receipt["remarks"] == ["0/9_idx5_x701_y1_class0.png: laid as it is: 31 x 50 px, expected 50 x 50"]
    assert table(slide)["0/9_idx5_x701_y1_class0.png"].region == Region(701, 1, 31, 50)
    np.testing.assert_array_equal(slide.read(Region(701, 1, 31, 50)), tissue()[:50, :31])


def test_remarks_are_many_in_the_table_and_few_in_the_receipt(tmp_path: Path) -> None:
    idc_patient(tmp_path, "9", tissue(), x=1, y=1)
    for number in range(MAX_REMARKS + 5):
        save(tmp_path / f"9/0/stray{number}.png", tissue()[:50, :50])
    slide, receipt = import_source(IdcPatient(tmp_path / "9"), tmp_path / "store")
    assert receipt["remarked"] == receipt["refused"] == MAX_REMARKS + 5
    assert len(receipt["remarks"]) == MAX_REMARKS
    assert sum(bool(patch.remark) for patch in table(slide).values()) == MAX_REMARKS + 5


def test_patients_are_found_and_other_folders_named(idc: Path, tmp_path: Path) -> None:
    for folder in ("5/0", "6/1", "IDC_regular_ps50_idx5/7/0", ".cache/0"):
        (tmp_path / folder).mkdir(parents=True)
    patients, others = find_patients(tmp_path)
    assert [patient.relative for patient in patients] == ["5", "6"]
    assert others == ["IDC_regular_ps50_idx5"]
    with pytest.raises(ConfigError, match="No patients found"):
        find_patients(tmp_path / "5")
