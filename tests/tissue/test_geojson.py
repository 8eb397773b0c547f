"""GeoJSON of a slide: the same areas, valid, in the pixels asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw
from scipy.ndimage import binary_dilation

from wsi_stain.core.arrays import Mask
from wsi_stain.core.geometry import Size
from wsi_stain.slides.listing.user_masks import read_mask
from wsi_stain.tissue.exempt import AS_GLASS, AS_SCANNED
from wsi_stain.tissue.geojson import CHANGE, COLOURS, PixelFrame, SlideAreas, outline_mask, slide_geojson

SIZE = Size(1100, 700)  # 5 x 3 tiles, the far ones cut


def draw(polygons: Any, shape: tuple[int, int]) -> Mask:
    """Fill polygons at four times a mask's resolution and look at its pixels' centres."""
    canvas = Image.new("1", (4 * shape[1], 4 * shape[0]))
    for rings in polygons:
        own = Image.new("1", canvas.size)
        for number, ring in enumerate(rings):
            ImageDraw.Draw(own).polygon([(4 * x, 4 * y) for x, y in ring], fill=int(number == 0))
        canvas.paste(1, mask=own)
    return np.asarray(canvas)[2::4, 2::4]


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 11))))
def test_outlines_hold_the_mask_and_nothing_else(mask: Mask) -> None:
    size = Size(mask.shape[1], mask.shape[0])
    polygons = list(outline_mask(mask, size, PixelFrame()))
    assert np.array_equal(draw(polygons, (mask.shape[0], mask.shape[1])), mask)
    for rings in polygons:
        for number, ring in enumerate(rings):
            assert ring[0] == ring[-1] and len(ring) >= 4
            assert len(set(ring)) == len(ring) - 1, "a ring does not touch itself"
            x, y = np.array(ring).T
            area = (x[:-1] * y[1:] - x[1:] * y[:-1]).sum()
            assert (area > 0) == (number == 0), "outer rings counterclockwise, holes clockwise: RFC 7946"


@pytest.fixture
def areas() -> SlideAreas:
    mask, exempt = np.zeros((70, 110), bool), np.zeros((70, 110), np.uint8)
    mask[10:40, 20:60] = True
    mask[20:30, 30:40] = False
    exempt[50:60, 70:100], exempt[:, :5] = AS_SCANNED, AS_GLASS
    suspect, holes, change = np.zeros((3, 5), bool), np.zeros((3, 5), bool), np.zeros((3, 5))
    suspect[2, 4], holes[0, 1], change[1, 1], change[1, 2] = True, True, 6.25, 4.9
    return SlideAreas(SIZE, mask, exempt, suspect, holes, change)


def test_every_class_has_the_properties_that_qupath_reads(areas: SlideAreas) -> None:
    found = json.loads(json.dumps(slide_geojson(areas, PixelFrame(), bound=5.0)))
    assert found["type"] == "FeatureCollection"
    kinds = {}
    for feature in found["features"]:
        named = feature["properties"]["classification"]
        assert tuple(named["color"]) == COLOURS[named["name"]]
        kinds[named["name"]] = feature
    assert list(kinds) == ["Tissue", "Ink*", "Dark*", "Missed tissue*", "Hole", "Hallucination"]
    assert len(kinds["Tissue"]["geometry"]["coordinates"]) == 2, "the hole within the tissue"
    assert kinds["Ink*"]["properties"]["objectType"] == "annotation"
    assert kinds["Missed tissue*"]["geometry"]["coordinates"] == [
        [[1024, 512], [1100, 512], [1100, 700], [1024, 700], [1024, 512]]
    ]
    assert kinds["Hallucination"]["properties"]["measurements"] == {CHANGE: 6.25}
    assert kinds["Hallucination"]["properties"]["objectType"] == "detection"


def test_coordinates_are_those_of_the_frame_asked_for(areas: SlideAreas) -> None:
    moved = slide_geojson(areas, PixelFrame((2.0, 4.0), (100.0, 200.0)), bound=5.0)
    (hole,) = [each for each in moved["features"] if each["properties"]["classification"]["name"] == "Hole"]
    assert hole["geometry"]["coordinates"][0][0] == (2 * 256 - 100, -200)


def test_what_was_written_is_a_mask_of_the_same_tissue(areas: SlideAreas, tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(slide_geojson(areas, PixelFrame(), bound=5.0)))
    back = read_mask(path, SIZE, (70, 110))
    rim = binary_dilation(areas.mask) & binary_dilation(~areas.mask)
    assert np.array_equal(back[~rim], areas.mask[~rim]), "but for pixels that an outline touches"
