"""`report/index.html`: the page that people look at after a run. Knows no stages; it is told rows.

The page is one file that needs nothing else: pictures are embedded (about 0.3 MB a slide), and its own policy (CSP)
lets it load nothing and run only the script it came with. Names and messages are text, whatever they contain.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, get_args
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from wsi_stain import html, journal
from wsi_stain.report.rows import SlideRow, Status

_NEEDS_ATTENTION = ("failed", "done-with-holes", "empty")


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
        .get_template("report/page.html")
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
        source = (html.TEMPLATES / f"report/page.{'css' if name == 'style' else 'js'}").read_text(encoding="utf-8")
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
