"""The viewer's server: what it shows, what it refuses, how it ends."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import openslide
import psutil
import pytest
import simplejpeg
from openslide.deepzoom import DeepZoomGenerator
from scipy import ndimage
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

from pipelines.view import Request, plan
from tests.support.commands import Run
from tests.support.slide_files import Jpeg, noise, shrink, write_jpeg_slide, write_slide
from tests.support.tiled_slides import paint
from tests.support.viewed import Viewer, open_viewer, pyramid, write_output_directory
from wsi_stain.core.errors import ConfigError, UnreadableError
from wsi_stain.core.geometry import Size
from wsi_stain.core.journal import write_json
from wsi_stain.results import SlideRow
from wsi_stain.slides.levels import own_pixels
from wsi_stain.viewer import tiles as viewer_tiles
from wsi_stain.viewer.cases import Case, Picture, describe_case
from wsi_stain.viewer.tiles import TILE_PX, SlideTiles

HOSTILE = "<img src=x onerror=alert(1)>&amp;'\".svs"
GRAY = noise(325, 180)[..., :1].repeat(3, axis=2).repeat(4, axis=0).repeat(4, axis=1)
"""1300 x 720 px in cells of 4 that JPEG keeps well at every level down to a fourth."""


def spoilt(path: Path) -> Path:
    """A slide of 1200 x 600 px whose tile at (600, 100) cannot be decoded."""
    pixels = noise(1200, 600)
    return write_jpeg_slide(path, [pixels], Jpeg((240, 240)), spoilt={(0, 2): b"\xff\xd8\xff\xc5bogus"})


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    """A run of five slides: a hostile name, no source, failed, a source that is none, and a damaged one."""
    folder = tmp_path_factory.mktemp("run")
    source = pyramid(folder / HOSTILE, GRAY, 0.25)
    broken = folder / "broken.svs"
    broken.write_bytes(b"II*\0 no slide")
    half = shrink(GRAY, 2)
    rows = [
        (SlideRow(slide=HOSTILE, slide_id="a", status="done", output="slides/a.ome.tif"), source, half),
        (SlideRow(slide="gone", slide_id="b", status="done", output="slides/b.ome.tif"), folder / "gone.svs", half),
        (SlideRow(slide="bad", slide_id="c", status="failed", reason="Not H&E", remedy="Look"), None, None),
        (SlideRow(slide="broken", slide_id="d", status="done", output="slides/d.ome.tif"), broken, half),
        (
            SlideRow(slide="spoilt", slide_id="e", status="done", output="slides/e.ome.tif"),
            spoilt(folder / "spoilt.tiff"),
            half,
        ),
    ]
    with open_viewer(write_output_directory(folder / "out", rows, 0.5), "--no-browser") as running:
        yield running


class Texts(HTMLParser):
    """The tags of a page, and the texts of its list."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.names: list[str] = []
        self._tag = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._tag = tag

    def handle_data(self, data: str) -> None:
        if self._tag == "span" and data.strip():
            self.names.append(data)
        self._tag = ""


def test_the_page_lists_the_slides_and_may_load_nothing_else(viewer: Viewer) -> None:
    answer = viewer.get()
    page = Texts(answer.body.decode())
    assert page.names == [HOSTILE, "gone", "bad", "broken", "spoilt"]
    assert "img" not in page.tags
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    assert re.findall(r"""(?:src|href)=["']([^"']*)""", answer.body.decode()) == ["data:,", "view.css", "view.js"]


def test_source_and_result_lie_on_each_other_in_micrometres(viewer: Viewer) -> None:
    case = viewer.get("cases/0").json
    source, result = case["panes"]
    assert case["known"] and case["name"] == HOSTILE
    assert (source["label"], result["label"]) == ("source", "normalized")
    assert source["width"] * source["mpp_x"] == result["width"] * result["mpp_x"] == 325
    assert (source["levels"], result["levels"], source["first_level"]) == (12, 11, 0)


def test_what_cannot_be_shown_is_told(viewer: Viewer) -> None:
    gone, failed, broken = (viewer.get(f"cases/{number}").json for number in (1, 2, 3))
    assert [pane["label"] for pane in gone["panes"]] == ["normalized"]
    assert "no longer" in gone["note"] and "gone.svs" in gone["note"]
    assert failed["panes"] == [] and failed["note"] == "Not H&E. Look"
    assert "not a slide" in broken["panes"][0]["problem"] and broken["panes"][0]["remedy"]
    assert "id" in broken["panes"][1]


@pytest.mark.parametrize(("level", "column", "row"), [(11, 1, 1), (11, 2, 0), (10, 1, 0), (9, 0, 0)])
def test_a_tile_shows_its_place_with_a_pixel_of_its_neighbours(
    viewer: Viewer, level: int, column: int, row: int
) -> None:
    answer = viewer.tile(0, 0, level, column, row)
    assert (answer.code, answer.headers["Content-Type"]) == (200, "image/jpeg")
    whole = GRAY if level == 11 else shrink(GRAY, 2 ** (11 - level))
    left, top = (max(0, place * TILE_PX - 1) for place in (column, row))
    expected = whole[top : (row + 1) * TILE_PX + 1, left : (column + 1) * TILE_PX + 1]
    shown = simplejpeg.decode_jpeg(answer.body)
    assert shown.shape == expected.shape
    error = np.abs(shown.astype(int) - expected).mean()
    beside = np.abs(shown[:, 1:].astype(int) - expected[:, :-1]).mean()
    assert error < min(4, beside / 1.5)


def test_browsers_may_keep_tiles_and_ask_for_none_twice(viewer: Viewer) -> None:
    answer = viewer.tile(0, 0, 9)
    assert "private" in answer.headers["Cache-Control"] and "immutable" in answer.headers["Cache-Control"]
    name = viewer.get("cases/0").json["panes"][0]["id"]
    again = viewer.get(f"tiles/{name}/9/0/0", If_None_Match=answer.headers["Etag"])
    assert (again.code, again.body) == (304, b"")


@pytest.mark.parametrize(
    "path",
    [
        "tiles/{id}/12/0/0", "tiles/{id}/11/3/0", "tiles/{id}/11/0/2", "tiles/{id}/-1/0/0", "tiles/{id}/99/0/0",
        "tiles/00000000000000000000/0/0/0", "tiles/../../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "page.html",
        "cases/5", "cases/999999", "cases/-1", "view.js/../page.html", "report.html",
    ],
)  # fmt: skip
def test_nothing_else_is_served(viewer: Viewer, path: str) -> None:
    answer = viewer.get(path.format(id=viewer.get("cases/0").json["panes"][0]["id"]))
    assert answer.code == 404
    assert answer.body == b"404: Not Found\n"


def test_without_the_secret_nothing_is_served(viewer: Viewer) -> None:
    split = urlsplit(viewer.url)
    for path in ("/", "/cases/0", "/view.js", f"/{'x' * 22}/"):
        assert viewer._replace(url=f"http://{split.netloc}{path}").get().code == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "[::1].evil", ""])
def test_foreign_host_names_are_refused(viewer: Viewer, host: str) -> None:
    for path in ("", "cases/0", "view.js", "nothing"):
        assert viewer.get(path, Host=host).code in {400, 403}


def test_own_host_names_are_not(viewer: Viewer) -> None:
    port = urlsplit(viewer.url).port
    for host in ("127.0.0.1", "localhost", "[::1]", socket.gethostname()):
        assert viewer.get(Host=f"{host}:{port}").code == 200


def test_a_foreign_page_cannot_keep_it_alive(viewer: Viewer) -> None:
    async def connect() -> None:
        request = HTTPRequest(viewer.url.replace("http", "ws") + "alive", headers={"Origin": "http://evil.example"})
        with pytest.raises(HTTPClientError, match="403"):
            await websocket_connect(request)

    asyncio.run(connect())


# ---- tiles


def test_bodies_are_not_taken_in(viewer: Viewer) -> None:
    """Twenty bodies of 90 MB are refused before they are read: the server's memory stays as it is."""
    url = urlsplit(viewer.url)
    before = psutil.Process(viewer.process.pid).memory_info().rss
    with ExitStack() as stack:
        for _ in range(20):
            line = stack.enter_context(socket.create_connection((str(url.hostname), int(url.port or 0))))
            line.sendall(f"POST {url.path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 94371840\r\n\r\n".encode())
            with suppress(OSError):  # it hangs up
                for _ in range(90):
                    line.sendall(bytes(2**20))
    assert viewer.get().code == 200
    assert psutil.Process(viewer.process.pid).memory_info().rss - before < 50 * 2**20


def test_the_secret_stands_in_no_log(viewer: Viewer) -> None:
    """Refused requests and bodies were logged with their addresses, which begin with it."""
    for path in ("nothing", "cases/999999", "tiles/x", "alive"):
        assert viewer.get(path).code >= 400
    assert viewer.process.stderr is not None
    handle, said = viewer.process.stderr.fileno(), b""
    os.set_blocking(handle, False)
    with suppress(BlockingIOError):
        said = os.read(handle, 2**20)
    assert urlsplit(viewer.url).path.strip("/").encode() not in said


def test_a_tile_that_cannot_be_read_is_told_and_its_neighbours_are_not_hurt(viewer: Viewer) -> None:
    pane = viewer.get("cases/4").json["panes"][0]
    places = [(column, row) for column in range(3) for row in range(2)] * 5
    addresses = [f"tiles/{pane['id']}/{pane['levels'] - 1}/{column}/{row}" for column, row in places]
    with ThreadPoolExecutor(8) as threads:
        answers = [*threads.map(viewer.get, addresses)]
    for (column, row), answer in zip(places, answers, strict=True):
        assert answer.code == (500 if (column in (0, 1) and row == 0) else 200), (column, row)
    bad = next(answer for answer in answers if answer.code == 500)
    assert "cannot be read" in bad.json["problem"] and bad.json["remedy"]
    assert bad.headers["Cache-Control"] == "no-store" and "Etag" not in bad.headers


def test_a_slide_without_coarse_levels_is_never_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_slide(tmp_path / "flat.tiff", [GRAY])
    monkeypatch.setattr(viewer_tiles, "_MOST_READ", 600**2)
    tiles = SlideTiles()
    first = tiles.describe(path).first_level
    assert first == 11
    with pytest.raises(IndexError):
        tiles.jpeg(path, first - 1, 0, 0)


def test_a_level_a_little_coarser_than_a_fourth_is_used_as_it_is(tmp_path: Path) -> None:
    fourth = np.asarray(ndimage.uniform_filter(noise(600, 590), (5, 5, 0)), np.uint8)
    pixels = np.pad(fourth.repeat(4, axis=0).repeat(4, axis=1), ((0, 3), (0, 3), (0, 0)), mode="edge")
    path = write_jpeg_slide(tmp_path / "odd.svs", [pixels, fourth], Jpeg((240, 240), aperio=True))
    tiles = SlideTiles()
    level = tiles.describe(path).levels - 3
    with openslide.OpenSlide(path) as slide:
        stored = np.asarray(slide.read_region((0, 0), 1, (600, 590)).convert("RGB"))
    shown = simplejpeg.decode_jpeg(tiles.jpeg(path, level, 1, 0))
    assert np.abs(shown[:, :89].astype(int) - stored[:513, 511:]).mean() < 3, "but for JPEG, the level's own pixels"


def test_plain_jpeg_tiles_are_those_of_openslide(tmp_path: Path) -> None:
    pixels = noise(1100, 700)
    path = write_jpeg_slide(tmp_path / "plain.tiff", [pixels, shrink(pixels, 2)], Jpeg((240, 240)))
    ours = SlideTiles()
    with openslide.OpenSlide(path) as slide:
        plain = DeepZoomGenerator(slide, TILE_PX, 1)
        assert ours.describe(path).levels == plain.level_count
        for level in (plain.level_count - 1, plain.level_count - 2):
            for column, row in np.ndindex(plain.level_tiles[level]):
                expected = np.ascontiguousarray(plain.get_tile(level, (column, row)))
                jpeg = simplejpeg.encode_jpeg(expected, quality=90, colorsubsampling="444")
                assert ours.jpeg(path, level, column, row) == jpeg, (level, column, row)


def test_only_so_many_slides_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer_tiles, "_MOST_OPEN", 2)
    paths = [write_slide(tmp_path / f"{number}.tiff", [noise(300, 200, number)]) for number in range(4)]
    tiles = SlideTiles()
    files = psutil.Process().open_files
    for path in paths * 2:
        tiles.jpeg(path, 9, 0, 0)
    assert len({file.path for file in files()} & {str(path) for path in paths}) <= 2


def test_an_error_kills_openslides_handle_and_no_other_tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_pixels, "simplejpeg", None)
    path = spoilt(tmp_path / "spoilt.tiff")
    tiles = SlideTiles()

    def can_be_read(place: tuple[int, int]) -> bool:
        try:
            return bool(tiles.jpeg(path, 11, *place))
        except UnreadableError:
            return False

    places = [(column, row) for row in range(2) for column in range(3)] * 5
    with ThreadPoolExecutor(8) as threads:
        found = [*threads.map(can_be_read, places)]
    assert found == [place not in {(0, 0), (1, 0)} for place in places]


@pytest.mark.parametrize("aperio", ["AppMag = 40|MPP = 0.25", None], ids=["aperio", "generic"])
def test_a_tile_that_was_never_written_is_shown_where_it_is_glass_and_else_told(
    tmp_path: Path, aperio: str | None
) -> None:
    """Nine tiles of 64 px are missing in glass, and nine in tissue."""
    pixels, square = paint(Size(1503, 905)), [(row, col) for row in range(3) for col in range(3)]
    holes = [24 * (2 + row) + 1 + col for row, col in square] + [24 * (5 + row) + 12 + col for row, col in square]
    path = write_slide(tmp_path / "a.tif", [pixels, shrink(pixels, 4)], aperio=aperio, holes=holes)
    tiles = SlideTiles()
    finest = tiles.describe(path).levels - 1
    assert finest == 11
    with pytest.raises(UnreadableError, match="of the tile is lost"):
        tiles.jpeg(path, finest, 1, 0)
    shown = simplejpeg.decode_jpeg(tiles.jpeg(path, finest, 0, 0))
    assert np.abs(shown.astype(int) - pixels[:513, :513]).mean() < 5
    assert tiles.jpeg(path, finest - 2, 0, 0), "the overview is whole"


# ---- cases


def test_where_no_resolution_is_known_widths_agree(tmp_path: Path) -> None:
    one = write_slide(tmp_path / "one.tiff", [noise(800, 600)], mpp=0.5)
    two = write_slide(tmp_path / "two.tiff", [noise(400, 300)], mpp=None)
    pair = describe_case(Case("", (Picture("", one), Picture("", two))), SlideTiles())
    assert pair["known"] and [pane["mpp_x"] for pane in pair["panes"]] == [0.5, 1.0]
    alone = describe_case(Case("", (Picture("", two),)), SlideTiles())
    assert not alone["known"] and alone["panes"][0]["mpp_x"] == 1


def test_the_users_resolution_counts(tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "one.tiff", [noise(800, 600)], mpp=0.5)
    assert describe_case(Case("", (Picture("", slide, 0.4),)), SlideTiles())["panes"][0]["mpp_y"] == 0.4


# ---- the command


def test_two_slides_are_before_and_after(tmp_path: Path) -> None:
    slides = [write_slide(tmp_path / f"{name}.tiff", [noise(300, 200)]) for name in "ab"]
    (case,) = plan(Request(*slides), pytest.fail)
    assert [(picture.label, picture.path) for picture in case.pictures] == [("before", slides[0]), ("after", slides[1])]


def test_a_directory_of_slides_is_a_list(tmp_path: Path) -> None:
    for name in "ab":
        write_slide(tmp_path / f"{name}.tiff", [noise(300, 200)])
    assert [case.name for case in plan(Request(tmp_path), pytest.fail)] == ["a.tiff", "b.tiff"]
    with pytest.raises(ConfigError, match="holds 2 slides"):
        plan(Request(tmp_path, tmp_path / "a.tiff"), pytest.fail)


def test_a_slide_that_does_not_open_is_said_at_once(wsi_stain: Run, tmp_path: Path) -> None:
    (tmp_path / "no.svs").write_bytes(b"no slide")
    ended = wsi_stain("view", tmp_path / "no.svs", "--no-browser")
    assert ended.code == 1 and "not a slide" in ended.err and "remedy" in ended.err
    assert wsi_stain("view", tmp_path / "missing.svs", "--no-browser").code == 1


def test_a_run_whose_outputs_openslide_cannot_read_says_how_to_get_some(tmp_path: Path) -> None:
    (tmp_path / "slides" / "a.ome.zarr").mkdir(parents=True)
    write_output_directory(
        tmp_path, [(SlideRow(slide="a", slide_id="a", status="done", output="slides/a.ome.zarr"), None, None)], 1
    )
    (case,) = plan(Request(tmp_path), pytest.fail)
    assert case.pictures == () and "--format ome-tiff" in case.note


def test_names_are_as_the_user_knows_them_not_as_spreadsheets_do(tmp_path: Path) -> None:
    formula = SlideRow(slide="=1+1.svs", slide_id="a", status="done", output="slides/a.ome.tif")
    write_output_directory(tmp_path, [(formula, tmp_path / "a.svs", GRAY)], 0.5)
    (case,) = plan(Request(tmp_path), pytest.fail)
    assert case.name == "=1+1.svs"
    assert [picture.path.name for picture in case.pictures] == ["a.ome.tif"]


def test_of_a_record_that_cannot_be_read_the_pyramid_is_shown_and_the_source_said_to_be_unknown(tmp_path: Path) -> None:
    row = SlideRow(slide="a", slide_id="a", status="done", output="slides/a.ome.tif")
    write_output_directory(tmp_path, [(row, tmp_path / "a.svs", GRAY)], 0.5)
    (tmp_path / "work" / "slides" / "a" / "row.json").write_text("{}")
    (case,) = plan(Request(tmp_path), pytest.fail)
    assert [picture.label for picture in case.pictures] == ["normalized"] and "not known" in case.note


def test_a_run_that_did_not_end_shows_what_is_finished(tmp_path: Path) -> None:
    source = pyramid(tmp_path / "a.svs", GRAY, 0.25)
    row = SlideRow(slide="a.svs", slide_id="a", status="done", output="slides/a.ome.tif")
    out = write_output_directory(tmp_path / "out", [(row, source, shrink(GRAY, 2))], 0.5)
    (out / "summary.csv").unlink()
    write_json(out / "run.json", {"slides": [["a", "a.svs"], ["b", "b.svs"]]})
    one, other = plan(Request(out), pytest.fail)
    assert [picture.label for picture in one.pictures] == ["source", "normalized"]
    assert (other.name, other.status, other.pictures) == ("b.svs", "unfinished", ())
    assert "Run the same command again" in other.note


def test_a_port_that_is_taken(wsi_stain: Run, tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "a.tiff", [noise(300, 200)])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = wsi_stain("view", slide, "--no-browser", "--port", taken.getsockname()[1])
    assert ended.code == 1 and "cannot use port" in ended.err and "--port 0" in ended.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly_amid_work(tmp_path: Path, number: signal.Signals) -> None:
    slide = pyramid(tmp_path / "a.tiff", GRAY)
    with open_viewer(slide, "--no-browser") as viewer, ExitStack() as clients:
        name = viewer.get("cases/0").json["panes"][0]["id"]
        split = urlsplit(viewer.url)
        for number_of_client in range(40):
            client = clients.enter_context(socket.create_connection((split.hostname, split.port)))
            path = f"{split.path}tiles/{name}/11/{number_of_client % 3}/{number_of_client % 2}"
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: {split.netloc}\r\n\r\n".encode())
        assert client.recv(1)
        assert not psutil.Process(viewer.process.pid).children()
        viewer.process.send_signal(number)
        _, said = viewer.process.communicate(timeout=30)
        assert viewer.process.returncode == 0
        assert said == ""


def test_closing_the_page_ends_a_viewer_that_opened_it(tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "a.tiff", [noise(300, 200)])
    opened = tmp_path / "opened"
    browser = f"{sys.executable} -c \"import sys; open('{opened}', 'w').write(sys.argv[1])\" %s &"
    with open_viewer(slide, environment={"BROWSER": browser}) as viewer:

        async def visit() -> None:
            for _ in range(2):  # loading a page again is no end
                page = await websocket_connect(viewer.url.replace("http", "ws") + "alive")
                page.close()
                assert await page.read_message() is None

        asyncio.run(visit())
        assert viewer.process.wait(30) == 0
    assert opened.read_text() == viewer.url


def test_looking_needs_no_torch() -> None:
    code = "import sys, pipelines.view; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
