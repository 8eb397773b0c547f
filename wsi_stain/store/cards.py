"""Cards of stores and slides in a notebook: a small table and thumbnails within the page, all text escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core import html

_TEMPLATES = Path(__file__).parent / "templates"
_PICTURE = 320
_SMALL_PICTURE = 96


class Row(NamedTuple):
    """One slide in the table of a store: what is known of it and its thumbnail, or why it cannot be used."""

    slide_id: str
    facts: Mapping[str, str]
    picture: bytes | None
    error: str | None


def good_row(slide_id: str, facts: Mapping[str, str], thumbnail: NDArray[np.uint8]) -> Row:
    """Make the row of a slide that can be used."""
    return Row(slide_id, facts, html.thumbnail_jpeg(thumbnail, _SMALL_PICTURE), None)


def bad_row(slide_id: str, error: str) -> Row:
    """Make the row of a slide that is damaged."""
    return Row(slide_id, {}, None, error)


def slide_card(slide_id: str, facts: Mapping[str, str], thumbnail: NDArray[np.uint8]) -> str:
    """Render a slide as HTML: its thumbnail, (h, w, 3), beside what is known of it."""
    picture = html.thumbnail_jpeg(thumbnail, _PICTURE)
    return _render("slide.html", slide_id=slide_id, facts=facts, picture=picture)


def store_card(where: str, rows: Sequence[Row], count: int) -> str:
    """Render a store as HTML: where it is, how many slides it has, and a row for each of the first."""
    return _render("store.html", where=where, rows=rows, count=count)


def _render(template: str, **values: object) -> str:
    return html.environment(_TEMPLATES).get_template(template).render(**values)
