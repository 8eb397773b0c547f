"""Parts of pages and notebook cards: autoescaped templates, and pictures within them. Knows no slides."""

from __future__ import annotations

import base64
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from wsi_stain.core.errors import OutputError
from wsi_stain.core.text import escape_unprintable

if TYPE_CHECKING:
    import jinja2

JPEG_QUALITY = 85

_FORMATS = ("JPEG", "PNG", "WEBP")

_MOST_PX = 4096**2
"""Most pixels of a picture that is decoded: no run makes a larger one."""


def environment(templates: Path) -> jinja2.Environment:
    """Load templates from a folder; values are escaped, what is no plain text too; a missing one is an error."""
    import jinja2  # by those who make pages; stores know how to show themselves without ever doing it

    jinja = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else escape_unprintable(value),
    )
    jinja.filters["data_uri"] = data_uri
    return jinja


def data_uri(picture: bytes) -> str:
    """Return a URL that holds a JPEG, PNG or WebP."""
    kind = "png" if picture.startswith(b"\x89PNG") else "webp" if picture.startswith(b"RIFF") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def thumbnail_jpeg(picture: Image.Image | NDArray[np.uint8], longest: int = 1024) -> bytes:
    """Return a picture, or RGB pixels (h, w, 3), as a JPEG whose longer side is at most `longest` px."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(np.ascontiguousarray(picture))
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def _no_warnings() -> warnings.catch_warnings[None]:
    """Make errors of warnings: Pillow warns of pictures that grow out of all proportion."""
    return warnings.catch_warnings(action="error")


def open_picture(picture: bytes, mode: str = "RGB") -> Image.Image:
    """Decode a picture that a run kept.

    Args:
        picture: JPEG, PNG or WebP, of at most 16 Mpx.
        mode: Of Pillow, that it is converted to.

    Raises:
        OutputError: It is none, larger, or damaged.
    """
    try:
        with _no_warnings(), Image.open(io.BytesIO(picture), formats=_FORMATS) as image:
            if image.width * image.height > _MOST_PX:
                raise ValueError(f"{image.width} x {image.height} px, expected at most {_MOST_PX}")
            return image.convert(mode)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Warning) as error:
        remedy = "Delete the slide's row.json in OUT/work/slides and run the same command again"
        raise OutputError(f"A picture that the run kept cannot be shown: {error}", remedy) from error


def shrink_to_webp(picture: bytes, longest: int, quality: int) -> bytes:
    """Convert a picture to a WebP of at most `longest` px: a third smaller than a JPEG that looks as good.

    One that cannot be decoded is a field that says so, and fails no page.
    """
    try:
        small = open_picture(picture)
    except OutputError:
        small = damaged_picture()
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "WEBP", quality=quality, method=4)
    return file.getvalue()


def damaged_picture() -> Image.Image:
    """Draw what stands in the place of a picture that cannot be decoded."""
    field = Image.new("RGB", (160, 120), (235, 235, 235))
    ImageDraw.Draw(field).text((20, 52), "damaged picture", fill=(120, 0, 0))
    return field
