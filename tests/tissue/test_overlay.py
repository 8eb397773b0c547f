"""The picture of what was decided on a slide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsi_stain.core.geometry import Size, grid_shape
from wsi_stain.tissue.exempt import AS_GLASS, AS_SCANNED
from wsi_stain.tissue.overlay import draw_overlay

GREEN, BLUE, ORANGE, YELLOW = (0, 158, 115), (86, 180, 233), (213, 94, 0), (240, 228, 66)
PINK = (204, 121, 167)


@pytest.mark.parametrize("shape", [(90, 131), (1500, 1100), (4200, 300)], ids=str)
def test_every_mark_is_drawn_in_its_place(tmp_path: Path, shape: tuple[int, int]) -> None:
    height, width = shape
    size = Size(width * 16, height * 16)
    rows, cols = -(-size.height // 256), -(-size.width // 256)
    y, x = np.mgrid[:height, :width]
    mask = ((y / height - 0.5) ** 2 + (x / width - 0.5) ** 2) < 0.05
    exempt = np.zeros(shape, np.uint8)
    exempt[int(0.9 * height) :, : int(0.2 * width)] = AS_SCANNED
    exempt[int(0.9 * height) :, int(0.4 * width) : int(0.6 * width)] = AS_GLASS
    kept, suspect = np.zeros((rows, cols), bool), np.zeros((rows, cols), bool)
    kept[rows // 3 : -(rows // 3), cols // 3 : -(cols // 3)] = True
    suspect[-1, -1] = True
    path = tmp_path / "overlay.png"
    draw_overlay(path, np.full((*shape, 3), 200, np.uint8), mask, exempt, kept, suspect, size)
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    assert 1000 <= max(pixels.shape[:2]) <= 3000
    places = {
        colour: np.argwhere((pixels == colour).all(axis=2)) / pixels.shape[:2]
        for colour in (GREEN, BLUE, ORANGE, YELLOW, PINK)
    }
    assert all(len(found) for found in places.values())
    places = {
        colour: found[~((found * pixels.shape[:2] < 130).all(axis=1))] for colour, found in places.items()
    }  # no legend
    outline = places[GREEN]
    assert np.abs(np.hypot(*(outline - 0.5).T) - 0.05**0.5).max() < 0.05
    assert places[ORANGE].min() > 0.5
    assert places[YELLOW][:, 0].max() > 0.9 and places[YELLOW][:, 1].max() < 0.3
    assert places[PINK][:, 0].max() > 0.9 and places[PINK][:, 1].min() > 0.3


@pytest.mark.parametrize("size", [Size(2049, 1537), Size(513, 9001), Size(257, 1), Size(8193, 4097)], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (37, 49), (600, 801)], ids=str)
def test_a_last_row_and_column_of_one_pixel_is_drawn(tmp_path: Path, size: Size, shape: tuple[int, int]) -> None:
    """What rounds to no pixel of the picture becomes one at its edge."""
    last = np.zeros(grid_shape(size), bool)
    last[-1, -1] = True
    none, every = np.zeros_like(last), np.ones_like(last)
    blank, no_tissue = np.full((*shape, 3), 200, np.uint8), np.zeros(shape, bool)
    for kept, suspect in ((last, none), (none, last), (every, last)):
        draw_overlay(tmp_path / "overlay.png", blank, no_tissue, no_tissue.astype(np.uint8), kept, suspect, size)
    with Image.open(tmp_path / "overlay.png") as picture:
        pixels = np.asarray(picture)
    assert (pixels[-1, -1] == ORANGE).all()
