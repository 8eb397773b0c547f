"""The report in a real browser: it opens from a file, needs no network, and does what it offers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.chromium import Page, chromium
from wsi_stain.core.geometry import Mpp, Size
from wsi_stain.core.html import thumbnail_jpeg
from wsi_stain.report import RunRecord, write_report
from wsi_stain.results import SlideRow
from wsi_stain.results.slide_row import FieldOfView

RED, BLUE = (200, 30, 40), (40, 30, 200)
HOSTILE = "<img src=http://example.com/x onerror=alert(1)>'\"&amp;.svs"


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with chromium() as page:
        yield page


def flat(colour: tuple[int, int, int]) -> bytes:
    return thumbnail_jpeg(np.full((300, 400, 3), colour, np.uint8))


def row(number: int, **more: object) -> SlideRow:
    field = FieldOfView(what="most tissue", mpp=0.25, x=0, y=0, before=flat(BLUE), after=flat(RED))
    made = SlideRow(
        slide=f"case {number}.svs",
        slide_id=f"case{number}",
        status="done",
        output=f"slides/case{number}.ome.tif",
        size=Size(4000, 3000),
        mpp=Mpp(0.25, 0.25),
        before=flat(RED),
        after=flat(BLUE),
        fields=(field,),
        hallucination_p95=float(number % 7),
    )
    return made.model_copy(update=more)


def open_page(browser: Page, directory: Path, rows: list[SlideRow]) -> Page:
    """Write the page, open it from its file, and wait until it is all there."""
    pictures = {found.slide_id: found for found in rows}
    path = write_report(directory, rows, lambda bare: pictures[bare.slide_id], RunRecord({"device": "cpu"}))
    browser.complaints.clear()
    browser.resize(1280, 900)
    browser.show(path.as_uri())
    browser.wait("location.pathname.endsWith('index.html') && document.readyState === 'complete'")
    return browser


def names(page: Page, where: str = "article") -> list[str]:
    """The names of the slides that are shown, in order."""
    shown = f"[...document.querySelectorAll('{where}')].filter(found => found.checkVisibility())"
    found: list[str] = page.run(f"{shown}.map(found => found.dataset.name ?? found.innerText.trim())")
    return found


def test_it_opens_from_a_file_without_complaint_or_request(browser: Page, tmp_path: Path) -> None:
    rows = [row(1, slide=HOSTILE), row(2), SlideRow(slide="b", slide_id="b", status="failed", reason=HOSTILE)]
    page = open_page(browser, tmp_path, rows)
    assert page.complaints == []
    loaded = page.run("performance.getEntriesByType('resource').map(entry => entry.name)")
    assert all(name.startswith("data:") for name in loaded)
    pictures = "[...document.images]"
    page.run(f"Promise.all({pictures}.map(image => image.decode().catch(() => 0))).then(() => 0)")
    assert page.run(f"{pictures}.length > 8 && {pictures}.every(image => image.naturalWidth > 0)")
    assert page.run("document.querySelector('h3').innerText").startswith(HOSTILE)


def test_the_policy_stops_what_a_page_must_not_do(browser: Page, tmp_path: Path) -> None:
    page = open_page(browser, tmp_path, [row(1)])
    page.run("fetch('http://127.0.0.1:9/').catch(() => 0)")
    page.run("document.body.insertAdjacentHTML('beforeend', '<img src=http://127.0.0.1:9/x onerror=window.bad=1>')")
    page.wait("true")
    assert any("Content Security Policy" in complaint for complaint in page.complaints)
    assert page.run("window.bad ?? null") is None


def line_at(page: Page, element: str) -> float:
    """Where the border of red and blue lies in a slider, as a share of its width."""
    place = page.run(f"(({{x, y, width, height}}) => [x, y, width, height])({element}.getBoundingClientRect())")
    x, y, width, height = (round(value) for value in place)
    pixels = page.screenshot()[y + height // 3, x : x + width].astype(int)
    return float((pixels[:, 0] > pixels[:, 2]).mean())


def test_the_slider_follows_the_mouse_and_the_keys(browser: Page, tmp_path: Path) -> None:
    page = open_page(browser, tmp_path, [row(1)])
    slider = "document.querySelector('.compare')"
    page.run(f"{slider}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
    assert line_at(page, slider) == pytest.approx(0.5, abs=0.02)
    x, y, width, height = page.run(
        f"(({{x, y, width, height}}) => [x, y, width, height])({slider}.getBoundingClientRect())"
    )
    page.drag((x + width * 0.5, y + height * 0.5), (x + width * 0.8, y + height * 0.5))
    assert line_at(page, slider) == pytest.approx(0.8, abs=0.02)
    page.run(f"{slider}.querySelector('input').focus()")
    for _press in range(10):
        page._call("Input.dispatchKeyEvent", type="keyDown", key="ArrowLeft", windowsVirtualKeyCode=37)
        page._call("Input.dispatchKeyEvent", type="keyUp", key="ArrowLeft", windowsVirtualKeyCode=37)
    assert line_at(page, slider) == pytest.approx(0.7, abs=0.02)


def test_a_place_is_chosen_for_one_slide(browser: Page, tmp_path: Path) -> None:
    page = open_page(browser, tmp_path, [row(1), row(2)])
    captions = "[...document.querySelectorAll('.view figcaption')].filter(found => found.checkVisibility())"
    told = f"{captions}.map(found => found.innerText.split(',')[0])"
    assert page.run(told) == ["The whole slide.", "The whole slide."]
    page.run("document.querySelectorAll('.picks')[1].querySelectorAll('input')[1].click()")
    assert page.run(told) == ["The whole slide.", "Most tissue"]


def choose(page: Page, control: str, value: str) -> None:
    page.run(
        f"(() => {{ const made = document.getElementById('{control}'); made.value = '{value}';"
        " made.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def test_slides_are_filtered_and_ordered(browser: Page, tmp_path: Path) -> None:
    odd = {"status": "done-with-holes", "reason": "3 tiles"}
    page = open_page(browser, tmp_path, [row(1), row(2), row(3, **odd), row(12)])
    first = ["case 3.svs", "case 1.svs", "case 2.svs", "case 12.svs"]
    assert names(page) == first
    assert [name.split("\n")[0] for name in names(page, ".overview li")] == first
    choose(page, "order", "unexplained")
    assert names(page) == ["case 12.svs", "case 3.svs", "case 2.svs", "case 1.svs"]
    choose(page, "order", "number")
    choose(page, "name", "CASE 1")
    assert names(page) == ["case 1.svs", "case 12.svs"]
    assert page.run("document.getElementById('shown').innerText") == "2 of 4 slides"
    choose(page, "name", "")
    choose(page, "which", "outlier")
    assert names(page) == ["case 3.svs"]
    assert page.complaints == []


@pytest.mark.parametrize("width", [400, 720, 1280])
def test_nothing_sticks_out_at_any_width(browser: Page, tmp_path: Path, width: int) -> None:
    long = "a_very_long_name_without_any_place_to_break_" * 4
    rows = [row(1, slide=long, reason=long), SlideRow(slide=long, slide_id="b", status="failed", reason=long)]
    page = open_page(browser, tmp_path, rows)
    page.resize(width, 900)
    assert page.run("document.documentElement.scrollWidth") <= width
    texts = "[...document.querySelectorAll('h3, p, th, td, figcaption')]"
    cut = page.run(f"{texts}.filter(text => text.scrollWidth > text.clientWidth).map(text => text.outerHTML)")
    assert cut == []


def test_two_hundred_slides_open(browser: Page, tmp_path: Path) -> None:
    page = open_page(browser, tmp_path, [row(number) for number in range(200)])
    assert page.complaints == []
    assert len(names(page)) == 200
    choose(page, "name", "case 199")
    assert names(page) == ["case 199.svs"]
