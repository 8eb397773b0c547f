"""The report and the summary: complete, self-contained, and harmless whatever files are called."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wsi_stain.core.geometry import Mpp, Size
from wsi_stain.core.html import thumbnail_jpeg
from wsi_stain.core.text import escape_formula, escape_unprintable, unescape_formula
from wsi_stain.metrics.chromatin import NuclearDetail
from wsi_stain.metrics.hallucination import map_png
from wsi_stain.metrics.seams import SeamScore
from wsi_stain.report import RunRecord, read_training, write_report, write_sheet
from wsi_stain.results import SlideRow, read_rows, write_summary
from wsi_stain.results.slide_row import Colours, FieldOfView, NuclearChange
from wsi_stain.stain.statistics import StainStatistics

STAIN = StainStatistics(
    white=(243.4, 241.0, 244.6),
    white_origin="glass",
    vectors=((0.651, 0.701, 0.29), (0.07, 0.991, 0.11)),
    h_nuclei=1.0,
    h_stroma=0.3,
    e_nuclei=0.3,
    e_stroma=0.5,
    lum_nuclei=0.8,
    lum_stroma=0.3,
    dark_ratio=1.3,
    pixels=100_000,
)
HOSTILE = [
    "<script>alert(1)</script>.svs",
    '"><img src=http://example.com/x onerror=alert(1)>.svs',
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }}{% for %}",
    "</style></title><base href=//example.com>",
    "javascript:alert(1)",
    'line\nbreak, comma; "quote" \x00\x1b',
    "not unicode \udcff.svs",
]


def jpeg(colour: tuple[int, int, int]) -> bytes:
    return thumbnail_jpeg(np.full((31, 47, 3), colour, np.uint8))


class Page(HTMLParser):
    """What a browser would see: elements with attributes, and the text of each kind of element."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append((self.elements[-1][0] if self.elements else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(text for tag, text in self.texts if tag not in ("script", "style")).split())


def report(directory: Path, *rows: SlideRow, run: RunRecord | None = None) -> Page:
    pictures = {row.slide_id: row for row in rows}
    bare = [row.without_pictures() for row in rows]
    return Page(write_report(directory, bare, lambda row: pictures[row.slide_id], run or RunRecord()))


def finished_row(**more: Any) -> SlideRow:
    """A row with everything that a row can have."""
    row = SlideRow(
        slide="a/one.svs",
        slide_id="a-one",
        status="done",
        tiles=1432,
        seconds=83.2,
        output="slides/a/one.ome.tif",
        size=Size(470, 310),
        mpp=Mpp(0.2528, 0.25),
        mpp_origin="openslide",
        stain=STAIN,
        before=jpeg((200, 100, 150)),
        after=jpeg((180, 90, 170)),
        overlay=jpeg((10, 20, 30)),
        fields=(FieldOfView(what="most tissue", mpp=0.5, x=3, y=4, before=jpeg((9, 8, 7)), after=jpeg((6, 5, 4))),),
        colours=Colours(before=(0.5, 0.5), after=(0.25, 0.75), stain=STAIN, change=8.0, change_by_statistics=6.0),
        nuclei=NuclearChange(
            before=NuclearDetail(contrast=10.0, dark=0.01, luminance=100),
            after=NuclearDetail(contrast=9.0, dark=0.022, luminance=90),
        ),
        seam=SeamScore(score=1.012, low=0.99, high=1.03),
        hallucination=map_png(np.full((2, 3), 40, np.uint8)),
        hallucination_p95=4.0,
        table_distance=0.75,
    )
    return row.model_copy(update=more)


def test_a_row_shows_itself_in_a_notebook() -> None:
    card = finished_row(slide="<b>one</b>.svs", reason="<script>alert(1)</script>")._repr_html_()
    assert "<b>" not in card and "<script>" not in card
    assert "&lt;script&gt;" in card and "470 x 310 px" in card and "slides/a/one.ome.tif" in card
    assert card.count("data:image/jpeg;base64,") == 2
    bare = SlideRow(slide="x", slide_id="x", status="failed")._repr_html_()
    assert "failed" in bare and "<img" not in bare


def test_the_page_tells_what_became_of_every_slide(tmp_path: Path) -> None:
    failed = SlideRow(slide="b.svs", slide_id="b", status="failed", reason="No resolution", remedy="Give --slide-mpp")
    run = RunRecord(
        {"device": "cpu", "config": {"jpeg": {"quality": 90}}},
        reference=STAIN,
        nuclei=NuclearDetail(contrast=7.0, dark=0.02, luminance=60),
        reference_od=(0.5, 0.5),
    )
    page = report(tmp_path, finished_row(), failed, run=run)
    for expected in (
        "2 slides 1 done 1 failed",
        "b.svs failed No resolution Give --slide-mpp",
        "device cpu",
        '"quality": 90',
        "470 \u00d7 310 px 0.2528 \u00d7 0.25 µm per px (openslide) 1432 tiles 1 min 23 s",
        "whole slide most tissue, 20\u00d7",
        "Most tissue, 20\u00d7, 0.5 µm per px, from x 3, y 4.",
        "white, R G B 243 241 245 243 241 245 243 241 245",
        "hematoxylin, OD R G B 0.65 0.70 0.29 0.65 0.70 0.29",
        "its angle to the reference's 0.0° 0.0°",
        "gain of hematoxylin 1.00 1.00",
        "seam score 1.012 0.990 to 1.030 unexplained change, p95 4.00 CIEDE2000 table to generator 0.75 CIEDE2000",
        "contrast kept within nuclei 0.90 10.0 → 9.0, reference 7.0",
        "dark nuclear pixels 2.2 % before 1.0 %, reference 2.0 %",
        "change by statistics alone 75 % CIEDE2000 6.0 of 8.0",
    ):
        assert expected in page.text
    assert {str(link["href"]) for link in page.all("a")} == {"../slides/a/one.ome.tif", "#slide1"}


def test_every_picture_is_there_before_and_after(tmp_path: Path) -> None:
    page = report(tmp_path, finished_row())
    sources = {str(image["alt"]): str(image["src"]) for image in page.all("img")}
    colours = {
        "a/one.svs, before": (200, 100, 150),
        "a/one.svs, after": (180, 90, 170),
        "a/one.svs, most tissue, before": (9, 8, 7),
        "a/one.svs, most tissue, after": (6, 5, 4),
        "a/one.svs: what was taken for tissue": (10, 20, 30),
        "a/one.svs: change that no colour table explains, by tile": (102, 102, 102),
    }
    for name, colour in colours.items():
        with Image.open(io.BytesIO(base64.b64decode(sources[name].partition(",")[2]))) as picture:
            np.testing.assert_allclose(picture.convert("RGB").getpixel((1, 1)), colour, atol=6, err_msg=name)


@pytest.mark.parametrize(
    "missing",
    ["before", "fields", "colours", "stain", "seam", "hallucination", "overlay", "size", "table_distance", "nuclei"],
)
def test_what_a_row_lacks_is_left_out(tmp_path: Path, missing: str) -> None:
    empty = () if missing == "fields" else None
    page = report(tmp_path, finished_row(**{missing: empty}), run=RunRecord(reference=STAIN))
    assert "a/one.svs done" in page.text


def test_a_run_without_trouble_or_pictures_has_no_table_of_failures(tmp_path: Path) -> None:
    page = report(tmp_path, SlideRow(slide="one.svs", slide_id="one", status="done"))
    assert "Needs attention" not in page.text
    assert "Look at these first" not in page.text
    assert "Training" not in page.text
    assert "1 slide 1 done" in page.text


@pytest.mark.parametrize("count", [0, 1])
def test_a_report_of_nothing_is_still_a_page(tmp_path: Path, count: int) -> None:
    rows = [SlideRow(slide="one.svs", slide_id="one", status="empty")] * count
    assert f"{count} slide" in report(tmp_path, *rows).text


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    assert "The run did not end." in report(tmp_path, run=RunRecord(notes=["The run did not end."])).text


def test_outliers_come_first_and_say_why(tmp_path: Path) -> None:
    usual = [finished_row(slide=f"{number}", slide_id=f"{number}", seam=None) for number in range(6)]
    odd = finished_row(
        slide="odd", slide_id="odd", seam=None, stain=STAIN.model_copy(update={"white": (180.0, 181.0, 182.0)})
    )
    page = report(tmp_path, *usual, odd)
    articles = [str(found["data-name"]) for found in page.all("article")]
    assert articles == ["odd", *"012345"]
    assert "white, grey levels: 181, the others' median is 242" in page.text


def test_training_is_shown_as_curves_and_panels(tmp_path: Path) -> None:
    folder = tmp_path / "training"
    (folder / "panels").mkdir(parents=True)
    for epoch in (1, 2):
        Image.new("RGB", (30, 20)).save(folder / "panels" / f"epoch_00{epoch}.png")
    (folder / "metrics.csv").write_text("epoch,step,l1,perturbed_ciede2000\n1,10,0.5,4\n2,20,0.25,nan\n")
    page = report(tmp_path, run=RunRecord(training=read_training(folder)))
    assert [str(image["alt"]) for image in page.all("img")] == [
        f"Template, generated and target tiles, {epoch} epoch" for epoch in ("first", "last")
    ]
    assert "L1 loss" in page.text and "Colour difference to the truth" in page.text
    assert "Structure kept" not in page.text


@pytest.mark.parametrize("content", [b"", b'\xff\x00,\n"', b"epoch\n1\n"], ids=["empty", "torn", "bare"])
def test_a_torn_table_of_epochs_is_no_curve(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.csv").write_bytes(content)
    training = read_training(tmp_path)
    assert training is not None and training.charts() == []


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_are_only_text(tmp_path: Path, name: str) -> None:
    def hostile_page(directory: Path, text: str) -> Page:
        fields = ("slide", "slide_id", "reason", "remedy", "output", "mpp_origin")
        field = finished_row().fields[0].model_copy(update={"what": escape_unprintable(text)})
        told = {name: escape_unprintable(text) for name in fields}
        row = finished_row(**told, other_outputs=(escape_unprintable(text),), fields=(field,), status="done-with-holes")
        return report(directory, row, run=RunRecord({text: text, "d": [text]}, notes=[text], reference=STAIN))

    hostile, harmless = (hostile_page(tmp_path / text[:1], text) for text in (name, "x"))
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in harmless.elements]
    assert [set(found) for _, found in hostile.elements] == [set(found) for _, found in harmless.elements]
    links = [str(link["href"]) for link in hostile.all("a")]
    assert all(re.fullmatch(r"\.\./[\w%.~/-]+|#slide1", link) for link in links)


def test_the_page_loads_nothing_and_runs_only_its_own_script(tmp_path: Path) -> None:
    page = report(tmp_path, finished_row())
    policy = next(str(meta["content"]) for meta in page.all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag in ("style", "script"):
        source = "".join(text for name, text in page.texts if name == tag).rstrip("\n")
        digests = {hashlib.sha256((source + end).encode()).digest() for end in ("", "\n")}
        assert any(f"{tag}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy for digest in digests)
    assert "unsafe" not in policy
    assert not page.all("link") and all("src" not in found for found in page.all("script"))
    assert not any("style" in found for _, found in page.elements), "the policy forbids inline style"


def summary(path: Path, *rows: SlideRow) -> list[dict[str, str]]:
    write_summary(path, rows)
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_summary_columns(tmp_path: Path) -> None:
    row = SlideRow(
        slide="a, b.svs",
        slide_id="a-b",
        status="done-with-holes",
        reason="2 blocks",
        remedy="Again",
        tiles=7,
        seconds=1.26,
        size=Size(300, 200),
        mpp=Mpp(0.25, 0.26),
    )
    found = summary(tmp_path / "summary.csv", row)[0]
    assert list(found)[:6] == ["slide", "status", "reason", "remedy", "tiles", "seconds"]
    assert list(found.values())[:6] == ["a, b.svs", "done-with-holes", "2 blocks", "Again", "7", "1.3"]
    assert (found["width"], found["height"], found["mpp_x"], found["mpp_y"]) == ("300", "200", "0.25", "0.26")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"], ids=repr)
def test_formulas_are_neutralised(tmp_path: Path, start: str) -> None:
    name = f'{start}HYPERLINK("example.com")'
    row = SlideRow(slide=name, slide_id=name, status="failed", reason=name, remedy=name, output=name, mpp_origin=name)
    found = summary(tmp_path / "summary.csv", row)[0]
    names = [found[column] for column in ("slide", "slide_id", "reason", "remedy", "output", "mpp_origin")]
    assert names == [f"'{name}" if start.isprintable() else escape_unprintable(name)] * 6


@pytest.mark.parametrize("name", ["--slide-mpp", "-1.svs", "+ x.svs", "'-x.svs"])
def test_a_name_with_a_sign_is_no_formula(tmp_path: Path, name: str) -> None:
    row = SlideRow(slide=name, slide_id="x", status="done", mpp_origin=name)
    found = summary(tmp_path / "summary.csv", row)[0]
    assert (found["slide"], found["mpp_origin"]) == (name, name)


@given(st.text(st.sampled_from("'=-+@(a!"), min_size=1))
def test_every_escaped_cell_is_read_back(text: str) -> None:
    assert unescape_formula(escape_formula(text)) == text


@given(st.lists(st.text(st.characters(exclude_characters="\x00")), min_size=1, max_size=3))
def test_any_name_survives_the_summary(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    rows = [SlideRow(slide=f"n{name}", slide_id="x", status="done") for name in names]
    found = summary(tmp_path_factory.getbasetemp() / "summary.csv", *rows)
    assert [row["slide"] for row in found] == [row.slide for row in rows]


@pytest.mark.parametrize(
    ("shape", "size"), [((700, 1400), (1024, 512)), ((3001, 1000), (341, 1024)), ((20, 31), (31, 20))], ids=str
)
def test_thumbnail_size(shape: tuple[int, int], size: tuple[int, int]) -> None:
    with Image.open(io.BytesIO(thumbnail_jpeg(np.zeros((*shape, 3), np.uint8)))) as picture:
        assert (picture.format, picture.size) == ("JPEG", size)


def test_a_summary_is_read_back_as_it_was_meant(tmp_path: Path) -> None:
    rows = [
        SlideRow(slide="=1+1.svs", slide_id="-x", status="failed", reason="+", remedy="@home", seconds=1.5, tiles=3),
        SlideRow(slide="'quoted", slide_id="y", status="done", output="slides/y.ome.tif"),
    ]
    write_summary(tmp_path / "summary.csv", rows)
    assert read_rows(tmp_path / "summary.csv") == rows


def test_a_row_with_all_its_pictures_survives_json() -> None:
    row = finished_row()
    assert SlideRow.model_validate_json(row.model_dump_json()) == row


def test_sheet_shows_before_above_after(tmp_path: Path) -> None:
    dark, light = (np.full((50, 81, 3), value, np.uint8) for value in (40, 200))
    row = SlideRow(slide="a", slide_id="a", status="done", before=thumbnail_jpeg(dark), after=thumbnail_jpeg(light))
    bare = SlideRow(slide="b", slide_id="b", status="failed")
    write_sheet(tmp_path / "sheet.jpg", [bare, row, row], height=100)
    sheet = np.asarray(Image.open(tmp_path / "sheet.jpg"))
    assert sheet.shape == (200, 324, 3)
    assert abs(int(sheet[:90].mean()) - 40) <= 2
    assert abs(int(sheet[110:].mean()) - 200) <= 2


def test_thumbnails_of_one_slide_may_differ_by_a_pixel(tmp_path: Path) -> None:
    before, after = (thumbnail_jpeg(np.full((31, width, 3), 200, np.uint8)) for width in (47, 48))
    row = SlideRow(slide="a", slide_id="a", status="done", before=before, after=after)
    write_sheet(tmp_path / "sheet.jpg", [row], height=310)
    with Image.open(tmp_path / "sheet.jpg") as sheet:
        assert sheet.size == (470, 620)


def test_no_sheet_without_pictures(tmp_path: Path) -> None:
    write_sheet(tmp_path / "sheet.jpg", [SlideRow(slide="b", slide_id="b", status="failed")])
    assert not (tmp_path / "sheet.jpg").exists()
