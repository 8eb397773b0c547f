"""The viewer's page in a real browser: it loads, zooms, moves both panes as one, and swipes; judged by its pixels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from skimage.registration import phase_cross_correlation

from tests.support.chromium import Page, chromium
from tests.support.made_store import paint_tissue
from tests.support.slide_files import Jpeg, noise, shrink, write_jpeg_slide
from tests.support.viewed import open_viewer, pyramid, write_output_directory
from wsi_stain.core.geometry import Size
from wsi_stain.results import SlideRow

RED, BLUE = (200, 30, 30), (30, 30, 200)
HOSTILE = "<img src=x onerror=window.hurt=1>.svs"
LEFT, RIGHT, TOP = 250, 1280, 60
"""The stage on the screen: beside the list, below the bar."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with chromium() as page:
        page.resize(1280, 800)
        yield page


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A run: tissue and the same at half the resolution, the same twice, red and blue, one that failed, a ramp."""
    folder = tmp_path_factory.mktemp("run")
    tissue = paint_tissue(Size(2400, 1600), seed=5)
    height, width = np.mgrid[:800, :1200]
    ramp = np.repeat(np.abs(8 * (height + width) % 480 - 240)[..., None], 3, axis=2).astype(np.uint8)
    red, blue = (np.full((800, 1200, 3), colour, np.uint8) for colour in (RED, BLUE))

    def row(name: str) -> SlideRow:
        return SlideRow(slide=name, slide_id=name, status="done", output=f"slides/{name}.ome.tif")

    rows = [
        (row("half"), pyramid(folder / "half.tiff", tissue, 0.25), shrink(tissue, 2)),
        (row("same"), pyramid(folder / "same.tiff", shrink(tissue, 2), 0.5), shrink(tissue, 2)),
        (row("colours"), pyramid(folder / "colours.tiff", red, 0.5), blue),
        (SlideRow(slide=HOSTILE, slide_id="h", status="failed", reason=HOSTILE), None, None),
        (row("ramp"), pyramid(folder / "ramp.tiff", ramp, 0.5), ramp),
    ]
    with open_viewer(write_output_directory(folder / "out", rows, 0.5), "--no-browser") as viewer:
        yield viewer.url


@pytest.fixture
def page(browser: Page, address: str) -> Iterator[Page]:
    """The page at its first slide, the whole of it in view; it may not have complained at the end."""
    browser.complaints.clear()
    browser.show("about:blank")
    browser.show(address)
    browser.wait("window.viewer?.settled()")
    yield browser
    assert not browser.complaints


def selected_number(page: Page, number: int) -> None:
    page.run(f"document.querySelector('[data-case=\"{number}\"]').click()")
    page.wait(f"window.viewer.state().number === {number} && window.viewer.settled()")


def panes(page: Page) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """What both panes show, without the labels at the top and the scale bar at the bottom; the same size."""
    page.wait("window.viewer.settled()")
    seen = page.screenshot()[90:740]
    first, second = page.run("window.viewer.state()")["boxes"]
    left, right = LEFT + first["left"], LEFT + second["left"]
    return seen[:, left : left + first["width"]], seen[:, right : right + second["width"]]


def test_both_panes_show_the_same_place_at_any_zoom(page: Page) -> None:
    for turns in (0, 3, 3, 2):
        for _ in range(turns):
            page.wheel(400, 300, -300)
        source, result = (np.asarray(pane).mean(axis=2) for pane in panes(page))
        shift, *_ = phase_cross_correlation(source, result, upsample_factor=10)
        # Half a pixel of the coarser slide, plus one of the screen: their middles are whole pixels of it.
        scale = page.run("window.viewer.state().scale")
        assert np.abs(shift).max() <= 1 + 0.25 / scale, (turns, shift)
        assert source.std() > 5


def test_equal_slides_give_equal_panes(page: Page) -> None:
    selected_number(page, 1)
    for place in ((400, 300), (900, 500)):
        page.wheel(*place, -700)
        page.drag((500, 400), (430, 377))
        source, result = panes(page)
        # Where a column of the screen lies exactly between two of the slide, the browser may round either way.
        assert (source != result).any(axis=2).mean() < 0.005


def test_the_wheel_zooms_to_the_pointer_and_a_drag_moves(page: Page) -> None:
    def under(x: float, y: float) -> tuple[float, float]:
        state = page.run("window.viewer.state()")
        box = next(box for box in state["boxes"] if x - LEFT < box["left"] + box["width"])
        dx, dy = x - LEFT - box["left"] - box["width"] / 2, y - (800 - box["height"]) - box["height"] / 2
        return state["x"] + dx * state["scale"], state["y"] + dy * state["scale"]

    for x, y in ((400, 300), (1000, 600)):
        before, scale = under(x, y), page.run("window.viewer.state().scale")
        page.wheel(x, y, -400)
        page.wait("window.viewer.settled()")
        assert page.run("window.viewer.state().scale") < 0.6 * scale
        assert under(x, y) == pytest.approx(before, abs=0.5 * page.run("window.viewer.state().scale"))
    before = under(900, 400)
    page.drag((900, 400), (830, 455))
    page.wait("window.viewer.settled()")
    assert under(830, 455) == pytest.approx(before, abs=0.5 * page.run("window.viewer.state().scale"))


def test_the_divider_parts_one_from_the_other(page: Page) -> None:
    selected_number(page, 2)
    page.key("m")
    page.wait("window.viewer.state().mode === 'swipe' && window.viewer.settled()")
    middle = (LEFT + RIGHT) // 2
    for divider, target in ((middle, 500), (500, 1000)):
        page.drag((divider, 400), (target, 430))
        page.wait("window.viewer.settled()")
        row = page.screenshot()[300]
        assert np.abs(row[LEFT + 60 : target - 4].astype(int) - RED).max() < 6
        assert np.abs(row[target + 4 : RIGHT - 60].astype(int) - BLUE).max() < 6
    page.key("x")
    page.wait("window.viewer.settled()")
    assert np.abs(page.screenshot()[300, LEFT + 60].astype(int) - BLUE).max() < 6


def test_no_line_shows_between_enlarged_tiles(page: Page, address: str) -> None:
    page.show("about:blank")
    page.show(f"{address}#slide=4&x=256&y=256&scale=0.03&mode=side")  # where the corners of four tiles meet
    page.wait("window.viewer?.settled()")
    for pane in panes(page):
        steps = [np.abs(np.diff(pane.astype(int), axis=axis)).max() for axis in (0, 1)]
        assert 0 < max(steps) <= 4  # of 8 levels from one pixel of the slide to the next, over 17 of the screen


def test_keys_and_list(page: Page) -> None:
    whole = page.run("window.viewer.state()")
    page.key("1")
    page.wait("window.viewer.settled() && window.viewer.state().scale === 0.25")
    assert "40x" in page.run("document.getElementById('magnification').textContent")
    page.key("ArrowRight")
    page.wait(f"window.viewer.settled() && Math.abs(window.viewer.state().x - {whole['x'] + 25}) < 1e-6")
    page.key("0")
    page.wait(f"window.viewer.settled() && window.viewer.state().scale === {whole['scale']}")
    page.key("n")
    page.wait("window.viewer.settled() && window.viewer.state().number === 1")
    page.key("p")
    page.wait("window.viewer.settled() && window.viewer.state().number === 0")
    page.run("(f => { f.value = 'COLO'; f.dispatchEvent(new Event('input')); })(document.getElementById('filter'))")
    assert page.run("document.querySelectorAll('li:not([hidden])').length") == 1


def test_the_scale_bar_is_as_long_as_it_says(page: Page) -> None:
    page.key("1")
    page.wait("window.viewer.settled() && window.viewer.state().scale === 0.25")
    assert page.run("document.querySelector('#scale span').textContent") == "20 µm"
    assert page.run("document.querySelector('#scale i').getBoundingClientRect().width") == pytest.approx(80)


def test_a_page_loaded_again_is_where_it_was(page: Page) -> None:
    selected_number(page, 1)
    page.wheel(400, 300, -500)
    page.key("m")
    page.wait("window.viewer.settled() && window.viewer.state().mode === 'swipe'")
    before = page.run("window.viewer.state()")
    page.run("window.old = true, setTimeout(() => location.reload()), 0")
    page.wait("!window.old && window.viewer?.settled()")
    after = page.run("window.viewer.state()")
    assert (after["number"], after["mode"]) == (1, "swipe")
    assert [after[name] for name in "xy"] == pytest.approx([before[name] for name in "xy"], abs=0.1)


def test_names_are_text(page: Page) -> None:
    page.key("n")
    page.wait("window.viewer.settled() && window.viewer.state().number === 1")
    page.run("document.querySelector('[data-case=\"3\"]').click()")
    page.wait("window.viewer.settled() && window.viewer.state().number === 3")  # its note is drawn with the next frame
    assert page.run("document.getElementById('note').textContent") == HOSTILE
    assert page.run("document.querySelectorAll('img').length") == 0
    assert page.run("window.hurt") is None
    selected_number(page, 0)


def test_a_single_slide_has_one_pane_and_a_tile_that_cannot_be_read_is_hatched(browser: Page, tmp_path: Path) -> None:
    pixels = np.asarray(ndimage.uniform_filter(noise(1200, 600), (9, 9, 0)), np.uint8)
    spoilt = {(0, 2): b"\xff\xd8\xff\xc5bogus"}
    slide = write_jpeg_slide(tmp_path / "spoilt.tiff", [pixels], Jpeg((240, 240)), 0.5, spoilt)
    browser.complaints.clear()
    with open_viewer(slide, "--no-browser") as viewer:
        browser.show(viewer.url)
        browser.wait("window.viewer?.settled()")
        assert browser.run("document.querySelectorAll('.label:not([hidden])').length") == 1
        assert browser.run("document.querySelector('nav').hidden && document.getElementById('divider').hidden")
        browser.key("1")
        browser.wait("window.viewer.settled() && window.viewer.state().scale === 0.5")
        seen = browser.screenshot().astype(int)
    redness = seen[..., 0] - seen[..., 1]
    assert redness[200:360, 60:500].max() > 60 and redness[200:500, 1100:1240].max() < 20
    assert all("500" in complaint for complaint in browser.complaints)
    browser.wait("!document.getElementById('ended').hidden")
