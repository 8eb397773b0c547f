"""A user's own masks: pictures and polygons, in place to the pixel, or refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation

from wsi_stain.core.errors import SlideError
from wsi_stain.core.geometry import Size
from wsi_stain.slides.listing.user_masks import mask_path, read_mask

SIZE = Size(1000, 600)
SHAPE = (60, 100)


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def feature(*rings: list[list[float]], name: str | None = None) -> dict[str, Any]:
    classification = {"classification": {"name": name, "color": [1, 2, 3]}} if name else {}
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": list(rings)},
        "properties": {"objectType": "annotation", **classification},
    }


def write_mask(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("form", ["collection", "list", "feature", "multipolygon", "geometries"])
def test_polygons_lie_where_they_were_drawn(tmp_path: Path, form: str) -> None:
    rings = [square(200, 100, 300)], [square(700, 300, 100)]
    features = [feature(*each) for each in rings]
    forms: dict[str, Any] = {
        "collection": {"type": "FeatureCollection", "features": features},
        "list": features,
        "feature": features[0],
        "multipolygon": {"type": "Feature", "geometry": {"type": "MultiPolygon", "coordinates": list(rings)}},
        "geometries": [each["geometry"] for each in features],
    }
    mask = read_mask(write_mask(tmp_path / "a.geojson", forms[form]), SIZE, SHAPE)
    expected = np.zeros(SHAPE, bool)
    expected[10:40, 20:50] = True
    if form != "feature":
        expected[30:40, 70:80] = True
    assert not (expected & ~mask).any()  # every pixel that a polygon touches
    assert not (mask & ~binary_dilation(expected, np.ones((3, 3)))).any()


def test_a_polygon_smaller_than_a_pixel_is_not_lost(tmp_path: Path) -> None:
    mask = read_mask(
        write_mask(tmp_path / "a.json", [feature(square(431, 207, 2)), feature(square(0, 0, 2))]), SIZE, SHAPE
    )
    assert np.argwhere(mask).tolist() == [[0, 0], [20, 43]]


def test_polygons_count_from_the_scanned_bounds(tmp_path: Path) -> None:
    path = write_mask(tmp_path / "a.json", feature(square(100, 100, 50)))
    moved = read_mask(path, SIZE, SHAPE, (300.0, 200.0))
    assert np.argwhere(moved).min(axis=0).tolist() == [30, 40]


def test_polygons_beyond_the_slide_are_cut_and_none_on_it_is_told(tmp_path: Path) -> None:
    mask = read_mask(write_mask(tmp_path / "a.json", feature(square(-1e9, 300, 2e9))), SIZE, SHAPE)
    assert mask[30:].all() and not mask[:30].any()
    with pytest.raises(SlideError, match=r"None of the 1 polygons .* 1000 x 600"):
        read_mask(write_mask(tmp_path / "b.json", feature(square(5000, 5000, 10))), SIZE, SHAPE)


def test_holes_and_ignored_classes_are_left_out(tmp_path: Path) -> None:
    holed = feature(square(100, 100, 400), square(200, 200, 100), name="Tumor")
    ignored = feature(square(400, 400, 60), name="Ignore*")
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": None}
    mask = read_mask(write_mask(tmp_path / "a.json", [ignored, holed, point]), SIZE, SHAPE)
    assert mask[15, 15]
    assert not mask[25, 25]
    assert not mask[43, 43]
    assert mask[48, 48]
    region = read_mask(write_mask(tmp_path / "b.json", feature(square(100, 100, 400), name="Region*")), SIZE, SHAPE)
    assert region[15, 15]


def test_a_hole_counts_where_another_polygon_lies_in_it(tmp_path: Path) -> None:
    drawn = [feature(square(100, 100, 400), square(200, 200, 200)), feature(square(280, 280, 30))]
    mask = read_mask(write_mask(tmp_path / "a.json", drawn), SIZE, SHAPE)
    assert mask[29, 29] and not mask[25, 25]


@pytest.mark.parametrize("scale", [0.25, 1, 3], ids=["coarser", "as the thumbnail", "finer"])
@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P"])
def test_a_picture_of_any_size_and_kind(tmp_path: Path, scale: float, mode: str) -> None:
    own = np.zeros((int(60 * scale), int(100 * scale)), bool)
    own[int(20 * scale) : int(40 * scale), int(40 * scale) : int(60 * scale)] = True
    picture = Image.fromarray(own.astype(np.uint8) * (1 if mode == "L" else 255))
    picture.convert(mode).save(tmp_path / "a.png")
    mask = read_mask(tmp_path / "a.png", SIZE, SHAPE)
    expected = np.zeros(SHAPE, bool)
    expected[20:40, 40:60] = True
    assert mask.shape == SHAPE
    assert np.array_equal(mask, expected)


@pytest.mark.parametrize("mode", ["P", "I;16", "LA", "RGBA"])
def test_labels_count_whatever_their_colour(tmp_path: Path, mode: str) -> None:
    labels = np.zeros((60, 100), np.uint8)
    labels[20:40, 40:60] = 1
    picture = Image.fromarray(labels)
    if mode == "P":  # as QuPath writes them: the background white, labels in any colour
        picture.putpalette([255, 255, 255, 0, 0, 2])
    elif mode == "I;16":
        picture = Image.fromarray(labels.astype(np.uint16) * 256)
    else:  # white, opaque on tissue alone
        opaque = Image.fromarray(labels * 255)
        picture = Image.new("LA" if mode == "LA" else "RGBA", (100, 60), "white")
        picture.putalpha(opaque)
    picture.save(tmp_path / "a.png")
    assert np.array_equal(read_mask(tmp_path / "a.png", SIZE, SHAPE), labels > 0)


def test_a_mask_is_found_by_the_slide_s_name(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("a.geojson", "b/a.png", "e.svs.json"):
        (tmp_path / name).touch()
    assert mask_path(tmp_path, "a.svs") == tmp_path / "a.geojson"
    assert mask_path(tmp_path, "b/a.svs") == tmp_path / "b" / "a.png"
    assert mask_path(tmp_path, "c/a.ndpi") == tmp_path / "a.geojson"
    assert mask_path(tmp_path, "c/e.svs") == tmp_path / "e.svs.json"
    assert mask_path(tmp_path, "c/d.svs") == tmp_path / "c" / "d.png"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.geojson", "{", "no GeoJSON"),
        ("a.geojson", '"text"', "no GeoJSON"),
        ("a.geojson", '{"type": "Feature"}', "no polygon|no GeoJSON"),
        ("a.geojson", "[]", "no polygon"),
        ("a.json", json.dumps([feature(square(0, 0, 9), name="Ignore*")]), "no polygon"),
        ("a.json", json.dumps(feature([["x", 1], [2, 3], [4, 5]])), "no GeoJSON"),
        ("a.png", "no picture", "cannot be read"),
        ("missing.png", None, "missing.png, missing.geojson, missing.json"),
    ],
)
def test_what_cannot_be_a_mask_is_refused(tmp_path: Path, name: str, content: str | None, says: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(SlideError, match=says) as caught:
        read_mask(tmp_path / name, SIZE, SHAPE)
    assert caught.value.remedy


def test_a_picture_of_the_slide_is_no_mask(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 100, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    with pytest.raises(SlideError, match="more than 256 colours"):
        read_mask(tmp_path / "a.png", SIZE, SHAPE)


def test_a_picture_of_another_shape_is_refused(tmp_path: Path) -> None:
    Image.new("L", (100, 100)).save(tmp_path / "a.png")
    with pytest.raises(SlideError, match=r"100 x 100 px.*1000 x 600"):
        read_mask(tmp_path / "a.png", SIZE, SHAPE)
