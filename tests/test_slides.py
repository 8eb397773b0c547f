"""Which slides a run finds, and under which names."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_stain.errors import ConfigError
from wsi_stain.slides import SlideSource, find_slides, slide_id


def touch(root: Path, *names: str) -> Path:
    """Make files, each holding its own name; nothing here needs to be a slide."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return root


def names(slides: Sequence[SlideSource]) -> list[str]:
    return [slide.relative for slide in slides]


def test_a_directory_is_searched_in_depth_by_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "b.svs", "a/x.NDPI", "a/b/y.ome.tif", "notes.txt", ".hidden.svs", ".git/z.svs", "._mac.tif")
    touch(tmp_path, "store.zarr/0/c.tif")
    slides = find_slides([tmp_path])
    assert names(slides) == ["a/b/y.ome.tif", "a/x.NDPI", "b.svs"]
    assert [slide.slide_id for slide in slides] == ["a__b__y.ome.tif", "a__x.NDPI", "b.svs"]
    assert all(slide.path == tmp_path / slide.relative for slide in slides)


def test_the_same_name_in_two_directories_stays_two_slides(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.svs", "b/x.svs", "a__x.svs", "A/x.svs")
    slides = find_slides([tmp_path])
    assert len({slide.slide_id.lower() for slide in slides}) == len({name.lower() for name in names(slides)}) == 4


def test_two_sources_with_the_same_inner_path_stay_two_slides(tmp_path: Path) -> None:
    touch(tmp_path, "one/x.svs", "two/x.svs", "two/y.svs")
    slides = find_slides([tmp_path / "one", tmp_path / "two"])
    assert len(set(names(slides))) == 3 and names(slides)[-1] == "y.svs"
    assert all(re.fullmatch(r"x-[0-9a-f]{8}\.svs", name) for name in names(slides)[:2])


def test_a_slide_named_twice_is_found_once(tmp_path: Path) -> None:
    touch(tmp_path, "x.svs")
    (tmp_path / "link.svs").symlink_to(tmp_path / "x.svs")
    assert len(find_slides([tmp_path / "x.svs", tmp_path, tmp_path / "." / "x.svs"])) == 1


def test_a_file_named_by_the_user_is_a_slide_whatever_its_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "scan.image")
    assert names(find_slides([tmp_path / "scan.image"])) == ["scan.image"]


def test_links_to_directories_are_followed_and_cycles_end(tmp_path: Path) -> None:
    touch(tmp_path, "slides/a.svs", "elsewhere/b.svs")
    (tmp_path / "slides" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "slides")
    assert names(find_slides([tmp_path / "slides"])) == ["a.svs", "more/b.svs"]


def test_the_companion_directory_of_an_mrxs_is_not_searched(tmp_path: Path) -> None:
    touch(tmp_path, "m.mrxs", "m/Data0001.dat", "m/inner.tif", "other/n.tif")
    assert names(find_slides([tmp_path])) == ["m.mrxs", "other/n.tif"]


def test_a_dicom_directory_is_one_slide_whose_largest_file_stands_for_it(tmp_path: Path) -> None:
    touch(tmp_path, "case/1.dcm", "case/2.dcm", "case/3.dcm", "x.svs")
    (tmp_path / "case" / "2.dcm").write_bytes(b"0" * 1000)
    slides = find_slides([tmp_path])
    assert names(slides) == ["case.dcm", "x.svs"] and slides[0].path == tmp_path / "case" / "2.dcm"
    assert names(find_slides([tmp_path / "case"])) == ["case.dcm"]


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_a_list_gives_paths_relative_to_itself_and_what_is_known_of_each(tmp_path: Path, delimiter: str) -> None:
    touch(tmp_path, "lists/in/x.svs", "y.svs", "lists/d/1.dcm")
    rows = ["slide,mpp,patient,group", "in/x.svs,0.25,P1,lab A", "../y.svs,,P2,", "d,0.5,,", "gone.svs,,,"]
    (tmp_path / "lists" / "list.csv").write_text("\ufeff" + "\r\n".join(rows).replace(",", delimiter), encoding="utf-8")
    found = {slide.relative: slide for slide in find_slides([tmp_path / "lists" / "list.csv"])}
    assert sorted(found) == ["d.dcm", "gone.svs", "in/x.svs", "y.svs"]
    x = found["in/x.svs"]
    assert (x.mpp, x.patient, x.group, x.site, x.path) == (0.25, "P1", "lab A", None, tmp_path / "lists/in/x.svs")
    assert (found["y.svs"].mpp, found["y.svs"].group) == (None, None)
    assert found["d.dcm"].path.name == "1.dcm"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slide,colour,mag\nx.svs,red,40\n", "colour, mag"),
        ("path,mpp\nx.svs,0.25\n", "path"),
        ("mpp,group\n0.25,A\n", "no column 'slide'"),
        ("slide,mpp,mpp\nx.svs,1,1\n", "mpp"),
        ("slide,mpp\nx.svs,0.25\ny.svs,fast\n", "row 3: mpp is 'fast'"),
        ("slide,mpp\nx.svs,40\n", "row 2: mpp is '40'"),
        ("slide,mpp\nx.svs,nan\n", "row 2: mpp is 'nan'"),
        ("slide,mpp\n,0.25\n", "row 2 names no slide"),
        ("slide,mpp\nx.svs\n", "row 2 does not have as many cells"),
        ("slide\nx.svs,1\n", "row 2 does not have as many cells"),
        ("slide\nx.svs\n./x.svs\n", "row 3: x.svs is listed twice"),
        ("slide\n", "No slides found"),
        ("", "no column 'slide'"),
    ],
)
def test_a_wrong_list_names_the_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        find_slides([path])
    assert caught.value.remedy


def test_a_list_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes("slide\nä.svs\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="UTF-8"):
        find_slides([tmp_path / "list.csv"])


@pytest.mark.parametrize("missing", [True, False], ids=["missing", "empty"])
def test_a_source_without_slides_says_what_was_looked_for(tmp_path: Path, missing: bool) -> None:
    touch(tmp_path, "good/x.svs")
    place = tmp_path / "place"
    if not missing:
        touch(place, "readme.txt")
    with pytest.raises(ConfigError, match="No slides found") as caught:
        find_slides([tmp_path / "good", place])
    assert str(place) in str(caught.value) and (missing or ".ndpi" in str(caught.value))
    with pytest.raises(ConfigError, match="No slides found"):
        find_slides([])


@pytest.mark.parametrize("relative", ["a/x.svs", "x.svs", "a/b/c-1.2_3.ome.tif"])
def test_plain_names_become_plain_ids(relative: str) -> None:
    assert slide_id(relative) == relative.replace("/", "__")


RELATIVE = st.lists(
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=30).filter(
        lambda part: part not in {".", ".."}
    ),
    min_size=1,
    max_size=4,
).map("/".join)


@given(st.lists(RELATIVE | st.text("a_/", min_size=1, max_size=6), min_size=1, max_size=8, unique=True))
def test_ids_are_safe_and_never_meet(relatives: list[str]) -> None:
    ids = [slide_id(relative) for relative in relatives]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,140}", made) for made in ids)


def test_names_that_are_not_utf8_become_text(tmp_path: Path) -> None:
    for name in (b"\xff.svs", b"\xfe.svs"):
        (tmp_path / os.fsdecode(name)).touch()
    slides = find_slides([tmp_path])
    assert len({slide.slide_id for slide in slides}) == len(set(names(slides))) == 2
    assert all(slide.model_dump()["relative"].encode() and slide.path.exists() for slide in slides)


def test_relative_paths_never_leave_the_output(tmp_path: Path) -> None:
    touch(tmp_path, "outside/x.svs", "inside/y.svs")
    rows = ["slide", "../outside/x.svs", str(tmp_path / "outside" / ".." / "inside" / "y.svs")]
    (tmp_path / "inside" / "list.csv").write_text("\n".join(rows))
    assert names(find_slides([tmp_path / "inside" / "list.csv"])) == ["x.svs", "y.svs"]


def test_real_data_is_found_once_each(real_data: Path) -> None:
    slides = find_slides([real_data])
    found = names(slides)
    assert "formats/dicom_wsic_jpeg.dcm" in found and "slides/AT2_gastric_metaplasia.svs" in found
    assert len(found) == len(set(found)) == len({os.path.realpath(slide.path) for slide in slides})
