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
from numpy.typing import NDArray
from PIL import Image

from wsi_stain.blockfile import encode_jpeg
from wsi_stain.errors import OutputError
from wsi_stain.geometry import Mpp, Size, level_sizes
from wsi_stain.html import thumbnail_jpeg
from wsi_stain.ome_tiff import PyramidTiff
from wsi_stain.report import SlideRow, after_thumbnail, write_report, write_sheet, write_summary
from wsi_stain.stain import StainStatistics

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


def report(directory: Path, *rows: SlideRow, run: dict[str, Any] | None = None, panel: bytes | None = None) -> Page:
    return Page(write_report(directory, rows, run or {}, panel))


def test_the_page_tells_what_became_of_every_slide(tmp_path: Path) -> None:
    done = SlideRow(
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
    )
    failed = SlideRow(slide="b.svs", slide_id="b", status="failed", reason="No resolution", remedy="Give --slide-mpp")
    page = report(tmp_path, done, failed, run={"device": "cpu", "config": {"jpeg": {"quality": 90}}})
    for expected in (
        "2 slides 1 done 1 failed",
        "b.svs failed No resolution Give --slide-mpp",
        "device cpu",
        '"quality": 90',
        *(
            "470 \u00d7 310 px 0.2528 \u00d7 0.25 µm per px (openslide) 1432 tiles 1 min 23 s",
            "a/one.svs done before after",
        ),
        "hematoxylin 0.65 0.70 0.29 · eosin 0.07 0.99 0.11 · white 243 241 245 (from glass)",
    ):
        assert expected in page.text
    sources = [image["src"] for image in page.all("img") if image.get("src")]
    assert done.before is not None and done.after is not None
    assert sources == [
        f"data:image/jpeg;base64,{base64.b64encode(data).decode()}" for data in (done.before, done.after)
    ]
    assert [link["href"] for link in page.all("a")] == ["../slides/a/one.ome.tif"]


def test_a_run_without_trouble_or_pictures_has_no_table_of_failures(tmp_path: Path) -> None:
    page = report(tmp_path, SlideRow(slide="one.svs", slide_id="one", status="done"))
    assert "Needs attention" not in page.text
    assert "Training" not in page.text
    assert "1 slide 1 done" in page.text


@pytest.mark.parametrize("count", [0, 1])
def test_a_report_of_nothing_is_still_a_page(tmp_path: Path, count: int) -> None:
    rows = [SlideRow(slide="one.svs", slide_id="one", status="empty")] * count
    assert f"{count} slide" in report(tmp_path, *rows).text


def test_the_training_panel_keeps_its_format(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (30, 20)).save(file, "PNG")
    images = report(tmp_path, panel=file.getvalue()).all("img")
    assert str(images[0]["src"]).startswith("data:image/png;base64,")


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_are_only_text(tmp_path: Path, name: str) -> None:
    common: dict[str, Any] = {"status": "failed", "size": Size(30, 20), "mpp": Mpp(0.5, 0.5), "before": jpeg((9, 9, 9))}
    fields = ("slide", "slide_id", "reason", "remedy", "output", "mpp_origin")
    hostile, harmless = (
        report(tmp_path / where, SlideRow(**(common | dict.fromkeys(fields, text))), run={text: text, "d": [text]})
        for where, text in (("hostile", name), ("harmless", "x"))
    )
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in harmless.elements]
    assert [set(found) for _, found in hostile.elements] == [set(found) for _, found in harmless.elements]
    assert re.fullmatch(r"\.\./[\w%.~/-]+", str(hostile.all("a")[0]["href"]))


def test_the_page_loads_nothing_and_runs_only_its_own_script(tmp_path: Path) -> None:
    page = report(tmp_path, SlideRow(slide="one", slide_id="one", status="done", before=jpeg((1, 2, 3))))
    policy = next(str(meta["content"]) for meta in page.all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag in ("style", "script"):
        source = "".join(text for name, text in page.texts if name == tag).rstrip("\n")
        digests = {hashlib.sha256((source + end).encode()).digest() for end in ("", "\n")}
        assert any(f"{tag}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy for digest in digests)
    assert "unsafe" not in policy
    assert not page.all("link") and all("src" not in found for found in page.all("script"))


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
    name = f'{start}HYPERLINK("http://example.com")'
    row = SlideRow(slide=name, slide_id=name, status="failed", reason=name, remedy=name, output=name, mpp_origin=name)
    found = summary(tmp_path / "summary.csv", row)[0]
    names = [found[column] for column in ("slide", "slide_id", "reason", "remedy", "output", "mpp_origin")]
    assert names == [f"'{name}"] * 6


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


def gradient() -> NDArray[np.uint8]:
    y, x = np.mgrid[0:256, 0:256]
    return np.stack([x // 2 + 60, y // 2 + 90, np.full_like(x, 170)], axis=-1).astype(np.uint8)


def test_the_after_picture_is_the_pyramid(tmp_path: Path) -> None:
    size, path = Size(300, 200), tmp_path / "slide.ome.tif"
    with open(path, "w+b") as file:
        tiff = PyramidTiff(file, level_sizes(size), encode_jpeg(gradient(), 95))
        tiff.finish(Mpp(0.5, 0.5), b"<OME/>")
    with Image.open(io.BytesIO(after_thumbnail(path))) as picture:
        assert picture.size == (300, 200)
        np.testing.assert_allclose(np.asarray(picture)[120, 200], gradient()[120, 200], atol=4)


@pytest.mark.parametrize("content", [b"", b"II+\x00 not a slide"], ids=["empty", "foreign"])
def test_an_unreadable_pyramid_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.ome.tif").write_bytes(content)
    with pytest.raises(OutputError, match=r"x\.ome\.tif cannot be read back"):
        after_thumbnail(tmp_path / "x.ome.tif")


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
