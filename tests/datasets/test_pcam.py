"""PCam's files: patches by slide, labels, and what is damaged."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.support.patch_files import (
    RgbImage,
    cut_patches,
    glass,
    import_source,
    pcam_split,
    refusals,
    table,
    task,
    tissue,
)
from wsi_stain.core.errors import ConfigError, SlideError
from wsi_stain.core.geometry import Region
from wsi_stain.datasets.importing import import_slide
from wsi_stain.datasets.pcam import find_splits


def pcam_patches(count: int = 30) -> list[RgbImage]:
    return cut_patches(tissue(800, 600), 96)[:count]


def test_pcam_patches_of_a_slide_are_side_by_side(tmp_path: Path) -> None:
    patches, slides = pcam_patches(), ["tumor_001"] * 9 + ["normal_002", "tumor_001"] * 9 + ["tumor_001"] * 3
    path = pcam_split(tmp_path, "train", patches, [number % 2 for number in range(30)], slides)
    sources, faults = find_splits([path, path.with_name(path.name.replace("_x.", "_y."))], None)
    assert faults == []
    assert [source.relative for source in sources] == ["train/normal_002", "train/tumor_001"]
    slide, receipt = import_source(sources[1], tmp_path / "store")
    places = [place for place, name in enumerate(slides) if name == "tumor_001"]
    assert (slide.record.slide_id, slide.record.split, receipt["patches"]) == ("train__tumor_001", "train", 21)
    assert receipt["labels"] == {"0": len([p for p in places if p % 2 == 0]), "1": len([p for p in places if p % 2])}
    found = table(slide)
    assert list(found) == [f"{path.name}:{place}" for place in places]
    for number, place in enumerate(places):
        patch = found[f"{path.name}:{place}"]
        assert patch.region == Region(96 * (number % 5), 96 * (number // 5), 96, 96)
        assert patch.label == str(place % 2)
        np.testing.assert_array_equal(slide.read(patch.region), patches[place])


def test_pcam_without_labels_and_metadata_is_one_slide(tmp_path: Path) -> None:
    path = pcam_split(tmp_path, "valid", pcam_patches(), None, None)
    (source,), _ = find_splits([path], None)
    slide, receipt = import_source(source, tmp_path / "store")
    assert (slide.record.slide_id, slide.record.split) == ("valid", "valid")
    assert receipt["labels"] == {}
    assert not list((slide.path / "maps").glob("label*"))
    np.testing.assert_array_equal(slide.read(Region(0, 0, 576, 96)), np.hstack(pcam_patches()[:6]))


def test_pcam_patches_without_a_slide_stay_with_their_split(tmp_path: Path) -> None:
    path = pcam_split(tmp_path, "test", pcam_patches(4), None, ["a", "", "a", ""])
    sources, _ = find_splits([path], None)
    assert {source.relative: list(source.indices) for source in sources} == {"test": [1, 3], "test/a": [0, 2]}


def test_metadata_may_lie_elsewhere(tmp_path: Path) -> None:
    path = pcam_split(tmp_path, "test", pcam_patches(4), None, ["a", "b", "a", "b"])
    meta = path.with_name("camelyonpatch_level_2_split_test_meta.csv").rename(tmp_path / "other.csv")
    assert [source.relative for source in find_splits([path], None)[0]] == ["test"]
    assert [source.relative for source in find_splits([path], meta)[0]] == ["test/a", "test/b"]
    with pytest.raises(ConfigError, match="--meta belongs to one file, found 2"):
        find_splits([path, tmp_path / "b_x.h5"], meta)


def test_a_damaged_chunk_costs_its_patches_alone(tmp_path: Path) -> None:
    path = pcam_split(tmp_path, "train", pcam_patches(), [0] * 30, None)
    with h5py.File(path) as file:
        chunk = file["x"].id.get_chunk_info(2)
    with open(path, "r+b") as damaged:
        damaged.seek(chunk.byte_offset)
        damaged.write(bytes(chunk.size))
    (source,), _ = find_splits([path], None)
    slide, receipt = import_source(source, tmp_path / "store")
    found = refusals(receipt)
    assert list(found) == [f"{path.name}:{place}" for place in range(8, 12)]
    assert all(reason.startswith("cannot be read") for reason in found.values())
    np.testing.assert_array_equal(slide.read(Region(96, 96, 96, 96)), pcam_patches()[7])
    assert (slide.read(Region(192, 96, 96, 96)) == glass(slide)).all()


def write_packed(path: Path) -> None:
    path.write_bytes(b"\x1f\x8b packed")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:9000])


def dataset(name: str, values: Any) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file[name] = values

    return damage


def metadata(text: str) -> Callable[[Path], None]:
    return lambda path: path.with_name(path.name.replace("_x.h5", "_meta.csv")).write_text(text) and None


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(write_packed, "is no HDF5 file", id="packed"),
        pytest.param(cut_short, "is no HDF5 file", id="cut short"),
        pytest.param(dataset("z", 1), "found none", id="no dataset"),
        pytest.param(dataset("x", np.zeros((2, 50, 50, 3), np.uint8)), "found (2, 50, 50, 3) uint8", id="size"),
        pytest.param(dataset("x", np.zeros((2, 96, 96, 3))), "float64", id="type"),
        pytest.param(metadata(",wsi\n0,a\n"), "has 1 rows, expected 4", id="short metadata"),
        pytest.param(metadata("a,b\n"), "no column 'wsi'", id="other metadata"),
    ],
)
def test_a_pcam_file_that_cannot_be_used_is_told_and_others_imported(tmp_path: Path, damage: Any, reason: str) -> None:
    bad = pcam_split(tmp_path, "valid", pcam_patches(4), [0] * 4, ["a"] * 4)
    good = pcam_split(tmp_path, "train", pcam_patches(4), [0] * 4, None)
    damage(bad)
    sources, faults = find_splits([bad, good], None)
    assert [source.relative for source in sources] == ["train"]
    (fault,) = faults
    assert fault.startswith(bad.name)
    assert reason in fault
    with pytest.raises(ConfigError, match="No patches found"):
        find_splits([bad], None)


def test_labels_of_another_length_are_refused(tmp_path: Path) -> None:
    path = pcam_split(tmp_path, "train", pcam_patches(4), [0] * 3, None)
    (source,), _ = find_splits([path], None)
    with pytest.raises(SlideError, match="holds 3 labels, expected 4"):
        import_slide(task(source, tmp_path / "store"))


def test_without_h5py_pcam_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pcam_split(tmp_path, "train", pcam_patches(4), None, None)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ConfigError, match=r"h5py.*pip install 'wsi-stain\[pcam\]'"):
        find_splits([path], None)


def test_a_packed_file_says_how_to_unpack_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gunzip camelyonpatch_level_2_split_train_x\.h5\.gz"):
        find_splits([tmp_path / "camelyonpatch_level_2_split_train_x.h5.gz"], None)
