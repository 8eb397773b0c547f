"""The viewer as its user starts it: a process of its own, whose page is asked over HTTP. And runs for it to show."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.support.slide_files import shrink, write_slide
from wsi_stain.core.geometry import Mpp, Size, grid_shape
from wsi_stain.results import SlideRow, write_summary
from wsi_stain.results.finished import FinishedSlide, Origin, save_finished
from wsi_stain.slides.slide import SlideConfig
from wsi_stain.tissue.grid import TileGrid

ROOT = Path(__file__).parent.parent.parent


class Answer(NamedTuple):
    """What the server said."""

    code: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Viewer(NamedTuple):
    """A viewer that is running."""

    url: str
    process: subprocess.Popen[str]

    def get(self, path: str = "", **headers: str) -> Answer:
        """Ask for something below the page's address."""
        request = urllib.request.Request(self.url + path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        try:
            with urllib.request.urlopen(request) as answer:
                return Answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read())

    def tile(self, case: int, pane: int, level: int, column: int = 0, row: int = 0) -> Answer:
        """One tile of a picture."""
        name = self.get(f"cases/{case}").json["panes"][pane]["id"]
        return self.get(f"tiles/{name}/{level}/{column}/{row}")


@contextmanager
def open_viewer(*arguments: object, environment: dict[str, str] | None = None) -> Iterator[Viewer]:
    """Run `wsi-stain view` on any free port until the block ends."""
    command = [sys.executable, "-m", "pipelines.cli", "view", *map(str, arguments), "--port", "0"]
    surroundings = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200", **(environment or {})}
    process = subprocess.Popen(
        command, cwd=ROOT, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http"), url
        yield Viewer(url, process)
    finally:
        process.kill()
        process.communicate()


def pyramid(path: Path, pixels: NDArray[np.uint8], mpp: float | None = 0.5, **options: Any) -> Path:
    """A lossless slide with levels by 2."""
    levels = [pixels]
    while max(levels[-1].shape) > 256:
        levels.append(shrink(levels[-1], 2))
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_slide(path, levels, mpp, **options)


def write_output_directory(
    out: Path, rows: Sequence[tuple[SlideRow, Path | None, NDArray[np.uint8] | None]], mpp: float
) -> Path:
    """An output directory as a run leaves it: rows, their sources, and their pyramids' pixels."""
    for row, source, pixels in rows:
        if pixels is None:
            continue
        pyramid(out / row.output, pixels, mpp)
        size = Size(pixels.shape[1], pixels.shape[0])
        tiles = np.ones(grid_shape(size), bool)
        grid = TileGrid(size, tiles.astype(np.float32), tiles)
        origin = Origin(slide=source, tiles="", reading=SlideConfig(mpp=mpp), fingerprint={}, icc_sha256=None)
        whole = row.model_copy(update={"size": size, "mpp": Mpp(mpp, mpp)})
        save_finished(
            out / "work" / "slides" / row.slide_id, FinishedSlide("key", whole, origin, grid, np.zeros((4, 4), bool))
        )
    write_summary(out / "summary.csv", [row for row, _, _ in rows])
    return out
