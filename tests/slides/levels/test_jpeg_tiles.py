"""JPEG tiles read without OpenSlide: the very pixels that OpenSlide shows, and nothing that it would refuse."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from numpy.typing import NDArray

from tests.support.slide_files import Jpeg, encode_tiles, noise, shrink, write_jpeg_slide, write_slide
from wsi_stain.core.errors import SlideError
from wsi_stain.core.geometry import Region, Size
from wsi_stain.slides.levels import own_pixels
from wsi_stain.slides.levels.own_pixels import JpegTiles
from wsi_stain.slides.slide import Slide, SlideConfig
from wsi_stain.slides.slide_file import SlideFile
from wsi_stain.slides.tiff.directories import of_levels, read_directories

pytest.importorskip("simplejpeg")

WIDTH, HEIGHT = 333, 217


def tiles_of(path: Path) -> JpegTiles:
    with openslide.OpenSlide(path) as handle:
        own = of_levels(read_directories(path), [Size(*size) for size in handle.level_dimensions])
        return JpegTiles(path, handle.properties["openslide.vendor"], own)


def by_openslide(path: Path, level: int, region: Region) -> NDArray[np.uint8]:
    """Pixels of a level whose downsample is whole, or of one that is read from its corner."""
    with openslide.OpenSlide(path) as handle:
        factor = handle.level_downsamples[level]
        assert factor.is_integer() or region[:2] == (0, 0)
        at = round(region.x * factor), round(region.y * factor)
        pixels = np.asarray(handle.read_region(at, level, (region.width, region.height)))
    assert (pixels[..., 3] == 255).all()
    return pixels[..., :3]


def paste_tiles(tiles: JpegTiles, level: int, region: Region) -> NDArray[np.uint8]:
    """The region's pixels, none of which may be left to OpenSlide."""
    out = np.zeros((region.height, region.width, 3), np.uint8)
    assert tiles.paste(level, region, out) == []
    return out


VARIANTS = [
    Jpeg((64, 64), "RGB", "444", shared_tables=True, aperio=True),
    Jpeg((64, 64), "RGB", "444"),
    Jpeg((64, 48), "YCBCR", "444", shared_tables=True),
    Jpeg((48, 80), "YCBCR", "422"),
    Jpeg((64, 64), "YCBCR", "420", shared_tables=True),
    Jpeg((240, 240), "YCBCR", "420", aperio=True),
    Jpeg((256, 256), "YCBCR", "420"),
    Jpeg((1024, 1024), "YCBCR", "444"),
]


@pytest.mark.parametrize("bigtiff", [False, True], ids=["tiff", "bigtiff"])
@pytest.mark.parametrize("jpeg", VARIANTS, ids=str)
def test_made_slides_show_what_openslide_shows(tmp_path: Path, jpeg: Jpeg, bigtiff: bool) -> None:
    pixels = noise(WIDTH, HEIGHT)
    path = write_jpeg_slide(tmp_path / "a.tif", [pixels, shrink(pixels, 2)], jpeg, bigtiff=bigtiff)
    tiles = tiles_of(path)
    for region in (Region(0, 0, WIDTH, HEIGHT), Region(130, 61, 101, 90), Region(WIDTH - 1, HEIGHT - 1, 1, 1)):
        assert np.array_equal(paste_tiles(tiles, 0, region), by_openslide(path, 0, region))
    region = Region(0, 0, WIDTH // 2, HEIGHT // 2)
    assert np.array_equal(paste_tiles(tiles, 1, region), by_openslide(path, 1, region))
    assert np.abs(paste_tiles(tiles, 1, region).astype(int) - shrink(pixels, 2)).mean() < 15, (
        "the colours are right, too"
    )
    tiles.close()


@pytest.mark.parametrize("space", ["RGB", "YCBCR"])
def test_markers_within_tiles_do_not_count(tmp_path: Path, space: str) -> None:
    """A JFIF header says YCbCr, and Adobe's marker none, whatever the directory says; OpenSlide believes neither."""
    pixels, jpeg = noise(128, 64), Jpeg((64, 64), space, "444")
    jfif = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
    marked = [
        b"\xff\xd8" + marker + tile[2:] for marker, tile in zip((jfif, adobe), encode_tiles(pixels, jpeg), strict=True)
    ]
    path = write_jpeg_slide(tmp_path / "a.tif", [pixels], jpeg, spoilt={(0, 0): marked[0], (0, 1): marked[1]})
    tiles, region = tiles_of(path), Region(0, 0, 128, 64)
    assert np.array_equal(paste_tiles(tiles, 0, region), by_openslide(path, 0, region))
    assert np.abs(paste_tiles(tiles, 0, region).astype(int) - pixels).mean() < 15
    tiles.close()


def test_levels_of_fractional_downsample_are_exact_everywhere(tmp_path: Path) -> None:
    pixels = noise(2 * 301 + 1, 2 * 150 + 1)
    path = write_jpeg_slide(tmp_path / "a.tif", [pixels, shrink(pixels, 2)], Jpeg())
    whole = by_openslide(path, 1, Region(0, 0, 301, 150))
    with openslide.OpenSlide(path) as slide:
        assert not slide.level_downsamples[1].is_integer()
    with SlideFile(path) as file:
        assert np.array_equal(file.read(1, Region(251, 70, 50, 80)), whole[70:150, 251:301])


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("slides/AT2_gastric_metaplasia.svs", 0),
        ("slides/NanoZoomer_EO1_cropA.svs", 0),
        ("slides/NanoZoomer_EO1_cropA.svs", 1),
        ("formats/CMU-1-Small-Region.svs", 0),
        ("formats/CMU-1-Small-Region.jpeg.tiff", 0),
        ("formats/small.svs", 0),
    ],
)
def test_real_slides_show_what_openslide_shows(real_data: Path, name: str, level: int) -> None:
    path, rng = real_data / name, np.random.default_rng(0)
    tiles = tiles_of(path)
    with openslide.OpenSlide(path) as handle:
        width, height = handle.level_dimensions[level]
    side = min(600, width, height)
    corners = [(int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))) for _ in range(6)]
    for x, y in [*corners, (width - side, height - side)]:
        region = Region(x, y, side, side)
        assert np.array_equal(paste_tiles(tiles, level, region), by_openslide(path, level, region))
    tiles.close()


def test_each_tile_is_decoded_once_and_only_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jpeg_slide(tmp_path / "a.tif", [noise(720, 720)], Jpeg((240, 240)))
    reads: list[int] = []
    pread = os.pread

    def count(file: int, size: int, offset: int) -> bytes:
        reads.append(offset)
        return pread(file, size, offset)

    monkeypatch.setattr(own_pixels.os, "pread", count)
    with SlideFile(path) as file:
        for y in range(0, 512, 256):
            for x in range(0, 512, 256):
                file.read(0, Region(x, y, 256, 256))
    assert len(reads) == len(set(reads)) == 9
    with SlideFile(path) as file:
        reads.clear()
        file.read(0, Region(480, 480, 240, 240))
    assert len(reads) == 1


# What is left to OpenSlide


def damage_jpeg(tile: bytes, seed: int) -> bytes:
    """A JPEG cut short, with some bytes changed, or with a piece of zeros as bad copies have them."""
    rng, kind = np.random.default_rng(seed), seed % 3
    spoilt, at = bytearray(tile), int(rng.integers(2, len(tile)))
    if kind == 0:
        return tile[:at]
    size = 512 if kind == 1 else 1
    spoilt[at : at + size] = bytes(size) if kind == 1 else rng.bytes(1)
    return bytes(spoilt[: len(tile)])


@pytest.mark.parametrize("space", ["RGB", "YCBCR"])
def test_no_damaged_tile_is_shown_that_openslide_refuses_or_shows_otherwise(tmp_path: Path, space: str) -> None:
    jpeg, pixels = Jpeg((64, 64), space, "444"), noise(512, 512)
    spoilt = {(0, number): damage_jpeg(content, number) for number, content in enumerate(encode_tiles(pixels, jpeg))}
    path = write_jpeg_slide(tmp_path / "damaged.tif", [pixels], jpeg, spoilt=spoilt)
    tiles, shown, refused = tiles_of(path), 0, 0
    for number in range(64):
        region, out = Region(number % 8 * 64, number // 8 * 64, 64, 64), np.zeros((64, 64, 3), np.uint8)
        if tiles.paste(0, region, out):
            refused += 1
            continue
        shown += 1
        assert np.array_equal(out, by_openslide(path, 0, region))
    assert shown > 3 and refused > 40
    tiles.close()


def test_a_damaged_tile_is_an_error_and_its_neighbours_are_not(tmp_path: Path) -> None:
    pixels = noise(256, 192)
    path = write_jpeg_slide(tmp_path / "a.tif", [pixels], Jpeg(), spoilt={(0, 5): b"\xff\xd8\xff\xc5bogus"})
    with Slide(path) as slide:
        with pytest.raises(SlideError, match="cannot be read"):
            slide.read(Region(0, 0, 256, 192))
        assert slide.read(Region(128, 0, 128, 192)).std() > 0
        assert slide.read(Region(0, 0, 64, 192)).std() > 0


def test_a_missing_tile_shows_the_background(tmp_path: Path) -> None:
    pixels = noise(256, 192)
    path = write_jpeg_slide(tmp_path / "a.svs", [pixels], Jpeg(aperio=True), spoilt={(0, 5): b""})
    with Slide(path) as slide:
        frame = slide.read(Region(0, 0, 256, 192))
    assert (frame[64:128, 64:128] == 255).all()
    frame[64:128, 64:128] = pixels[64:128, 64:128]
    assert np.abs(frame.astype(int) - pixels).mean() < 20


def test_tiles_beyond_the_end_of_the_file_are_left(tmp_path: Path) -> None:
    path = write_jpeg_slide(tmp_path / "a.tif", [noise(256, 192)], Jpeg())
    tiles = tiles_of(path)
    with tifffile.TiffFile(path) as tiff:
        os.truncate(path, tiff.pages[0].dataoffsets[7] + 100)
    out = np.zeros((192, 256, 3), np.uint8)
    left = tiles.paste(0, Region(0, 0, 256, 192), out)
    assert left == [Region(192, 64, 64, 64), *(Region(x, 128, 64, 64) for x in range(0, 256, 64))]
    assert (out[128:] == 0).all() and (out[:64] > 0).any()
    tiles.close()


def rewritten(path: Path, tag: str, value: Any) -> Path:
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags[tag].overwrite(value)
    return path


@pytest.mark.parametrize(
    "make",
    [
        lambda path: write_slide(path, [noise(256, 192)]),
        lambda path: write_jpeg_slide(path, [noise(256, 192)] * 2, Jpeg()),
        lambda path: write_jpeg_slide(path, [noise(1300, 20)], Jpeg((1280, 1280))),
        lambda path: rewritten(write_jpeg_slide(path, [noise(256, 192)], Jpeg()), "TileByteCounts", [2**31] * 12),
        lambda path: write_jpeg_slide(
            path,
            [noise(256, 192)],
            Jpeg(),
            spoilt={(0, n): encode_tiles(noise(32, 32), Jpeg((32, 32)))[0] for n in range(12)},
        ),
    ],
    ids=["not JPEG", "two directories of one size", "huge tiles", "absurd byte counts", "smaller tiles within"],
)
def test_what_is_unusual_is_left(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path / "a.tif")
    tiles, out = tiles_of(path), np.zeros((20, 250, 3), np.uint8)
    left = tiles.paste(0, Region(0, 0, 250, 20), out)
    assert sum(part.width * part.height for part in left) == 250 * 20
    assert (out == 0).all()
    tiles.close()


def test_other_vendors_are_left(tmp_path: Path) -> None:
    path = write_jpeg_slide(tmp_path / "a.tif", [noise(256, 192)], Jpeg())
    tiles = JpegTiles(path, "ventana", read_directories(path))
    region = Region(3, 4, 10, 10)
    assert tiles.paste(0, region, np.zeros((10, 10, 3), np.uint8)) == [region]
    tiles.close()


def test_thumbnails_and_resampled_reads_go_through_the_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = noise(700, 500)
    path = write_jpeg_slide(tmp_path / "a.tif", [pixels, shrink(pixels, 4)], Jpeg())
    monkeypatch.setattr(openslide.OpenSlide, "read_region", None)
    with Slide(path, SlideConfig(mpp=0.6)) as slide:
        assert slide.thumbnail(1.0).std() > 0
        assert slide.read(Region(10, 10, 100, 100)).std() > 0
