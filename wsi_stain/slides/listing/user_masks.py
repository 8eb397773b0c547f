"""A user's own idea of where tissue is: a picture, or polygons drawn in QuPath. Reads no slides.

The mask of a slide lies in a directory under the slide's relative path or its bare name, with `.png`, `.geojson` or
`.json` in the place of the slide's suffix or after it. Where there are several, the first in that order counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from wsi_stain.core.arrays import Mask
from wsi_stain.core.errors import SlideError
from wsi_stain.core.geometry import Size
from wsi_stain.core.journal import file_digest

SUFFIXES = (".png", ".geojson", ".json")

_ASPECT_TOLERANCE = 0.02
_MOST_LABELS = 256
_FAR = 2**20
_REMEDY = "Export it again: a PNG of the whole slide, or polygons as GeoJSON"
_AREAS = ("Polygon", "MultiPolygon")


def mask_path(directory: Path, relative: str) -> Path:
    """Return the path of a slide's mask; where there is none, where it should be.

    Args:
        directory: The directory of masks.
        relative: The slide's path relative to the slide directory, posix.
    """
    relative_path = PurePosixPath(relative)
    bases = [relative_path, PurePosixPath(relative_path.name)]
    named = [directory / base.with_suffix(suffix) for base in bases for suffix in SUFFIXES]
    appended = [directory / f"{base}{suffix}" for base in bases for suffix in SUFFIXES]
    return next((path for path in [*named, *appended] if os.path.isfile(path)), named[0])


def mask_digest(path: Path) -> str:
    """Hash a mask's bytes by SHA-256; SlideError where there is no such file."""
    if not os.path.isfile(path):
        wanted = ", ".join(path.with_suffix(suffix).name for suffix in SUFFIXES)
        raise SlideError(f"No mask for the slide in {path.parent}, expected {wanted}", "Add it, or run without --masks")
    return file_digest(path)


def read_mask(path: Path, size_l0: Size, shape: tuple[int, int], origin_l0: tuple[float, float] = (0, 0)) -> Mask:
    """Read where tissue is, at a thumbnail's resolution.

    Of a picture, which covers all of the slide, pixels that are not zero are tissue: not black, or with a label. Of
    GeoJSON, polygons in level-0 pixels count, less those whose class QuPath ignores (its name ends in an asterisk, such
    as `Ignore*`; `Region*`, which marks a region of interest, counts).

    Args:
        path: The mask.
        size_l0: Size of the slide's level 0, px.
        shape: (h, w) of the thumbnail.
        origin_l0: Where polygons count from, (x, y) in level-0 px: QuPath shows a slide cut to its scanned bounds.

    Returns:
        (h, w), true on tissue.

    Raises:
        SlideError: No such file, damaged, without polygons on the slide, or of another aspect ratio.
    """
    mask_digest(path)
    if path.suffix.lower() == ".png":
        return _read_picture(path, size_l0, shape)
    return _read_polygons(path, size_l0, shape, origin_l0)


def _read_picture(path: Path, size_l0: Size, shape: tuple[int, int]) -> Mask:
    try:
        with Image.open(path) as picture:
            own, marked = picture.size, _labelled_pixels(picture)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise SlideError(f"The mask {path} cannot be read: {error}", _REMEDY) from error
    ratio = (own[0] / own[1]) / (size_l0.width / size_l0.height)
    if abs(ratio - 1) > _ASPECT_TOLERANCE:
        raise SlideError(
            f"The mask {path} has {own[0]} x {own[1]} px, another shape than the slide's"
            f" {size_l0.width} x {size_l0.height}",
            _REMEDY,
        )
    small = Image.fromarray(marked).resize((shape[1], shape[0]), Image.Resampling.BOX)
    return np.asarray(small) > 0


def _labelled_pixels(picture: Image.Image) -> NDArray[np.uint8]:
    """Mark, (h, w), with 255 where a picture is not zero; a palette's index is a label, whatever its colour."""
    values: NDArray[Any] = np.asarray(picture)
    if values.ndim == 2:
        return np.where(values != 0, np.uint8(255), np.uint8(0))
    if picture.getcolors(_MOST_LABELS) is None:
        raise ValueError(f"it has more than {_MOST_LABELS} colours, as a picture of a slide has")
    alpha = picture.getbands()[-1] == "A"
    seen = values[..., :-1].any(axis=2) & (values[..., -1] > 0) if alpha else values.any(axis=2)
    return np.where(seen, np.uint8(255), np.uint8(0))


def _read_polygons(path: Path, size_l0: Size, shape: tuple[int, int], origin_l0: tuple[float, float]) -> Mask:
    scale = shape[1] / size_l0.width, shape[0] / size_l0.height
    wanted, ignored = (Image.new("1", (shape[1], shape[0])) for _ in range(2))
    drawn = 0
    try:
        for rings, counts in _polygons(json.loads(path.read_text(encoding="utf-8"))):
            _fill_polygon(wanted if counts else ignored, [_pixels(ring, scale, origin_l0) for ring in rings])
            drawn += counts
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise SlideError(f"The mask {path} is no GeoJSON of polygons: {error}", _REMEDY) from error
    if not drawn:
        raise SlideError(f"The mask {path} holds no polygon", _REMEDY)
    if not np.asarray(wanted).any():
        width, height = size_l0
        raise SlideError(f"None of the {drawn} polygons of {path} lies on the slide, {width} x {height} px", _REMEDY)
    return np.asarray(np.asarray(wanted) & ~np.asarray(ignored))


def _polygons(node: Any) -> Iterator[tuple[Sequence[Any], bool]]:
    """Yield the rings of each polygon below a node of GeoJSON, the outer one first, and whether it is wanted."""
    if isinstance(node, list):
        for each in node:
            yield from _polygons(each)
    elif node.get("type") == "FeatureCollection":
        yield from _polygons(node["features"])
    elif (geometry := node.get("geometry", node))["type"] in _AREAS:
        properties = node.get("properties") or {}
        if properties.get("objectType") == "detection":  # cells and tiles, of QuPath or of this project
            return
        named = properties.get("classification") or {}
        name = str(named.get("name", ""))
        wanted = not name.endswith("*") or name == "Region*"
        polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
        for rings in polygons:
            yield rings, wanted


def _pixels(ring: Sequence[Any], scale: tuple[float, float], origin_l0: tuple[float, float]) -> list[tuple[int, int]]:
    """Return the pixels, (x, y), that a ring's corners lie in."""
    corners = ((np.asarray([[x, y] for x, y, *_ in ring], float) + origin_l0) * scale).clip(-_FAR, _FAR)
    return [(int(x), int(y)) for x, y in np.floor(corners)]


def _fill_polygon(canvas: Image.Image, rings: Sequence[list[tuple[int, int]]]) -> None:
    """Fill every pixel that a polygon touches: within the first ring and not inside the others."""
    if len(rings) == 1:
        ImageDraw.Draw(canvas).polygon(rings[0], fill=1, outline=1)
        return
    own = Image.new("1", canvas.size)
    draw = ImageDraw.Draw(own)
    for number, ring in enumerate(rings):
        draw.polygon(ring, fill=int(number == 0), outline=1)
    canvas.paste(1, mask=own)
