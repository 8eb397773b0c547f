"""Which slides a run finds, and under which names."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.closed_folder import folder_for_nobody, without_rights
from tests.support.dicom_files import write_dicom
from wsi_stain.core.errors import ConfigError
from wsi_stain.slides.dicom_series import files_of_slide
from wsi_stain.slides.listing.find import SlideSource, find_slides, merge_details
from wsi_stain.slides.listing.names import slide_id
from wsi_stain.slides.listing.search import OUTPUT_MARK


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


@pytest.mark.parametrize("names_of_files", [("1.dcm", "2.DCM"), ("IM0001", "IM0002"), ("1.2.840.1", "1.2.840.2")])
def test_a_dicom_directory_is_one_slide_whose_largest_file_stands_for_it(
    tmp_path: Path, names_of_files: tuple[str, str]
) -> None:
    touch(tmp_path, "x.svs", "case/DICOMDIR", "case/notes", "case/thumb.jpg")
    small, large = (tmp_path / "case" / name for name in names_of_files)
    write_dicom(small, "1.2.3")
    write_dicom(large, "1.2.3", padding=1000)
    slides = find_slides([tmp_path])
    assert names(slides) == ["case.dcm", "x.svs"] and slides[0].path == large
    for source in (tmp_path / "case", small, large, tmp_path / "case" / "*", tmp_path / "*" / small.name):
        assert [(slide.relative, slide.path) for slide in find_slides([source])] == [("case.dcm", large)], source
    assert files_of_slide(small) == files_of_slide(large) == [small, large]


def test_series_that_lie_flat_in_one_directory_are_slides_of_their_own(tmp_path: Path) -> None:
    for number, series in enumerate(["1.2.3", "1.2.4", "1.2.3", "1.2.4"]):
        write_dicom(tmp_path / "flat" / f"{number}.dcm", series, padding=100 * number)
    write_dicom(tmp_path / "flat" / "scan.dcm", "1.2.5", whole_slide=False)
    (tmp_path / "flat" / "torn.dcm").write_bytes(bytes(128) + b"DICM" + b"\x02\x00")
    slides = find_slides([tmp_path])
    assert names(slides) == ["flat/1.2.3.dcm", "flat/1.2.4.dcm", "flat/torn.dcm"]
    assert [slide.path.name for slide in slides] == ["2.dcm", "3.dcm", "torn.dcm"]
    assert names(find_slides([tmp_path / "flat"])) == ["1.2.3.dcm", "1.2.4.dcm", "torn.dcm"]
    assert [path.name for path in files_of_slide(tmp_path / "flat" / "0.dcm")] == ["0.dcm", "2.dcm"]


def test_other_dicom_is_a_slide_only_by_name(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "ct" / "1.dcm", "1.2.3", whole_slide=False)
    with pytest.raises(ConfigError, match="No slides found"):
        find_slides([tmp_path])
    assert names(find_slides([path])) == ["1.dcm"]


@pytest.mark.parametrize("series", ["../../x", "a/b", ""])
def test_a_series_with_a_forged_identity_is_damaged(tmp_path: Path, series: str) -> None:
    path = write_dicom(tmp_path / "1.dcm", "1.2.345")
    path.write_bytes(path.read_bytes().replace(b"1.2.345\0", series.encode().ljust(8, b"\0")))
    assert names(find_slides([tmp_path])) == ["1.dcm"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.svs", ["a.svs"]),
        ("**/*.svs", ["a.svs", "b/c/e.svs", "b/d.svs"]),
        ("b*", ["b/c/e.svs", "b/d.svs", "b/f.tif"]),
        ("[ab]/**", ["b/c/e.svs", "b/d.svs", "b/f.tif"]),
        ("b/*", ["c/e.svs", "d.svs", "f.tif"]),
    ],
)
def test_globs_find_slides_named_from_where_the_pattern_begins(
    tmp_path: Path, pattern: str, expected: list[str]
) -> None:
    touch(tmp_path, "a.svs", "b/d.svs", "b/c/e.svs", "b/f.tif", "b/notes.txt", ".hidden/g.svs", "s.zarr/h.svs")
    touch(tmp_path, f"b/out/{OUTPUT_MARK}", "b/out/slides/i.svs", "b/out/j.svs")
    assert names(find_slides([tmp_path / pattern])) == expected


def test_a_glob_that_matches_nothing_says_so_and_a_name_with_brackets_is_a_name(tmp_path: Path) -> None:
    touch(tmp_path, "a[1].svs", "notes.txt")
    assert names(find_slides([tmp_path / "a[1].svs"])) == ["a[1].svs"]
    with pytest.raises(ConfigError, match=r"nothing that .*\*\.tx.* stands for ends in \.svs"):
        find_slides([tmp_path / "*.tx?"])


def test_what_runs_have_put_out_is_no_input_unless_it_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "x.svs", "out/slides/x.ome.tif", f"out/{OUTPUT_MARK}", "tiles/zarr.json", "tiles/x.svs/0/t.tif")
    assert names(find_slides([tmp_path])) == ["x.svs"]
    assert names(find_slides([tmp_path / "out"])) == ["slides/x.ome.tif"]
    assert names(find_slides([tmp_path / "out" / "slides"])) == ["x.ome.tif"]


def test_formats_that_need_converting_are_not_lost(tmp_path: Path) -> None:
    touch(tmp_path, "a.iSyntax", "b.VSI", "c.jpg")
    assert names(find_slides([tmp_path])) == ["a.iSyntax", "b.VSI"]


def test_two_sources_add_up_what_they_say_of_a_slide(tmp_path: Path) -> None:
    touch(tmp_path, "x.svs", "y.svs")
    (tmp_path / "a.csv").write_text("slide,mpp\nx.svs,0.25\n")
    (tmp_path / "b.csv").write_text("slide,mpp,group\nx.svs,,A\ny.svs,0.5,B\n")
    x, y = find_slides([tmp_path, tmp_path / "a.csv", tmp_path / "b.csv"])
    assert [(slide.mpp, slide.group) for slide in (x, y)] == [(0.25, "A"), (0.5, "B")]
    (plain,) = merge_details(find_slides([tmp_path / "x.svs"]), [x, y])
    assert (plain.mpp, plain.group) == (0.25, "A")
    (tmp_path / "c.csv").write_text("slide,mpp\nx.svs,0.5\n")
    with pytest.raises(ConfigError, match=r"mpp 0\.25 in one place and mpp 0\.5 in another"):
        find_slides([tmp_path / "a.csv", tmp_path / "c.csv"])
    with pytest.raises(ConfigError, match=r"x\.svs has mpp 0\.25"):
        merge_details([x], find_slides([tmp_path / "c.csv"]))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_list_gives_paths_relative_to_itself_and_what_is_known_of_each(tmp_path: Path, delimiter: str) -> None:
    touch(tmp_path, "lists/in/x.svs", "y.svs")
    write_dicom(tmp_path / "lists" / "d" / "1.dcm", "1.2.3")
    rows = ["slide,MPP ,patient,group", "in/x.svs,0.25,P1,lab A", "../y.svs,,P2,", "d,0.5,,", ",,,", "gone.svs,,,"]
    text = "\r\n".join(rows).replace(",", delimiter)
    text = text if delimiter == "," else text.replace("0.25", "0,25").replace("0.5", "0,5")
    (tmp_path / "lists" / "list.csv").write_text("\ufeff" + text, encoding="utf-8")
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
        ("slide\nd\n", "holds 2 slides"),
        ("slide\n", "No slides found"),
        ("", "no column 'slide'"),
    ],
)
def test_a_wrong_list_names_the_place(tmp_path: Path, text: str, message: str) -> None:
    touch(tmp_path, "d/a.svs", "d/b.svs")
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


def test_a_list_may_reach_outside_its_directory(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.svs", "b/x.svs")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "list.csv").write_text("slide\n../a/x.svs\n../b/x.svs\n")
    assert len(set(names(find_slides([tmp_path / "lists" / "list.csv"])))) == 2


def test_relative_paths_never_leave_the_output(tmp_path: Path) -> None:
    touch(tmp_path, "outside/x.svs", "inside/y.svs")
    rows = ["slide", "../outside/x.svs", str(tmp_path / "outside" / ".." / "inside" / "y.svs")]
    (tmp_path / "inside" / "list.csv").write_text("\n".join(rows))
    assert names(find_slides([tmp_path / "inside" / "list.csv"])) == ["x.svs", "y.svs"]


def test_real_data_is_found_once_each(real_data: Path) -> None:
    slides = find_slides([real_data])
    found = names(slides)
    assert {"formats/boxes_dicom.dcm", "formats/dicom_wsic_jpeg.dcm"} <= set(
        found
    ) and "slides/AT2_gastric_metaplasia.svs" in found
    assert len(found) == len(set(found)) == len({os.path.realpath(slide.path) for slide in slides})


def test_every_slide_gets_its_own_mask(tmp_path: Path) -> None:
    for name in ("slides/a/x.svs", "slides/b/y.svs", "masks/a/x.png", "masks/y.geojson"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    x, y = find_slides([tmp_path / "slides"], tmp_path / "masks")
    assert (x.mask, y.mask) == (tmp_path / "masks/a/x.png", tmp_path / "masks/y.geojson")
    assert [slide.mask for slide in find_slides([tmp_path / "slides"])] == [None, None]


def test_a_mask_that_fits_two_slides_is_refused(tmp_path: Path) -> None:
    for name in ("slides/a/x.svs", "slides/b/x.svs", "masks/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=r"two slides, a/x.svs and b/x.svs"):
        find_slides([tmp_path / "slides"], tmp_path / "masks")


def test_an_ome_zarr_image_is_a_slide_and_a_tile_store_only_where_it_is_named(tmp_path: Path) -> None:
    image, store = '{"attributes": {"ome": {"multiscales": []}}}', '{"attributes": {}}'
    for folder, metadata in (("a/x.ome.zarr", image), ("tiles.zarr", store), ("tiles.zarr/b", image)):
        touch(tmp_path, f"{folder}/zarr.json")
        (tmp_path / folder / "zarr.json").write_text(metadata)
    touch(tmp_path, "old.zarr/.zgroup", "old.zarr/.zattrs")
    (tmp_path / "old.zarr" / ".zattrs").write_text('{"multiscales": []}')
    assert names(find_slides([tmp_path])) == ["a/x.ome.zarr", "old.zarr"]
    assert names(find_slides([tmp_path / "*.zarr"])) == ["old.zarr"]
    assert names(find_slides([tmp_path / "tiles.zarr"])) == ["b"]
    (listed,) = find_slides([Path("s3://laboratory/slides/y.ome.zarr")])
    assert (listed.relative, str(listed.path)) == ("y.ome.zarr", "s3:/laboratory/slides/y.ome.zarr")
    (tmp_path / "slides.csv").write_text("slide,group\na/x.ome.zarr,one\ns3://laboratory/z.zarr,two\n")
    found = [(slide.relative, slide.group, str(slide.path)) for slide in find_slides([tmp_path / "slides.csv"])]
    assert found == [
        ("a/x.ome.zarr", "one", str(tmp_path / "a" / "x.ome.zarr")),
        ("z.zarr", "two", "s3:/laboratory/z.zarr"),
    ]


def test_a_link_that_leads_nowhere_is_a_slide_that_will_not_open_and_the_others_are_found(tmp_path: Path) -> None:
    touch(tmp_path, "a.svs")
    (tmp_path / "itself.svs").symlink_to(tmp_path / "itself.svs")
    (tmp_path / "gone.svs").symlink_to(tmp_path / "nothing.svs")
    (tmp_path / "folder").symlink_to(tmp_path / "folder")
    sources: Sequence[Sequence[Path]] = ([tmp_path], sorted(tmp_path.glob("*.svs")), [tmp_path / "*.svs"])
    for source in sources:
        assert names(find_slides(source)) == ["a.svs", "gone.svs", "itself.svs"]
    assert names(merge_details(find_slides([tmp_path]), find_slides([tmp_path])))[2] == "itself.svs"


def test_a_closed_folder_is_a_warning_and_the_others_are_searched() -> None:
    with folder_for_nobody() as folder:
        touch(folder, "open/a.svs", "closed/b.svs", "top.svs")
        (folder / "closed").chmod(0)
        warnings: list[str] = []
        with without_rights():
            assert names(find_slides([folder], warn=warnings.append)) == ["open/a.svs", "top.svs"]
            assert warnings == [f"{folder / 'closed'} cannot be searched for slides: Permission denied"]
            with pytest.warns(UserWarning, match="cannot be searched"):  # where nobody listens it is not lost
                find_slides([folder])
            with pytest.raises(ConfigError, match="No slides found"):
                find_slides([folder / "closed" / "b.svs"])


@pytest.mark.parametrize("name", ["x" * 300, "x" * 300 + ".csv", "x/" * 3000, "a/" + "y" * 256 + "/*.svs"])
def test_a_name_that_no_file_can_have_is_no_slide(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="No slides found"):
        find_slides([tmp_path / name])


def test_a_mask_is_looked_for_under_the_longest_name(tmp_path: Path) -> None:
    name = "x" * 251 + ".svs"
    touch(tmp_path, f"slides/{name}", "masks/y.png")
    (slide,) = find_slides([tmp_path / "slides"], tmp_path / "masks")
    assert slide.mask == tmp_path / "masks" / f"{'x' * 251}.png"
    assert len(slide.slide_id) < 140


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b"slide\n" + b"x" * 200_000, "is no table: field larger", id="a long cell"),
        pytest.param(b'slide\n"' + b"x\n" * 100_000, "is no table: field larger", id="a quote that never ends"),
        pytest.param(b"slide\na\0.svs", "bytes of zero", id="a NUL"),
        pytest.param("slide\na.svs".encode("utf-16-le"), "bytes of zero", id="UTF-16"),
    ],
)
def test_a_list_that_is_no_table_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        find_slides([tmp_path / "list.csv"])


def test_a_list_too_long_for_any_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "list.csv", "wb") as file:
        file.truncate(10**9)
    with pytest.raises(ConfigError, match="has 1000 MB"):
        find_slides([tmp_path / "list.csv"])
