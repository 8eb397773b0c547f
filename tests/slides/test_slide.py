"""Slides in their working frame: known pixels in small files, and the real slides where they are."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
from numpy.typing import NDArray
from PIL import ImageCms

from tests.support.slide_files import noise, shrink, write_slide
from wsi_stain.core.errors import MppError, SlideError
from wsi_stain.core.geometry import Mpp, Region, Size
from wsi_stain.core.icc import srgb_profile
from wsi_stain.slides.readers.openslide_reader import OpenSlideReader
from wsi_stain.slides.slide import Slide, SlideConfig

WIDTH, HEIGHT = 333, 217


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    return noise(WIDTH, HEIGHT)


@pytest.fixture
def pyramid(tmp_path: Path, pixels: NDArray[np.uint8]) -> Path:
    """Odd and not square; levels 2 and 4 times smaller, the odd rest dropped, so their downsamples are fractional."""
    return write_slide(tmp_path / "pyramid.tif", [pixels, shrink(pixels, 2), shrink(pixels, 4)])


def whole(slide: Slide) -> NDArray[np.uint8]:
    return slide.read(Region(0, 0, *slide.size))


def test_native_pixels_and_geometry_are_the_files_own(pyramid: Path, pixels: NDArray[np.uint8]) -> None:
    with Slide(pyramid) as slide:
        assert np.array_equal(whole(slide), pixels)
        assert slide.size == slide.size_l0 == Size(WIDTH, HEIGHT)
        assert slide.mpp == slide.mpp_l0 == Mpp(0.25, 0.25)
        assert (slide.mpp_origin, slide.vendor, slide.level_count) == ("openslide", "generic-tiff", 3)
        assert slide.bounds == Region(0, 0, WIDTH, HEIGHT)


@pytest.mark.parametrize(
    "region",
    [
        Region(-5, -7, 20, 30),
        Region(300, 200, 64, 64),
        Region(-10, 50, WIDTH + 20, 3),
        Region(WIDTH, 0, 5, 5),
        Region(40, 30, 0, 8),
    ],
    ids=["before", "far corner", "wider", "outside", "empty"],
)
def test_outside_the_slide_is_white(pyramid: Path, pixels: NDArray[np.uint8], region: Region) -> None:
    padded = np.full((HEIGHT + 200, WIDTH + 200, 3), 255, np.uint8)
    padded[100 : 100 + HEIGHT, 100 : 100 + WIDTH] = pixels
    expected = padded[100 + region.y :, 100 + region.x :][: region.height, : region.width]
    with Slide(pyramid) as slide:
        assert np.array_equal(slide.read(region), expected)


def test_jpeg_tiles_are_read_as_rgb(tmp_path: Path) -> None:
    flat = np.full((130, 201, 3), (180, 90, 150), np.uint8)
    path = write_slide(tmp_path / "jpeg.tif", [flat], compression="jpeg", compressionargs={"level": 95})
    with Slide(path) as slide:
        assert np.abs(whole(slide).astype(int) - flat).max() <= 3


def test_a_whole_factor_is_the_plain_mean_whatever_the_level(pyramid: Path, pixels: NDArray[np.uint8]) -> None:
    with Slide(pyramid, SlideConfig(mpp=0.75)) as slide:
        assert slide.size == Size(111, 73) and slide.mpp == Mpp(0.75, 0.75)
        # Read from the level at 0.5, whose pixels straddle those at 0.75: noise remains, structure agrees.
        assert np.abs(whole(slide)[:72].astype(int) - shrink(pixels, 3)).mean() < 5
    with Slide(write_slide(pyramid.with_name("flat.tif"), [pixels]), SlideConfig(mpp=0.75)) as slide:
        assert np.array_equal(whole(slide)[:72], shrink(pixels, 3))


@pytest.mark.parametrize("mpp", [0.4, 0.5, 0.66, 1.0, 1.37, 2.0])
def test_a_region_equals_the_cut_from_the_whole_at_any_resolution(pyramid: Path, mpp: float) -> None:
    with Slide(pyramid, SlideConfig(mpp=mpp)) as slide:
        frame = whole(slide)
        for region in (Region(7, 11, 20, 9), Region(1, 0, 13, 25), Region(slide.size.width - 9, 3, 9, 17)):
            cut = frame[region.y : region.y + region.height, region.x : region.x + region.width]
            assert np.array_equal(slide.read(region), cut)


def test_a_fractional_level_of_many_cells_gives_the_same_pixels_from_any_block(tmp_path: Path) -> None:
    pixels = noise(2 * 1201 + 1, 2 * 600 + 1)
    path = write_slide(tmp_path / "wide.tif", [pixels, shrink(pixels, 2)])
    with Slide(path, SlideConfig(mpp=0.5)) as slide:
        frame = whole(slide)
        assert np.array_equal(slide.read(Region(509, 403, 600, 190)), frame[403:593, 509:1109])


def test_levels_of_a_whole_factor_are_not_stretched_to_the_ratio_of_sizes(tmp_path: Path) -> None:
    """A line at the far edge stays at its place: the ratio 2403/1201 would move it by half a level pixel."""
    pixels = np.full((131, 2403, 3), 255, np.uint8)
    pixels[:, 2396:2398] = 0
    path = write_slide(tmp_path / "line.tif", [pixels, shrink(pixels, 2)])
    with Slide(path, SlideConfig(mpp=0.5)) as slide:
        dark = 255.0 - slide.read(Region(1180, 10, 22, 1))[0, :, 0]
        assert 1180 + float((np.arange(22) * dark).sum() / dark.sum()) == pytest.approx(1198, abs=0.26)


@pytest.mark.parametrize(("mpp", "resampled"), [(0.252, False), (0.2475, False), (0.26, True)])
def test_within_one_percent_nothing_is_resampled(
    pyramid: Path, pixels: NDArray[np.uint8], mpp: float, resampled: bool
) -> None:
    with Slide(pyramid, SlideConfig(mpp=mpp)) as slide:
        assert (slide.mpp != slide.mpp_l0) == resampled
        assert (slide.size != slide.size_l0) == resampled


def test_anisotropic_slides_keep_two_numbers_or_become_square(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    path = write_slide(tmp_path / "aniso.tif", [pixels], mpp=(0.25, 0.5))
    with Slide(path) as slide:
        assert slide.mpp == pytest.approx((0.25, 0.5))
    with Slide(path, SlideConfig(mpp=0.5)) as slide:
        assert slide.size == Size(167, HEIGHT) and slide.mpp == (0.5, 0.5)


def test_upsampling_needs_leave(pyramid: Path, pixels: NDArray[np.uint8]) -> None:
    with pytest.raises(SlideError, match="allow_upsample"):
        Slide(pyramid, SlideConfig(mpp=0.125))
    with Slide(pyramid, SlideConfig(mpp=0.125, allow_upsample=True)) as slide:
        frame = whole(slide)
        assert frame.shape == (2 * HEIGHT, 2 * WIDTH, 3)
        assert np.array_equal(slide.read(Region(31, 17, 40, 50)), frame[17:67, 31:71])
        assert np.abs(shrink(frame, 2).astype(int) - pixels).mean() < 8


@pytest.mark.parametrize(("mpp", "shape"), [(8.0, (7, 10)), (1.0, (54, 83)), (0.01, (HEIGHT, WIDTH)), (1e6, (1, 1))])
def test_thumbnails_cover_the_whole_frame(
    pyramid: Path, pixels: NDArray[np.uint8], mpp: float, shape: tuple[int, int]
) -> None:
    with Slide(pyramid) as slide:
        thumbnail = slide.thumbnail(mpp)
    assert thumbnail.shape[:2] == shape
    assert np.abs(thumbnail.mean(axis=(0, 1)) - pixels.mean(axis=(0, 1))).max() < 1.5


def test_what_was_not_scanned_shows_the_background(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    path = write_slide(tmp_path / "holes.svs", [pixels], mpp=None, aperio="AppMag = 40|MPP = 0.25", holes=[3])
    with Slide(path) as slide:
        frame = whole(slide)
        assert (frame[:64, 192:256] == 255).all()
        frame[:64, 192:256] = pixels[:64, 192:256]
        assert np.array_equal(frame, pixels)
        slide._file._reader._background = (10, 20, 30)
        assert (slide.read(Region(192, 0, 64, 64)) == (10, 20, 30)).all()
        assert slide.objective_power == 40.0


def test_bounds_are_in_the_working_frame_and_rounded_out(pyramid: Path) -> None:
    with Slide(pyramid, SlideConfig(mpp=0.5)) as slide:
        sides = {"x": "31", "y": "20", "width": "101", "height": "9000"}
        slide._file.properties |= {f"openslide.bounds-{name}": value for name, value in sides.items()}
        assert slide.bounds == Region(15, 10, 51, 99)


def fail_at_first(times: int) -> Callable[..., Any]:
    """OpenSlide's read_region, failing at first."""
    original, left = openslide.OpenSlide.read_region, [times]

    def read_region(*arguments: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise openslide.OpenSlideError("bad tile")
        return original(*arguments)

    return read_region


def test_a_dead_handle_is_reopened_once(
    pyramid: Path, pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Slide(pyramid) as slide:
        monkeypatch.setattr(openslide.OpenSlide, "read_region", fail_at_first(1))
        assert np.array_equal(whole(slide), pixels)
        monkeypatch.setattr(openslide.OpenSlide, "read_region", fail_at_first(2))
        with pytest.raises(SlideError, match="bad tile") as caught:
            whole(slide)
        assert caught.value.remedy
        assert np.array_equal(whole(slide), pixels), "the slide stays usable after a failure"


def swapped_srgb() -> bytes:
    """An RGB profile in which red means blue."""
    profile = srgb_profile().replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ")
    return profile.replace(b"????", b"bXYZ")


def test_icc_keep_returns_pixels_as_they_are_and_srgb_converts(tmp_path: Path) -> None:
    pixels = np.full((70, 90, 3), (200, 120, 60), np.uint8)
    path = write_slide(tmp_path / "icc.tif", [pixels], iccprofile=swapped_srgb())
    with Slide(path) as slide:
        assert slide.icc_profile == swapped_srgb() and np.array_equal(whole(slide), pixels)
    with Slide(path, SlideConfig(icc="srgb")) as slide:
        assert slide.icc_profile == srgb_profile()
        assert np.abs(whole(slide).astype(int) - (60, 120, 200)).max() <= 2


def test_icc_srgb_leaves_slides_without_a_profile_and_refuses_a_broken_one(
    pyramid: Path, pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Slide(pyramid) as slide:
        assert slide.icc_profile is None
    with Slide(pyramid, SlideConfig(icc="srgb")) as slide:
        assert np.array_equal(whole(slide), pixels)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    monkeypatch.setattr(openslide.OpenSlide, "color_profile", lab)
    with pytest.raises(SlideError, match="ICC"):
        Slide(pyramid, SlideConfig(icc="srgb"))


def test_the_srgb_profile_is_the_same_bytes_every_time() -> None:
    code = "import sys; from wsi_stain.core.icc import srgb_profile; sys.stdout.buffer.write(srgb_profile())"
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout
    assert other == srgb_profile()


def test_fingerprints_follow_content_not_names_or_times(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    path = write_slide(tmp_path / "a.tif", [pixels])
    with Slide(path) as slide:
        first = slide.fingerprint()
    renamed = path.rename(tmp_path / "b.tif")
    with Slide(renamed) as slide:
        assert slide.fingerprint() == first
    content = bytearray(renamed.read_bytes())
    content[-1] ^= 1
    renamed.write_bytes(content)
    with Slide(renamed) as slide:
        second = slide.fingerprint()
    assert second["size"] == first["size"] == len(content) and second["digest"] != first["digest"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "cannot be opened"),
        (lambda path: path.mkdir(), "cannot be opened"),
        (lambda path: path.write_bytes(b"not a slide"), "not a slide"),
        (lambda path: path.write_bytes(b""), "not a slide"),
    ],
    ids=["missing", "directory", "rubbish", "empty"],
)
def test_what_does_not_open_is_a_slide_error_with_a_remedy(
    tmp_path: Path, make: Callable[[Path], Any], message: str
) -> None:
    path = tmp_path / "x.svs"
    make(path)
    with pytest.raises(SlideError, match=message) as caught:
        Slide(path)
    assert caught.value.remedy and str(path) in caught.value.problem


def test_no_permission_is_a_slide_error(pyramid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(SlideError, match="Permission denied"):
        Slide(pyramid)


def test_absurd_dimensions_are_refused_before_anything_is_allocated(
    pyramid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Slide(pyramid) as slide, pytest.raises(SlideError, match="at once"):
        slide.read(Region(0, 0, 10**6, 10**6))
    monkeypatch.setattr(openslide.OpenSlide, "level_dimensions", ((2**31, 5),))
    with pytest.raises(SlideError, match="expected sides"):
        OpenSlideReader(pyramid)


def test_a_failed_opening_releases_the_file(pyramid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []
    monkeypatch.setattr(openslide.OpenSlide, "close", lambda self: closed.append(True))
    with pytest.raises(MppError):
        Slide(pyramid, SlideConfig(slide_mpp=40))
    assert closed == [True]


def test_memory_stays_flat_for_a_block_at_factor_two(tmp_path: Path) -> None:
    """The 8192 x 8192 px behind a block of 4096 would be 201 MB; numpy's allocations peak well below."""
    path = write_slide(tmp_path / "large.tif", [np.tile(noise(512, 512), (17, 17, 1))], compression="jpeg")
    with Slide(path, SlideConfig(mpp=0.5)) as slide:
        tracemalloc.start()
        slide.read(Region(64, 64, 4096, 4096))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 130 * 2**20


@pytest.mark.parametrize(
    ("name", "slide_mpp", "error", "message"),
    [
        ("CMU-1-Small-Region.jpeg.tiff", None, MppError, "0.00499"),
        ("boxes.tiff", None, MppError, "352.8"),
        ("TCGA-CR-7395-01A-01-TS1.svs", None, MppError, "does not say"),
        ("broken.svs", None, SlideError, "not a slide"),
        ("unreadable.svs", None, SlideError, "cannot be read"),
        ("CMU-1-Small-Region.webp.tiff", None, MppError, "0.00499"),
    ],
)
def test_real_files_that_cannot_be_used(
    real_data: Path, name: str, slide_mpp: float | None, error: type[Exception], message: str
) -> None:
    path = real_data / "formats" / name
    path = sorted(path.glob("*.dcm"))[0] if path.is_dir() else path
    with pytest.raises(error, match=message), Slide(path, SlideConfig(slide_mpp=slide_mpp)) as slide:
        slide.thumbnail(8.0)


@pytest.mark.parametrize(
    ("name", "slide_mpp", "vendor", "mpp", "power", "icc"),
    [
        ("slides/AT2_gastric_metaplasia.svs", None, "aperio", 0.2528, 40, False),
        ("slides/NanoZoomer_EO1_cropA.svs", None, "aperio", 0.4406, 20, False),
        ("formats/CMU-1-Small-Region.svs", None, "aperio", 0.499, 20, False),
        ("formats/TCGA-CR-7395-01A-01-TS1.svs", 0.25, "aperio", 0.25, None, True),
        ("formats/test3-TRITC_560.ndpi", None, "hamamatsu", 0.2282, 40, False),
        ("formats/boxes_dicom/boxes_0.dcm", None, "dicom", 0.499, 20, True),
        ("formats/CMU-1-Small-Region.jpeg.tiff", 0.499, "generic-tiff", 0.499, None, False),
        ("formats/CMU-1-Small-Region.webp.tiff", 0.499, "tiff", 0.499, None, False),
    ],
)
def test_real_slides_open(
    real_data: Path,
    name: str,
    slide_mpp: float | None,
    vendor: str,
    mpp: float,
    power: float | None,
    icc: bool,
) -> None:
    with Slide(real_data / name, SlideConfig(slide_mpp=slide_mpp)) as slide:
        assert (slide.vendor, slide.objective_power, slide.icc_profile is not None) == (vendor, power, icc)
        assert slide.mpp.mean == pytest.approx(mpp, rel=1e-3)
        assert slide.thumbnail(8.0).std() > 0


def test_a_real_level_of_fractional_downsample_is_read_in_place(real_data: Path) -> None:
    """A frame at the scale of level 1, against that level decoded in one piece, which OpenSlide does exactly."""
    path = real_data / "slides" / "AT2_gastric_metaplasia.svs"
    x, y, side = 600, 1700, 300
    with openslide.OpenSlide(path) as handle:
        level = np.asarray(handle.read_region((0, 0), 1, (x + side + 1, y + side + 1)).convert("RGB")).astype(int)
    with Slide(path, SlideConfig(mpp=4 * 0.2528)) as slide:
        given = slide.read(Region(x, y, side, side))
    difference = {
        (dx, dy): float(np.abs(given - level[y + dy :, x + dx :][:side, :side]).mean())
        for dx in (-1, 0, 1)
        for dy in (-1, 0, 1)
    }
    assert difference[0, 0] < 4
    assert sorted(difference.values())[1] > 4 * difference[0, 0]
