"""Imports, whatever the layout: where patches lie, what survives, what is told."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests.support.files_below import digests
from tests.support.patch_files import idc_patient, import_source, save, task, tissue
from wsi_stain.core.errors import SlideError, StainError
from wsi_stain.core.geometry import BLOCK, TILE, BlockIndex, Region, Size, TileIndex
from wsi_stain.datasets.idc import IdcPatient
from wsi_stain.datasets.importing import import_slide, inspect_patches
from wsi_stain.datasets.mosaic import Mosaic, label_maps
from wsi_stain.store import TileStore
from wsi_stain.store.patches import Listing, Patch, frame_size, from_csv, place_in_rows, to_csv


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=40))
def test_shelves_never_overlap(sizes: list[tuple[int, int]]) -> None:
    places = place_in_rows([Size(*size) for size in sizes])
    assert [(place.width, place.height) for place in places] == sizes
    canvas = np.zeros((2000, 2000), int)
    for place in places:
        canvas[place.y : place.y + place.height, place.x : place.x + place.width] += 1
    assert canvas.max(initial=0) <= 1
    assert canvas.sum() == sum(width * height for width, height in sizes)


@pytest.mark.parametrize("count", [1, 2, 16, 17, 100])
def test_shelves_of_one_size_are_a_square_without_gaps(count: int) -> None:
    places = place_in_rows([Size(96, 96)] * count)
    side = int(np.ceil(count**0.5))
    assert places == [Region(96 * (i % side), 96 * (i // side), 96, 96) for i in range(count)]


def test_a_frame_is_whole_tiles() -> None:
    patches = [Patch("a", Region(200, 0, 57, 50)), Patch("b", None), Patch("c", Region(0, 0, 9, 256))]
    assert frame_size(patches) == Size(512, 256)


regions = st.tuples(*[st.integers(0, 10**6)] * 4).map(lambda place: Region(*place))
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\r"))
names = texts | st.just("odd\udcff.png")


@given(
    st.lists(st.tuples(names, st.none() | regions, st.none() | texts.filter(bool), texts).map(lambda row: Patch(*row)))
)
def test_the_table_of_patches_comes_back_as_it_was(patches: list[Patch]) -> None:
    assert from_csv(to_csv(patches)) == patches


@given(st.lists(st.tuples(st.integers(0, 700), st.integers(0, 440), st.sampled_from("ab"))))
def test_label_maps_are_shares_of_the_labelled_area(placed_patches: list[tuple[int, int, str]]) -> None:
    patches = [Patch(str(number), Region(x, y, 68, 72), label) for number, (x, y, label) in enumerate(placed_patches)]
    canvas = {label: np.zeros((512, 768)) for label in "ab"}
    for _, region, label, _ in [*patches, Patch("unlabelled", Region(0, 0, 300, 300))]:
        if region and label:
            canvas[label][region.y : region.y + 72, region.x : region.x + 68] += 1
    areas = {label: area.reshape(2, TILE, 3, TILE).sum(axis=(1, 3)) for label, area in canvas.items()}
    total = areas["a"] + areas["b"]
    found = label_maps(patches, (2, 3))
    assert set(found) == {label for _, _, label in placed_patches}
    for label, share in found.items():
        assert share.dtype == np.float32
        np.testing.assert_array_equal(share, (areas[label] / np.where(total > 0, total, np.nan)).astype(np.float32))


class OnePatch:
    """A source whose only patch is of one colour."""

    relative = "one"
    facts: ClassVar[dict[str, Any]] = {}

    def listing(self) -> Listing:
        return Listing([Patch("p", Region(207, 3, 50, 50))], {})

    def read(self, patches: Sequence[Patch]) -> Iterator[tuple[Patch, NDArray[np.uint8] | str]]:
        yield patches[0], np.full((50, 50, 3), (200, 100, 150), np.uint8)


@pytest.mark.parametrize("factor", [1, 2, 8, 256])
def test_a_thumbnail_shows_what_patches_show_and_nothing_around_them(factor: int) -> None:
    mosaic = Mosaic(Size(768, 256), factor, glass=(240, 230, 250))
    tiles = mosaic.lay(BlockIndex(0, 0), OnePatch().listing().patches, OnePatch())
    assert list(tiles) == [(0, 0), (0, 1)], "one column of the patch lies on the second tile"
    np.testing.assert_array_equal(tiles[TileIndex(0, 1)][0, 0], (240, 230, 250))
    assert mosaic.kept.tolist() == [[True, True, False]]
    covered = np.zeros((256 // factor, 768 // factor), bool)
    covered[3 // factor : 52 // factor + 1, 207 // factor : 256 // factor + 1] = True
    np.testing.assert_array_equal(mosaic.covered, covered)
    np.testing.assert_array_equal(mosaic.thumbnail, np.where(covered[..., None], (200, 100, 150), 255))


# Standing, changing, failing


def test_a_slide_that_stands_is_left_alone_and_its_remarks_told_again(tmp_path: Path) -> None:
    idc_patient(tmp_path, "9", tissue(), x=1, y=1)
    save(tmp_path / "9/0/stray.png", tissue()[:50, :50])
    source, store = IdcPatient(tmp_path / "9"), tmp_path / "store"
    _, first = import_source(source, store)
    times = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    _, second = import_source(source, store)
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == times
    assert not first["stood"]
    assert second == {**first, "stood": True}
    assert not (store / "9" / ".receipts").exists()


@pytest.mark.parametrize("lost", ["maps/label-1/zarr.json", "tables/zarr.json", "0/c/0/0/0"])
def test_a_slide_that_lost_a_file_is_imported_again(tmp_path: Path, lost: str) -> None:
    idc_patient(tmp_path, "9", tissue(), x=1, y=1)
    source, store = IdcPatient(tmp_path / "9"), tmp_path / "store"
    import_source(source, store)
    whole = digests(store)
    (store / "9" / lost).unlink()
    _, receipt = import_source(source, store)
    assert not receipt["stood"] and receipt["replaced"]
    assert digests(store) == whole


def test_a_changed_patch_or_setting_makes_a_slide_anew(tmp_path: Path) -> None:
    idc_patient(tmp_path, "9", tissue(), x=1, y=1)
    source, store = IdcPatient(tmp_path / "9"), tmp_path / "store"
    path, changed = tmp_path / "9/1/9_idx5_x1_y1_class1.png", 255 - tissue()[:50, :50]
    Image.fromarray(tissue()[:50, :50]).save(path, compress_level=0)
    size = path.stat().st_size
    import_source(source, store)
    Image.fromarray(changed).save(path, compress_level=0)
    assert path.stat().st_size == size
    slide, receipt = import_source(source, store)
    assert receipt["replaced"]
    np.testing.assert_array_equal(slide.read(Region(1, 1, 50, 50)), changed)
    assert import_slide(replace(task(source, store), mpp=2.0))["replaced"]


IMPORT = """
import sys
from pathlib import Path
from wsi_stain.datasets.idc import IdcPatient
from wsi_stain.datasets.importing import ImportTask, import_slide
from wsi_stain.stain.statistics import StainConfig
from wsi_stain.tissue.config import TissueConfig
source, store = map(Path, sys.argv[1:])
import_slide(ImportTask(IdcPatient(source), store, 1.0, "--mpp", TissueConfig(), StainConfig(min_pixels=100)))
"""


def test_after_a_kill_the_slide_does_not_exist_and_a_rerun_gives_the_same_bytes(tmp_path: Path) -> None:
    idc_patient(tmp_path, "9", tissue(), x=BLOCK - 325, y=BLOCK - 231)
    source = IdcPatient(tmp_path / "9")
    import_source(source, tmp_path / "whole")
    for visit in (7, 28):  # amid the shards; at the mark
        store = tmp_path / f"killed-{visit}"
        ended = subprocess.run(
            [sys.executable, "-c", IMPORT, tmp_path / "9", store],
            env={**os.environ, "WSI_STAIN_FAILPOINT": f"before-rename:{visit}"},
            check=False,
        )
        assert ended.returncode == -9, visit
        assert TileStore(store).slide_ids() == []
        import_source(source, store)
        assert digests(store) == digests(tmp_path / "whole")


def test_patches_of_which_none_can_be_used_leave_nothing(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / f"9/0/stray{number}.png", tissue()[:50, :50])
    with pytest.raises(SlideError, match=r"None of the 3 patches of 9 can be used, for example 0/stray0\.png"):
        import_slide(task(IdcPatient(tmp_path / "9"), tmp_path / "store"))
    assert not (tmp_path / "store" / "9").exists()


def test_patches_that_are_not_he_are_never_a_slide(tmp_path: Path) -> None:
    brown = 255 * np.exp(np.log((tissue()[..., 1:2] + 1.0) / 256) * (0.27, 0.57, 0.78))
    idc_patient(tmp_path, "9", brown.astype(np.uint8))
    with pytest.raises(StainError):
        import_slide(task(IdcPatient(tmp_path / "9"), tmp_path / "store"))
    assert TileStore(tmp_path / "store").slide_ids() == []


def test_a_look_writes_nothing(tmp_path: Path) -> None:
    idc_patient(tmp_path, "9", tissue(), x=1, y=1)
    found = inspect_patches(task(IdcPatient(tmp_path / "9"), tmp_path / "store"))
    assert not (tmp_path / "store").exists()
    assert (found["patches"], found["size"], found["labels"]) == (140, [768, 512], {"0": 70, "1": 70})
