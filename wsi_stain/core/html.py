"""Parts of pages and notebook cards: autoescaped templates, and pictures within them. Knows no slides."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from wsi_stain.core.text import escape_unprintable

JPEG_QUALITY = 85


def environment(templates: Path) -> jinja2.Environment:
    """Load templates from a folder; values are escaped, what is no plain text too; a missing one is an error."""
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


def shrink_to_webp(picture: bytes, longest: int, quality: int) -> bytes:
    """Convert a picture to a WebP of at most `longest` px: a third smaller than a JPEG that looks as good."""
    with Image.open(io.BytesIO(picture)) as image:
        small = image.convert("RGB")
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "WEBP", quality=quality, method=4)
    return file.getvalue()
