"""Odd slides are refused in words, or read as if nothing were wrong: one tag of a TIFF's first directory, a name."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import tifffile

from tests.support.slide_files import noise, shrink, write_slide
from wsi_stain.core.errors import SlideError
from wsi_stain.core.geometry import Region
from wsi_stain.slides.slide import Slide

PIXELS = noise(300, 200)
TAGS = ("ImageWidth", "ImageLength", "BitsPerSample", "Compression", "PhotometricInterpretation", "SamplesPerPixel")
TILED = ("TileWidth", "TileLength", "TileOffsets", "TileByteCounts")
ODD = {"type": (2, (2, 5, 99)), "count": (4, (0, 2, 2**31)), "value": (8, (0, 1, 2**16 - 1))}
"""Where each stands in a directory's entry, and what it is made."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("odd") / "whole.tif", [PIXELS, shrink(PIXELS, 4)])


@pytest.mark.parametrize("field", ODD)
@pytest.mark.parametrize("name", [*TAGS, *TILED])
def test_an_odd_tag_is_refused_or_does_not_matter(whole: Path, name: str, field: str, tmp_path: Path) -> None:
    with tifffile.TiffFile(whole) as tiff:
        entry = tiff.pages.first.tags[name].offset
    at, values = ODD[field]
    for value in values:
        content = bytearray(whole.read_bytes())
        struct.pack_into("<H" if field == "type" else "<I", content, entry + at, value)
        (tmp_path / "odd.tif").write_bytes(content)
        try:
            with Slide(tmp_path / "odd.tif") as slide:
                slide.read(Region(0, 0, *slide.size))
        except SlideError as refusal:
            assert refusal.remedy


def test_a_name_too_long_for_the_file_system_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="File name too long"):
        Slide(tmp_path / f"{'x' * 300}.svs")
