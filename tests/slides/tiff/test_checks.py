"""What a TIFF claims and may not be believed: refused at opening, with both numbers and a way on that works."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from numpy.typing import NDArray

from tests.support.slide_files import TILE, Jpeg, noise, shrink, write_jpeg_slide, write_slide
from wsi_stain.core.errors import SlideError, UnreadableError
from wsi_stain.core.geometry import Region, Size
from wsi_stain.slides.slide import Slide, SlideConfig
from wsi_stain.slides.slide_file import SlideFile
from wsi_stain.slides.tiff.directories import read_directories

WIDTH, HEIGHT = 333, 217
PIXELS = noise(WIDTH, HEIGHT)


def overwrite(path: Path, tag: str, value: Any, page: int = 0) -> Path:
    """Change a tag in the file as it stands."""
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[page].tags[tag].overwrite(value)  # type: ignore[union-attr]
    return path


def set_integer(path: Path, code: int, value: int) -> Path:
    """Change the number of a tag of one 16 or 32 bit value in the first directory of a little-endian TIFF."""
    content = bytearray(path.read_bytes())
    at = struct.unpack_from("<I", content, 4)[0]
    for entry in range(struct.unpack_from("<H", content, at)[0]):
        place = at + 2 + 12 * entry
        if struct.unpack_from("<H", content, place)[0] == code:
            struct.pack_into("<HII", content, place + 2, 4, 1, value)
    path.write_bytes(content)
    return path


def refusal(path: Path) -> SlideError:
    with pytest.raises(SlideError) as caught:
        Slide(path)
    assert str(path) in caught.value.problem and caught.value.remedy
    return caught.value


# ---- orientation


def write_oriented(path: Path, orientation: int, jpeg: bool = False) -> Path:
    """A slide whose pixels are stored so that a reader must mirror or turn them."""
    tags = [(274, "H", 1, orientation, False)]
    if jpeg:
        return write_jpeg_slide(path, [PIXELS], Jpeg((64, 48)), extratags=tags)
    return write_slide(path, [PIXELS, shrink(PIXELS, 4)], extratags=tags)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_pixels_that_are_stored_mirrored_or_turned_are_refused(tmp_path: Path, orientation: int) -> None:
    error = refusal(write_oriented(tmp_path / "a.tif", orientation))
    assert f"Orientation {orientation}, expected 1" in error.problem
    assert "Orientation" in refusal(write_oriented(tmp_path / "b.tif", orientation, jpeg=True)).problem


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_upright_pixels_are_not(tmp_path: Path, orientation: int, capfd: pytest.CaptureFixture[str]) -> None:
    with Slide(write_oriented(tmp_path / "a.tif", orientation)) as slide:
        assert np.array_equal(slide.read(Region(0, 0, WIDTH, HEIGHT)), PIXELS)
    assert capfd.readouterr().err == "", "whatever the parser thinks of it"


def test_the_remedy_for_mirrored_pixels_works(tmp_path: Path) -> None:
    """`vips autorot FILE OUT.tif[tile,pyramid]`, as it is advised."""
    pyvips = pytest.importorskip("pyvips")
    path = write_oriented(tmp_path / "a.tif", 4)
    assert "vips autorot FILE OUT.tif[tile,pyramid]" in refusal(path).remedy
    pyvips.Image.new_from_file(str(path)).autorot().write_to_file(f"{tmp_path}/b.tif[tile,pyramid]")
    with Slide(tmp_path / "b.tif") as slide:
        assert slide.mpp_l0 == pytest.approx((0.25, 0.25), rel=1e-3)
        assert np.array_equal(slide.read(Region(0, 0, WIDTH, HEIGHT)), PIXELS[::-1])


# ---- samples and codings


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("f4", "floating-point samples of 32 bits"),
        ("f2", "floating-point samples of 16 bits"),
        ("u4", "unsigned samples of 32 bits"),
        ("i1", "signed samples of 8 bits"),
    ],
)
def test_samples_that_openslide_cannot_show_are_named(tmp_path: Path, kind: str, says: str) -> None:
    tags: dict[str, Any] = {"resolution": (40000, 40000), "resolutionunit": "CENTIMETER", "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", PIXELS.astype(kind), tile=(TILE, TILE), photometric="rgb", **tags)
    error = refusal(tmp_path / "a.tif")
    assert f"has {says}, expected unsigned ones of 8 bits" in error.problem
    assert "Convert it to 8 bits" in error.remedy and "opy it again" not in error.remedy


def test_a_coding_that_no_reader_knows_is_named_and_no_damage_suspected(tmp_path: Path) -> None:
    path = overwrite(write_slide(tmp_path / "a.tif", [PIXELS]), "Compression", 65_100)
    error = refusal(path)
    assert "tiles of TIFF's Compression 65100" in error.problem
    assert error.remedy.startswith("Convert it to a pyramidal TIFF") and "opy it again" not in error.remedy


def test_a_thumbnail_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    bogus = {(0, number): b"\xff\xd8\xff\xc5bogus" for number in range(20)}
    path = write_jpeg_slide(tmp_path / "a.tif", [PIXELS], Jpeg((64, 48)), spoilt=bogus)
    with Slide(path) as slide, pytest.raises(UnreadableError, match=r"Most of .* cannot be read: .*at level 0"):
        slide.thumbnail(1.0)


# ---- tables


@pytest.mark.parametrize(
    ("code", "value", "says"),
    [
        (256, 200_000, "claims 200000 x 217 px, which take 12500 tiles of 64 x 64 px, but lists 24 tiles"),
        (257, 200_000, "claims 333 x 200000 px, which take 18750 tiles of 64 x 64 px, but lists 24 tiles"),
        (322, 16, "which take 84 tiles of 16 x 64 px, but lists 24 tiles"),
        (322, 2**31, "tiles of 2147483648 x 64 px, expected sides up to 32768"),
        (323, 2**31 - 16, "tiles of 64 x 2147483632 px, expected sides up to 32768"),
    ],
)
def test_more_than_the_table_of_tiles_holds_is_refused_with_both_numbers(
    tmp_path: Path, code: int, value: int, says: str
) -> None:
    path = set_integer(write_slide(tmp_path / "a.tif", [PIXELS]), code, value)
    assert says in refusal(path).problem


def test_a_claim_that_openslide_refuses_too_is_explained(tmp_path: Path) -> None:
    path = set_integer(set_integer(write_slide(tmp_path / "a.tif", [PIXELS]), 256, 200_000), 257, 200_000)
    with pytest.raises(openslide.OpenSlideError, match="Invalid TIFF"):
        openslide.OpenSlide(path)
    assert "claims 200000 x 200000 px, which take 9765625 tiles of 64 x 64 px, but lists 24" in refusal(path).problem


def test_a_slide_that_lies_beyond_the_end_of_its_file_is_refused_with_both_numbers(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.tif", [PIXELS, shrink(PIXELS, 4)])
    directory = read_directories(path)[0]
    end = overwrite(path, "TileOffsets", [int(offset) + 10**9 for offset in directory.offsets]).stat().st_size
    error = refusal(path)
    assert f"but has {end} bytes: 24 of 24 tiles lie beyond its end" in error.problem
    assert str(int((directory.offsets + directory.counts).max()) + 10**9) in error.problem


@pytest.mark.parametrize("aperio", ["AppMag = 40|MPP = 0.25", None], ids=["aperio", "generic"])
def test_a_slide_without_a_single_tile_failed_and_is_not_empty(tmp_path: Path, aperio: str | None) -> None:
    path = write_slide(tmp_path / "a.tif", [PIXELS, shrink(PIXELS, 4)], aperio=aperio)
    overwrite(path, "TileByteCounts", [0] * 24)
    error = refusal(path)
    assert isinstance(error, UnreadableError)
    assert "claims 333 x 217 px, but none of its 24 tiles is there" in error.problem


# ---- several images


def write_images(path: Path, images: Mapping[str, NDArray[np.uint8]], mpp: float = 0.5) -> Path:
    """An OME-TIFF of named images, one after the other."""
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for name, pixels in images.items():
            facts = {"axes": "YXS", "Name": name, "PhysicalSizeX": mpp, "PhysicalSizeY": mpp}
            resolution: Any = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
            tiff.write(pixels, photometric="rgb", tile=(TILE, TILE), metadata=facts, **resolution)
    return path


@pytest.mark.parametrize(
    ("names", "sizes", "slide"),
    [
        (("macro", "slide"), ((166, 108), (333, 217)), 1),
        (("", ""), ((166, 130), (333, 217)), 1),
        (("label", "small slide"), ((333, 217), (150, 90)), 1),
    ],
    ids=["macro first", "no names", "label first"],
)
def test_where_the_first_image_is_not_the_slide_the_one_that_is_is_read(
    tmp_path: Path, names: tuple[str, str], sizes: tuple[tuple[int, int], tuple[int, int]], slide: int
) -> None:
    images = {name or str(number): noise(*size) for number, (name, size) in enumerate(zip(names, sizes, strict=True))}
    with Slide(write_images(tmp_path / "a.ome.tif", images)) as opened:
        assert (opened.reader, opened.size_l0) == ("tifffile", Size(*sizes[slide]))
        assert np.array_equal(opened.read(Region(0, 0, *opened.size)), list(images.values())[slide])


def test_where_several_images_may_be_the_slide_all_are_listed(tmp_path: Path) -> None:
    images = {"scene 1": noise(333, 217), "scene 2": noise(310, 190)}
    error = refusal(write_images(tmp_path / "a.ome.tif", images))
    assert "0 'scene 1' of 333 x 217 px; 1 'scene 2' of 310 x 190 px" in error.problem


def test_an_image_in_strips_before_the_slide_does_not_hide_it(tmp_path: Path) -> None:
    """OpenSlide refuses such a file without a reason."""
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(noise(90, 70), photometric="rgb", metadata=None)
        tiff.write(PIXELS, photometric="rgb", tile=(TILE, TILE), metadata=None)
    with SlideFile(tmp_path / "a.tif") as file:
        assert np.array_equal(file.read(0, Region(0, 0, WIDTH, HEIGHT)), PIXELS)


def test_small_images_beside_the_slide_are_remarked_on(tmp_path: Path) -> None:
    path = write_images(tmp_path / "a.ome.tif", {"slide": PIXELS, "macro": noise(300, 217), "label": noise(90, 100)})
    with Slide(path) as slide:
        assert slide.size_l0 == Size(WIDTH, HEIGHT)
        (remark,) = slide.remarks
    assert remark == (
        "the first of 3 images in the file is read; the others are 1 'macro' of 300 x 217 px, 2 'label' of 90 x 100 px"
    )


def test_channels_of_their_own_are_no_slide(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for channel in range(3):
            tiff.write(np.ascontiguousarray(PIXELS[..., channel]), tile=(TILE, TILE), metadata=None)
    assert "has separate channels" in refusal(tmp_path / "a.tif").problem


def test_levels_that_are_not_marked_as_such_are_no_other_images(tmp_path: Path) -> None:
    path = overwrite(write_slide(tmp_path / "a.tif", [PIXELS, shrink(PIXELS, 2)]), "NewSubfileType", 0, page=1)
    with Slide(path) as slide:
        assert (slide.level_count, slide.remarks) == (1, ())


# ---- colour profiles


def test_an_icc_profile_that_is_none_is_told_or_refused(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.tif", [PIXELS], iccprofile=np.random.default_rng(0).bytes(200))
    with Slide(path) as slide:
        assert slide.icc_profile is None and np.array_equal(slide.read(Region(0, 0, WIDTH, HEIGHT)), PIXELS)
        assert [remark for remark in slide.remarks if "ICC profile cannot be used" in remark]
    with pytest.raises(SlideError, match="unusable ICC profile") as caught:
        Slide(path, SlideConfig(icc="srgb"))
    assert "icc to keep" in caught.value.remedy
    with SlideFile(path) as file:
        assert file.icc_profile is None
