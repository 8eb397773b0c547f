"""One place of a slide as each method makes it, side by side: what the figures of scores cannot show."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from wsi_stain.core.journal import atomic_write

_HEIGHT = 256
_TITLE = 18


def darkest(pictures: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> int:
    """Return which of some pictures shows most tissue, as far as its mean tells: the one to look at."""
    return int(np.argmin([picture.mean() for picture in pictures]))


def write_strip(path: Path, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
    """Write pictures of the same place, (h, w, 3) each, in one row as a PNG, each under its name.

    Raises:
        OutputError: The file cannot be written.
    """
    images = {name: Image.fromarray(np.ascontiguousarray(pixels)) for name, pixels in pictures.items()}
    width = max(round(_HEIGHT * picture.width / picture.height) for picture in images.values())
    strip = Image.new("RGB", (len(images) * (width + 2) - 2, _HEIGHT + _TITLE), "white")
    draw = ImageDraw.Draw(strip)
    for place, (name, picture) in enumerate(images.items()):
        strip.paste(picture.resize((width, _HEIGHT), Image.Resampling.LANCZOS), (place * (width + 2), _TITLE))
        draw.text((place * (width + 2) + 3, 3), name, fill="black")
    file = io.BytesIO()
    strip.save(file, "PNG")
    atomic_write(path, file.getvalue())
