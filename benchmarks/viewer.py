"""How fast the viewer serves tiles: beside a Flask server as openslide-python's own Deep Zoom example is built.

    python benchmarks/viewer.py SLIDE [--clients 8] [--tiles 160] [--rounds 3]

Eight clients ask for different tiles at once, at three zooms: the slide's own pixels, an eighth and a sixteenth of them
along each side. The example makes tiles of 254 px and JPEG quality 75, the viewer 512 px and quality 90, both with a
margin of one, so pixels a second count; both read by OpenSlide. The servers take turns, each started afresh, so that
neither finds tiles decoded; the slide itself is in the page cache. The best round of each is printed. Last, how fast
the viewer says of tiles that a browser has that they are unchanged.
"""

from __future__ import annotations

import argparse
import http.client
import io
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import openslide
from openslide.deepzoom import DeepZoomGenerator

_ZOOMS = (1, 8, 16)
_EXAMPLE_TILE = 254


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--tiles", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--example", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.example:
        serve_example(asked.slide, asked.example)
        return
    asked.slide.read_bytes()
    servers = {"wsi-stain view": viewer, "Flask, as in openslide-python's example": example}
    best = {(name, zoom): (0.0, 0.0, 0.0) for name in servers for zoom in _ZOOMS}
    for _, (name, server), zoom in product(range(asked.rounds), servers.items(), _ZOOMS):
        with server(asked.slide) as (base, tile_px, address):
            addresses = choose_tiles(asked.slide, tile_px, zoom, asked.tiles, address)
            seconds, waits = ask(base, addresses, asked.clients)
            rate = len(addresses) / seconds, len(addresses) * tile_px**2 / seconds / 1e6, 1e3 * float(np.median(waits))
            best[name, zoom] = max(best[name, zoom], rate, key=lambda one: one[1])
    for zoom in _ZOOMS:
        ours, theirs = (best[name, zoom] for name in servers)
        for name in servers:
            tiles, pixels, wait = best[name, zoom]
            print(f"1/{zoom}  {name:42} {tiles:6.0f} tiles/s {pixels:6.1f} Mpx/s, median wait {wait:5.0f} ms")
        print(f"1/{zoom}  pixels, viewer : example {ours[1] / theirs[1]:.2f}")
    with viewer(asked.slide) as (base, tile_px, address):
        addresses = choose_tiles(asked.slide, tile_px, 1, asked.tiles, address)
        ask(base, addresses, asked.clients)
        seconds, _ = ask(base, addresses * 5, asked.clients, known=True)
        print(f"tiles that the browser has: {5 * len(addresses) / seconds:.0f} answers/s")


def choose_tiles(slide: Path, tile_px: int, zoom: int, most: int, address: Callable[[int, int, int], str]) -> list[str]:
    """Addresses of up to `most` tiles about the middle of the level that is `zoom` times as coarse as level 0."""
    with openslide.OpenSlide(slide) as handle:
        tiles = DeepZoomGenerator(handle, tile_px, 1)
        level = tiles.level_count - zoom.bit_length()
        columns, rows = tiles.level_tiles[level]
    places = [(column, row) for column in range(columns) for row in range(rows)]
    places.sort(key=lambda place: (abs(place[0] - columns / 2) + abs(place[1] - rows / 2), place))
    return [address(level, *place) for place in places[:most]]


def ask(base: str, paths: Sequence[str], clients: int, known: bool = False) -> tuple[float, list[float]]:
    """Ask for all of them, each client over one connection; seconds in all, and of each."""

    def client(number: int) -> list[float]:
        connection, waits = http.client.HTTPConnection(urlsplit(base).netloc), []
        for path in paths[number::clients]:
            start = time.perf_counter()
            name = "-".join(path.split("/")[-4:])
            connection.request("GET", path, headers={"If-None-Match": f'"{name}"'} if known else {})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == (304 if known else 200), (path, answer.status)
            waits.append(time.perf_counter() - start)
        connection.close()
        return waits

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        waits = [wait for of_one in threads.map(client, range(clients)) for wait in of_one]
    return time.perf_counter() - start, waits


@contextmanager
def viewer(slide: Path) -> Iterator[tuple[str, int, Callable[[int, int, int], str]]]:
    """`wsi-stain view`."""
    from wsi_stain.viewer.cases import Picture
    from wsi_stain.viewer.tiles import TILE_PX

    command = [sys.executable, "-m", "pipelines.cli", "view", str(slide), "--no-browser", "--port", "0"]
    with run_process(command) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        name, path = Picture("", slide.absolute()).id, urlsplit(url).path
        yield url, TILE_PX, lambda level, column, row: f"{path}tiles/{name}/{level}/{column}/{row}"


@contextmanager
def example(slide: Path) -> Iterator[tuple[str, int, Callable[[int, int, int], str]]]:
    """Flask's own server, threaded, with openslide-python's Deep Zoom tiles."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with run_process([sys.executable, __file__, str(slide), "--example", str(port)]):
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)
        url = f"http://127.0.0.1:{port}/"
        yield url, _EXAMPLE_TILE, lambda level, column, row: f"/{level}/{column}_{row}.jpeg"


@contextmanager
def run_process(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """A process for the time of a block."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def serve_example(slide: Path, port: int) -> None:
    """Serve a slide by Flask until killed."""
    import flask

    app = flask.Flask("example")
    tiles = DeepZoomGenerator(openslide.OpenSlide(slide), _EXAMPLE_TILE, 1, limit_bounds=False)

    @app.route("/<int:level>/<int:column>_<int:row>.jpeg")
    def tile(level: int, column: int, row: int) -> flask.Response:
        file = io.BytesIO()
        tiles.get_tile(level, (column, row)).save(file, "jpeg", quality=75)
        return flask.Response(file.getvalue(), mimetype="image/jpeg")

    app.run("127.0.0.1", port, threaded=True)


if __name__ == "__main__":
    main()
