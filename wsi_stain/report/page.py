"""`report/index.html`: the page of a run, made from the rows of its slides. Knows no slides.

The page is one file that needs nothing else: pictures are embedded, and its own policy (CSP) lets it load nothing and
run only the script it came with. Names and messages are text, whatever they contain. Pictures get smaller where there
are many slides: 0.3 to 0.5 MB a slide for up to 50 of them, 0.1 to 0.2 MB for more.

Memory bound: the pictures of one slide, and the page's text without pictures.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, get_args
from urllib.parse import quote

import jinja2
import numpy as np
from markupsafe import Markup

from wsi_stain.cohort.reference import ReferenceChoice
from wsi_stain.core import html, journal
from wsi_stain.core.errors import OutputError
from wsi_stain.core.text import escape_unprintable
from wsi_stain.metrics.chromatin import NuclearDetail
from wsi_stain.metrics.hallucination import PER_UNIT, map_png
from wsi_stain.report.choice import choice_chart, stain_swatches
from wsi_stain.report.cohort import colour_charts, od_chart, stain_table
from wsi_stain.report.outliers import FEWEST, OutlierScore, score_outliers
from wsi_stain.report.training import Training
from wsi_stain.results.slide_row import SlideRow, Status
from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.stain.vectors import angle_deg

_TEMPLATES = Path(__file__).parent / "templates"
_FAILED = ("failed", "unfinished", "empty", "done-with-holes")
_PANEL = 1200
_CANDIDATES = 12
_WHITE = 10


@dataclass(frozen=True)
class RunRecord:
    """Record of the run as a whole, for the page.

    Attributes:
        facts: By name; plain values are shown at once, nested ones unfold.
        reference: Stain of the reference.
        nuclei: Nuclei of the reference, where they are known.
        reference_od: Its OD histogram, see `colours`; empty where it is not known.
        training: The training, if the run had one.
        notes: What is missing from the page, and why.
        choice: How the cohort gave its own reference, if it did.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    reference: StainStatistics | None = None
    nuclei: NuclearDetail | None = None
    reference_od: tuple[float, ...] = ()
    training: Training | None = None
    notes: Sequence[str] = ()
    choice: ReferenceChoice | None = None


@dataclass(frozen=True)
class Detail:
    """Size and quality of the pictures: longer side in px, WebP quality from 0 to 100."""

    slide: int
    field: int
    quality: int
    tiny: int = 132


@dataclass(frozen=True)
class Card:
    """A slide on the page.

    Attributes:
        number: Its place in the run's order, from 1; names its anchor.
        row: What became of it, with pictures once it comes to be drawn.
        outlier: How far it stands out.
    """

    number: int
    row: SlideRow
    outlier: OutlierScore

    @property
    def shift(self) -> float:
        """By how many degrees the slide's stain vectors turned, on average; -1 where that is not known."""
        before, after = self.row.stain, self.row.colours.stain if self.row.colours else None
        if before is None or after is None:
            return -1.0
        turned = [angle_deg(old, new) for old, new in zip(before.vectors, after.vectors, strict=True)]
        return round(sum(turned) / 2, 2)


def write_report(
    out_dir: Path, rows: Sequence[SlideRow], with_pictures: Callable[[SlideRow], SlideRow], run: RunRecord
) -> Path:
    """Write `report/index.html` below the output directory.

    Args:
        out_dir: The run's output directory; links to pyramids are relative to it.
        rows: All slides; they need no pictures.
        with_pictures: The same row with its pictures; called for one slide after the other.
        run: What is known of the run.

    Returns:
        The page's path.

    Raises:
        OutputError: The page cannot be written.
    """
    path = out_dir / "report" / "index.html"
    cards = [
        Card(number, *counted) for number, counted in enumerate(zip(rows, score_outliers(rows), strict=True), start=1)
    ]
    cards.sort(key=lambda card: -card.outlier.score)
    drawn_cards = [card for card in cards if card.row.output]
    detail = Detail(640, 480, 72) if len(drawn_cards) <= 50 else Detail(360, 320, 55)
    nested = {name: value for name, value in run.facts.items() if isinstance(value, Mapping | list | tuple)}
    page = (
        _environment(detail)
        .get_template("page.html")
        .generate(
            rows=rows,
            counts=_counts(rows),
            attention=[row for status in _FAILED for row in rows if row.status == status],
            standing_out=[card for card in drawn_cards if card.outlier.score],
            cards=drawn_cards,
            with_pictures=with_pictures,
            compared=len(drawn_cards) >= FEWEST,
            run=run,
            charts=colour_charts(rows, run.reference, run.reference_od),
            facts={name: value for name, value in run.facts.items() if name not in nested},
            details=nested,
        )
    )

    def write(file: BinaryIO) -> None:
        file.writelines(str(piece).encode() for piece in page)

    journal.atomic_write(path, write)
    return path


def _counts(rows: Sequence[SlideRow]) -> dict[str, int]:
    """Count slides by status, in the statuses' order, only those that occur."""
    counted = Counter(row.status for row in rows)
    return {status: counted[status] for status in get_args(Status) if counted[status]}


def _environment(detail: Detail) -> jinja2.Environment:
    environment = html.environment(_TEMPLATES)
    environment.filters |= {
        "duration": _duration,
        "pretty": _pretty,
        "href": _href,
        "whole": lambda picture: html.data_uri(html.shrink_to_webp(picture, detail.slide, detail.quality)),
        "tiny": lambda picture: html.data_uri(html.shrink_to_webp(picture, detail.tiny, detail.quality)),
        "field": lambda picture: html.data_uri(html.shrink_to_webp(picture, detail.field, detail.quality)),
        "hallucination": lambda picture: html.data_uri(_brighten(picture)),
        "panel": lambda picture: html.data_uri(html.shrink_to_webp(picture, _PANEL, detail.quality)),
    }
    environment.globals |= {
        "od_chart": od_chart,
        "stain_table": stain_table,
        "choice_chart": choice_chart,
        "stain_swatches": stain_swatches,
        "most_candidates": _CANDIDATES,
    }
    for name in ("style", "script"):
        source = "".join(_sources(name))
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        environment.globals |= {name: Markup(source), f"{name}_hash": f"sha256-{digest}"}  # noqa: S704 our own file
    return environment


def _sources(name: str) -> Iterator[str]:
    for file in ("page.css", "charts.css") if name == "style" else ("page.js",):
        yield (_TEMPLATES / file).read_text(encoding="utf-8")


def _brighten(picture: bytes) -> bytes:
    """Brighten a hallucination map so that its white is a CIEDE2000 of 10: good slides stay below 5."""
    try:
        change = np.asarray(html.open_picture(picture, "L"))
    except OutputError:
        return html.shrink_to_webp(picture, 160, 50)
    return map_png(np.minimum(change * (255 / (_WHITE * PER_UNIT)), 255).astype(np.uint8))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _pretty(value: Any) -> Markup:
    lines = json.dumps(value, indent=2, ensure_ascii=False, default=str).splitlines()
    return Markup("\n").join(map(escape_unprintable, lines))


def _href(output: str) -> str:
    """Return the link from the report's directory to a file given relative to the output directory."""
    return "../" + quote(output)
