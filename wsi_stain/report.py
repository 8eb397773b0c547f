"""What people look at after a run: `summary.csv` and `report/index.html`. Knows no stages; it is told rows.

The page is one file that needs nothing else: pictures are embedded (about 0.3 MB a slide), and its own policy (CSP)
lets it load nothing and run only the script it came with. Names and messages are text, whatever they contain.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, get_args
from urllib.parse import quote

import jinja2
import numpy as np
import openslide
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image
from pydantic import BeforeValidator, Field

from wsi_stain import html, journal
from wsi_stain.csv_file import neutral, printable, write_table
from wsi_stain.errors import OutputError
from wsi_stain.geometry import Mpp, Size
from wsi_stain.seams import SeamScore
from wsi_stain.settings import Settings
from wsi_stain.stain import StainStatistics

Status = Literal["done", "done-with-holes", "empty", "failed", "skipped"]

_NEEDS_ATTENTION = ("failed", "done-with-holes", "empty")
_COLUMNS = (
    *("slide", "status", "reason", "remedy", "tiles", "seconds"),
    *("slide_id", "output", "other_outputs", "width", "height", "mpp_x", "mpp_y", "mpp_origin", "suspect"),
    *("seam", "unexplained", "table_distance"),
)


Text = Annotated[str, BeforeValidator(printable)]


class SlideRow(Settings):
    """What became of one slide.

    Attributes:
        slide: Its name as the user knows it.
        slide_id: Its name in the store and in receipts.
        status: How it ended.
        reason: What was expected and found, when it is not simply done.
        remedy: What the user can do about it.
        tiles: Tissue tiles.
        suspect: Tiles taken for glass that look as if they had tissue.
        seconds: Work spent on it in this run.
        output: The pyramid, relative to the output directory, with "/"; empty when there is none.
        other_outputs: The same pyramid in other formats.
        size: Size of level 0, px.
        mpp: Resolution of level 0, um per px.
        mpp_origin: Where the resolution came from.
        stain: Its stain as measured, before normalization.
        before: JPEG thumbnail of the slide.
        after: JPEG thumbnail of the pyramid; the same frame as `before`.
        seam: How much the lines show where it was cut.
        unexplained: PNG of mode L, a pixel a tile: ten times the colour difference, CIEDE2000, that no colour table for
            the slide explains (see `unexplained`). None where the output is such a table, which explains itself.
        unexplained_p95: 95th percentile of that difference over tiles with tissue; what is above 25.5 counts as 25.5.
        table_distance: Where the output is a table, its mean CIEDE2000 to the generator on tiles that were not fitted.
    """

    slide: Text
    slide_id: Text
    status: Status
    reason: Text = ""
    remedy: Text = ""
    tiles: int = Field(default=0, ge=0)
    suspect: int = Field(default=0, ge=0)
    seconds: float = Field(default=0.0, ge=0)
    output: Text = ""
    other_outputs: tuple[Text, ...] = ()
    size: Size | None = None
    mpp: Mpp | None = None
    mpp_origin: Text = ""
    stain: StainStatistics | None = None
    before: bytes | None = None
    after: bytes | None = None
    seam: SeamScore | None = None
    unexplained: bytes | None = None
    unexplained_p95: float | None = None
    table_distance: float | None = None

    def of_outputs(self, names: Sequence[str]) -> SlideRow:
        """The row with other outputs, the first being the one to show."""
        first, *others = map(printable, names)
        return self.model_copy(update={"output": first, "other_outputs": tuple(others)})


def write_summary(path: Path, rows: Sequence[SlideRow]) -> None:
    """Write the table of all slides."""
    write_table(path, _COLUMNS, [_cells(row) for row in rows])


def read_summary(path: Path) -> list[dict[str, str]]:
    """The rows of such a table, by column; OutputError where there is none, or it has other columns."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != _COLUMNS:
                raise ValueError(f"its columns are {reader.fieldnames}")
            return list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise OutputError(
            f"{path} is not a run's summary: {error}", "Name the output directory of a finished run"
        ) from error


def summary_row(row: SlideRow) -> dict[str, str]:
    """A slide's row as it stands in the table, by column."""
    return {name: str(neutral(cell)) for name, cell in zip(_COLUMNS, _cells(row), strict=True)}


def _cells(row: SlideRow) -> list[Any]:
    """The values of a row in the order of `_COLUMNS`."""
    width, height = row.size or ("", "")
    mpp_x, mpp_y = row.mpp or ("", "")
    measured = [width, height, mpp_x, mpp_y, row.mpp_origin, row.suspect]
    ended = [row.slide, row.status, row.reason, row.remedy, row.tiles, round(row.seconds, 1)]
    quality = [row.seam.score if row.seam else None, row.unexplained_p95, row.table_distance]
    judged = ["" if value is None else round(value, 3) for value in quality]
    return [*ended, row.slide_id, row.output, "; ".join(row.other_outputs), *measured, *judged]


def write_report(out_dir: Path, rows: Sequence[SlideRow], run: Mapping[str, Any], panel: bytes | None = None) -> Path:
    """Write `report/index.html` below the output directory.

    Args:
        out_dir: The run's output directory; links to pyramids are relative to it.
        rows: All slides, in the order to show them.
        run: Facts about the run by name; plain values are shown at once, nested ones unfold.
        panel: A picture of the training (template, generated, target), PNG or JPEG.

    Returns:
        The page's path.

    Raises:
        OutputError: The page cannot be written.
    """
    path = out_dir / "report" / "index.html"
    page = (
        _environment()
        .get_template("report.html")
        .generate(
            rows=rows,
            counts=_counts(rows),
            attention=[row for row in rows if row.status in _NEEDS_ATTENTION],
            facts={name: value for name, value in run.items() if not isinstance(value, Mapping | list | tuple)},
            details={name: value for name, value in run.items() if isinstance(value, Mapping | list | tuple)},
            panel=panel,
        )
    )

    def write(file: BinaryIO) -> None:
        file.writelines(str(piece).encode("utf-8", "backslashreplace") for piece in page)

    journal.atomic_write(path, write)
    return path


def _counts(rows: Sequence[SlideRow]) -> dict[str, int]:
    """Slides by status, in the statuses' order, only those that occur."""
    found = Counter(row.status for row in rows)
    return {status: found[status] for status in get_args(Status) if found[status]}


def _environment() -> jinja2.Environment:
    environment = html.environment()
    environment.filters |= {"duration": _duration, "pretty": _pretty, "href": _href}
    for name in ("style", "script"):
        source = (html.TEMPLATES / f"report.{'css' if name == 'style' else 'js'}").read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        environment.globals |= {name: Markup(source), f"{name}_hash": f"sha256-{digest}"}  # noqa: S704 our own file
    return environment


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def _href(output: str) -> str:
    """The link from the report's directory to a file given relative to the output directory."""
    return "../" + quote(output)


def after_thumbnail(path: Path, longest: int = 1024) -> bytes:
    """A finished pyramid as a JPEG whose longer side is at most `longest` px.

    Raises:
        OutputError: The pyramid cannot be read.
    """
    try:
        with openslide.OpenSlide(path) as slide:
            return html.thumbnail_jpeg(slide.get_thumbnail((longest, longest)), longest)
    except openslide.OpenSlideError as error:
        raise OutputError(f"{path} cannot be read back: {error}", "Delete it and run the same command again") from error


def write_sheet(path: Path, rows: Sequence[SlideRow], height: int = 320, most: int = 4) -> None:
    """One picture of the first slides that have both thumbnails: before above, after below, as a JPEG.

    Args:
        path: The picture; nothing is written where no slide has both.
        rows: All slides.
        height: Height of each thumbnail in it, px.
        most: Most slides in it.
    """
    pairs = [(row.before, row.after) for row in rows if row.before and row.after][:most]
    if not pairs:
        return
    columns = [_pair(before, after, height) for before, after in pairs]
    sheet = io.BytesIO()
    Image.fromarray(np.hstack(columns)).save(sheet, "JPEG", quality=html.JPEG_QUALITY)
    journal.atomic_write(path, sheet.getvalue())


def _pair(before: bytes, after: bytes, height: int) -> NDArray[np.uint8]:
    """Both at the same size, one above the other: thumbnails of one slide may differ by a pixel's rounding."""
    pictures = [Image.open(io.BytesIO(jpeg)).convert("RGB") for jpeg in (before, after)]
    size = (max(1, round(pictures[0].width * height / pictures[0].height)), height)
    return np.vstack([np.asarray(picture.resize(size, Image.Resampling.LANCZOS)) for picture in pictures])
