"""A sheet of several slides, before above after."""

from __future__ import annotations

import io
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_stain.core import html, journal
from wsi_stain.core.errors import OutputError
from wsi_stain.results.slide_row import SlideRow


def write_sheet(path: Path, rows: Iterable[SlideRow], height: int = 320, most: int = 4) -> None:
    """Write one picture of the first slides that have both thumbnails: before above, after below, as a JPEG.

    Args:
        path: The picture; nothing is written where no slide has both.
        rows: All slides; no more are taken than are needed.
        height: Height of each thumbnail in it, px.
        most: Most slides in it.
    """
    pairs = ((row.before, row.after) for row in rows if row.before and row.after)
    columns = [_pair(before, after, height) for before, after in islice(pairs, most)]
    if not columns:
        return
    sheet = io.BytesIO()
    Image.fromarray(np.hstack(columns)).save(sheet, "JPEG", quality=html.JPEG_QUALITY)
    journal.atomic_write(path, sheet.getvalue())


def _pair(before: bytes, after: bytes, height: int) -> NDArray[np.uint8]:
    """Stack both at the same size: thumbnails of one slide may differ by a pixel's rounding."""
    pictures = [_open_or_damaged(jpeg) for jpeg in (before, after)]
    size = (max(1, round(pictures[0].width * height / pictures[0].height)), height)
    return np.vstack([np.asarray(picture.resize(size, Image.Resampling.LANCZOS)) for picture in pictures])


def _open_or_damaged(picture: bytes) -> Image.Image:
    try:
        return html.open_picture(picture)
    except OutputError:
        return html.damaged_picture()
