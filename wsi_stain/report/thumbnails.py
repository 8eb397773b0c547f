"""Pictures of whole slides: a finished pyramid's, and a sheet of several slides before and after."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from wsi_stain import html, journal
from wsi_stain.errors import OutputError
from wsi_stain.report.rows import SlideRow


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
