"""A user's own idea of where tissue is: a picture, or polygons drawn in QuPath. Knows no slides' pixels.

The mask of a slide lies in a directory under the slide's relative name or its bare stem, with the suffix `.png`,
`.geojson` or `.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, UnidentifiedImageError

from wsi_stain.errors import SlideError
from wsi_stain.geometry import Size

SUFFIXES = (".png", ".geojson", ".json")

_ASPECT_TOLERANCE = 0.02
_REMEDY = "Export it again: a PNG of the whole slide, or polygons as GeoJSON"
_AREAS = ("Polygon", "MultiPolygon")


def mask_path(directory: Path, relative: str) -> Path:
    """Where the mask of a slide lies; where there is none, where it should.

    Args:
        directory: The directory of masks.
        relative: The slide's path relative to the slide directory, posix.
    """
    place = PurePosixPath(relative)
    candidates = [
        directory / base.with_suffix(suffix) for base in (place, PurePosixPath(place.name)) for suffix in SUFFIXES
    ]
    return next((path for path in candidates if path.is_file()), candidates[0])


def read_mask(path: Path, size_l0: Size, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Where tissue is, at a thumbnail's resolution.

    A pixel of a picture that is not black is tissue. Of GeoJSON, polygons in level-0 pixels count, less those whose
    class QuPath ignores (its name ends in an asterisk, such as `Ignore*`).

    Args:
        path: The mask.
        size_l0: Size of the slide's level 0, px; both kinds of masks cover all of it.
        shape: (h, w) of the thumbnail.

    Returns:
        (h, w), true on tissue.

    Raises:
        SlideError: No such file, damaged, without polygons, or of another aspect ratio.
    """
    if not path.is_file():
        wanted = ", ".join(path.with_suffix(suffix).name for suffix in SUFFIXES)
        raise SlideError(f"No mask for the slide in {path.parent}, expected {wanted}", "Add it, or run without --masks")
    if path.suffix.lower() == ".png":
        return _read_picture(path, size_l0, shape)
    return _read_polygons(path, size_l0, shape)


def _read_picture(path: Path, size_l0: Size, shape: tuple[int, int]) -> NDArray[np.bool_]:
    try:
        with Image.open(path) as picture:
            own, marked = picture.size, picture.convert("RGB").convert("L").point(lambda value: 255 if value else 0)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise SlideError(f"The mask {path} cannot be read: {error}", _REMEDY) from error
    ratio = (own[0] / own[1]) / (size_l0.width / size_l0.height)
    if abs(ratio - 1) > _ASPECT_TOLERANCE:
        raise SlideError(
            f"The mask {path} has {own[0]} x {own[1]} px, another shape than the slide's"
            f" {size_l0.width} x {size_l0.height}",
            _REMEDY,
        )
    shrunk = marked.resize((shape[1], shape[0]), Image.Resampling.BOX)
    return np.asarray(shrunk) > 0


def _read_polygons(path: Path, size_l0: Size, shape: tuple[int, int]) -> NDArray[np.bool_]:
    try:
        drawn = list(_areas(json.loads(path.read_text(encoding="utf-8"))))
        found = np.zeros(shape, bool)
        scale = shape[1] / size_l0.width, shape[0] / size_l0.height
        for rings, wanted in sorted(drawn, key=lambda area: not area[1]):  # what is ignored comes last
            inside = _filled(rings, scale, shape)
            found = found | inside if wanted else found & ~inside
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise SlideError(f"The mask {path} is no GeoJSON of polygons: {error}", _REMEDY) from error
    if not any(wanted for _, wanted in drawn):
        raise SlideError(f"The mask {path} holds no polygon", _REMEDY)
    return found


def _areas(node: Any) -> Iterator[tuple[Sequence[Any], bool]]:
    """The rings of each polygon below a node of GeoJSON, the outer one first, and whether it is wanted."""
    if isinstance(node, list):
        for each in node:
            yield from _areas(each)
    elif node.get("type") == "FeatureCollection":
        yield from _areas(node["features"])
    elif (geometry := node.get("geometry", node))["type"] in _AREAS:
        named = (node.get("properties") or {}).get("classification") or {}
        wanted = not str(named.get("name", "")).endswith("*")
        polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
        for rings in polygons:
            yield rings, wanted


def _filled(rings: Sequence[Any], scale: tuple[float, float], shape: tuple[int, int]) -> NDArray[np.bool_]:
    picture = Image.new("1", (shape[1], shape[0]))
    draw = ImageDraw.Draw(picture)
    for number, ring in enumerate(rings):
        # Pillow's coordinates are those of pixels' centres.
        points = [(float(x) * scale[0] - 0.5, float(y) * scale[1] - 0.5) for x, y, *_ in ring]
        draw.polygon(points, fill=int(number == 0))
    return np.asarray(picture, bool)
