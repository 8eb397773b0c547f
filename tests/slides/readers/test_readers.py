"""Readers beside OpenSlide: the pixels that were written, all levels, the resolution, and OpenSlide's own pixels."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray

from tests.pyramid.test_dicom import make_task
from tests.support.made_store import paint_tissue, store_slide
from tests.support.other_slides import to_jpeg2000, write_ome_tiff, write_ome_zarr, write_qptiff
from tests.support.s3_server import s3_endpoint, upload
from tests.support.slide_files import Jpeg, noise, shrink, write_jpeg_slide
from wsi_stain.core.errors import MppError, SlideError
from wsi_stain.core.geometry import Mpp, Region, Size
from wsi_stain.pyramid.dicom import write_dicom
from wsi_stain.slides.readers.base import SlideReader
from wsi_stain.slides.readers.choose import open_reader
from wsi_stain.slides.readers.dicom_reader import DicomReader
from wsi_stain.slides.readers.fastslide_reader import FastSlideReader
from wsi_stain.slides.readers.openslide_reader import OpenSlideReader
from wsi_stain.slides.readers.tiff_reader import TiffReader
from wsi_stain.slides.slide import Slide, SlideConfig

Pixels = NDArray[np.uint8]

# zarr-python warns of what Zarr 3 does not specify; wsidicom of its own past.
pytestmark = [
    pytest.mark.filterwarnings("ignore:get_frame_offsets is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning"),
]

PIXELS = noise(901, 603)
LEVELS = [PIXELS, shrink(PIXELS, 2), shrink(PIXELS, 4)]
REVERSIBLE = {"webp": {"lossless": True}, "jpegxl": {"lossless": True}, "jpeg2000": {"level": 0, "reversible": True}}
CODINGS = [None, "zlib", "lzw", "zstd", *REVERSIBLE]


def whole(reader: SlideReader, level: int = 0) -> Pixels:
    return reader.read(level, Region(0, 0, *reader.sizes[level]))


def assert_shows_levels(path: Any, library: str, origin: str) -> None:
    """Check the pixels of all levels, whole and of a window across tiles, and the resolution."""
    reader = open_reader(path)
    try:
        assert reader.name == library and list(reader.sizes) == [Size(p.shape[1], p.shape[0]) for p in LEVELS]
        for level, expected in enumerate(LEVELS):
            np.testing.assert_array_equal(whole(reader, level), expected)
        np.testing.assert_array_equal(reader.read(0, Region(101, 203, 333, 77)), PIXELS[203:280, 101:434])
    finally:
        reader.close()
    with Slide(path) as slide:
        assert (slide.mpp_l0, slide.mpp_origin, slide.reader) == (Mpp(0.5, 0.5), origin, library)
        assert slide.level_count == 3 and slide.fingerprint() == slide.fingerprint()


@pytest.mark.parametrize("coding", CODINGS)
def test_an_ome_tiff_with_its_levels_in_subifds(coding: str | None, tmp_path: Path) -> None:
    options = {"compression": coding, "compressionargs": REVERSIBLE.get(str(coding))}
    assert_shows_levels(write_ome_tiff(tmp_path / "a.ome.tif", LEVELS, **options), "tifffile", "ome-xml")


def test_an_ome_tiff_of_separate_planes_and_one_with_a_label_before_the_slide(tmp_path: Path) -> None:
    assert_shows_levels(write_ome_tiff(tmp_path / "a.ome.tif", LEVELS, planarconfig="separate"), "tifffile", "ome-xml")
    labelled = write_ome_tiff(tmp_path / "b.ome.tif", LEVELS, label=noise(300, 200, seed=1))
    assert_shows_levels(labelled, "tifffile", "ome-xml")


def test_plain_tiffs_that_openslide_refuses(tmp_path: Path) -> None:
    size = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER", "metadata": None}
    alpha = np.full((*PIXELS.shape[:2], 1), 255, np.uint8)
    alpha[:100] = 0
    tifffile.imwrite(tmp_path / "strips.tif", PIXELS, photometric="rgb", rowsperstrip=50, compression="lzw", **size)
    rgba = {"photometric": "rgb", "extrasamples": ["unassalpha"], "tile": (128, 128)}
    rgba |= {"compression": "jpegxl", "compressionargs": {"lossless": True}}
    tifffile.imwrite(tmp_path / "rgba.tif", np.concatenate([PIXELS, alpha], axis=2), **rgba, **size)
    for name in ("strips", "rgba"):
        with Slide(tmp_path / f"{name}.tif") as slide:
            assert (slide.reader, slide.mpp_origin, slide.mpp_l0) == ("tifffile", "tiff tags", Mpp(0.5, 0.5))
            np.testing.assert_array_equal(slide.read(Region(0, 100, 901, 503)), PIXELS[100:])
            white = name == "rgba"
            assert (slide.read(Region(0, 0, 901, 100)) == 255).all() == white


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_in_a_directory_and_on_s3(version: str, tmp_path: Path) -> None:
    folder = write_ome_zarr(tmp_path / "a.ome.zarr", LEVELS, version=version)
    assert_shows_levels(folder, "zarr", "ngff")
    with s3_endpoint():
        assert_shows_levels(Slide(upload(folder, f"slides/{version}.ome.zarr")).path, "zarr", "ngff")


def test_of_several_images_in_a_zarr_the_largest_is_the_slide(tmp_path: Path) -> None:
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    for name, levels in (("0", [noise(300, 200)]), ("1", LEVELS), ("2", [noise(500, 200)])):
        write_ome_zarr(tmp_path / "a.zarr" / name, levels, version="0.4")
    assert_shows_levels(tmp_path / "a.zarr", "zarr", "ngff")


def test_a_slide_of_a_tile_store(tmp_path: Path) -> None:
    pixels = paint_tissue(Size(600, 400))
    stored = store_slide(tmp_path / "tiles.zarr", "a", pixels, mpp=0.25)
    with Slide(tmp_path / "tiles.zarr" / "a") as slide:
        assert (slide.reader, slide.mpp_l0) == ("zarr", stored.mpp)
        np.testing.assert_array_equal(slide.read(Region(0, 0, 600, 400)), pixels)


def test_dicom_by_both_readers_and_jpeg_2000_by_the_other(tmp_path: Path) -> None:
    """The very frames, in JPEG as this project writes them and in JPEG 2000."""
    task = make_task(tmp_path)
    write_dicom(task)
    path = max(task.output.glob("*.dcm"), key=lambda file: file.stat().st_size)
    oracle, other = OpenSlideReader(path), DicomReader(path)
    assert list(oracle.sizes) == list(other.sizes) and other.claims.mpp == oracle.claims.mpp
    np.testing.assert_array_equal(whole(other), whole(oracle))  # coarser levels OpenSlide blends at their far edge
    expected = [whole(other, level) for level in range(len(other.sizes))]
    to_jpeg2000(task.output)
    again = DicomReader(path)
    for level, pixels in enumerate(expected):
        np.testing.assert_array_equal(whole(again, level), pixels)
    for reader in (oracle, other, again):
        reader.close()


def test_a_real_dicom_slide_that_openslide_refuses(real_data: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(real_data / "formats" / "dicom_wsic_jpeg", tmp_path / "slide"))
    path = max(folder.iterdir(), key=lambda file: file.stat().st_size)
    with pytest.raises(SlideError, match="YBR_FULL"):
        OpenSlideReader(path)
    with Slide(path) as slide, Slide(real_data / "formats" / "CMU-1-Small-Region.svs") as twin:
        assert (slide.reader, slide.vendor, slide.size) == ("wsidicom", "dicom", twin.size)
        assert slide.mpp_l0 == pytest.approx(twin.mpp_l0, rel=1e-3)
        region = Region(900, 1200, 700, 600)
        assert np.abs(slide.read(region).astype(int) - twin.read(region)).mean() < 3, "JPEG again"


@pytest.mark.parametrize(
    "jpeg", [Jpeg(), Jpeg(subsampling="444"), Jpeg(shared_tables=True), Jpeg(space="RGB", subsampling="444")]
)
def test_tifffile_shows_openslide_s_own_pixels(jpeg: Jpeg, tmp_path: Path) -> None:
    path = write_jpeg_slide(tmp_path / "a.tif", LEVELS, jpeg)
    oracle, other = OpenSlideReader(path), TiffReader(path)
    assert list(oracle.sizes) == list(other.sizes)
    np.testing.assert_array_equal(whole(other), whole(oracle))
    oracle.close()
    other.close()


@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "CMU-1-Small-Region.jpeg.tiff"])
def test_tifffile_shows_openslide_s_own_pixels_of_real_slides(name: str, real_data: Path) -> None:
    oracle, other = (kind(real_data / "formats" / name) for kind in (OpenSlideReader, TiffReader))
    assert oracle.sizes[0] == other.sizes[0]
    region = Region(300, 500, 1200, 900)
    np.testing.assert_array_equal(other.read(0, region), oracle.read(0, region))
    oracle.close()
    other.close()


def test_fastslide_is_near_openslide(real_data: Path) -> None:
    """It decodes JPEG in its own way: up to 21 grey levels apart on real slides, 1.4 on average."""
    pytest.importorskip("fastslide")
    path = real_data / "slides" / "AT2_gastric_metaplasia.svs"
    oracle, other = OpenSlideReader(path), FastSlideReader(path)
    assert list(oracle.sizes) == list(other.sizes)
    region = Region(4000, 4000, 600, 500)
    assert np.abs(other.read(0, region).astype(int) - oracle.read(0, region)).mean() < 3
    oracle.close()
    other.close()


def test_fastslide_reads_a_qptiff(tmp_path: Path) -> None:
    pytest.importorskip("fastslide")
    reader = FastSlideReader(write_qptiff(tmp_path / "a.qptiff", LEVELS))
    assert list(reader.sizes) == [Size(p.shape[1], p.shape[0]) for p in LEVELS]
    assert reader.claims.described[0].mpp == Mpp(0.5, 0.5)
    for level, expected in enumerate(LEVELS):
        np.testing.assert_array_equal(whole(reader, level), expected)
    reader.close()


def _tiff(pixels: NDArray[Any], **options: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        tifffile.imwrite(folder / "a.tif", pixels, **{"photometric": "rgb", "tile": (128, 128), **options})
        return folder / "a.tif"

    return write


def _zarr(pixels: NDArray[Any], *colours: str) -> Callable[[Path], Path]:
    channels = {"channels": [{"color": colour} for colour in colours]} if colours else {}
    return lambda folder: write_ome_zarr(folder / "a.ome.zarr", [pixels], **channels)


REFUSED = {
    "float TIFF": (_tiff(PIXELS.astype(np.float32)), "floating-point"),
    "gray TIFF": (_tiff(PIXELS[..., 0], photometric="minisblack"), "gray"),
    "gray TIFF in another coding": (_tiff(PIXELS[..., 0], photometric="minisblack", compression="zstd"), "gray"),
    "channels as pages": (
        _tiff(
            PIXELS.transpose(2, 0, 1), photometric="minisblack", compression="zstd", ome=True, metadata={"axes": "CYX"}
        ),
        "fluorescence",
    ),
    "float Zarr": (_zarr(PIXELS.astype(np.float32)), "float32"),
    "gray Zarr": (_zarr(PIXELS[..., :1]), "gray"),
    "many channels": (_zarr(PIXELS.repeat(2, axis=2)), "6 channels, as in fluorescence"),
    "channels of other colours": (_zarr(PIXELS, "0000FF", "00FF00", "FF0000"), "fluorescence"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_bright_field_slide_is_refused_with_a_reason(name: str, tmp_path: Path) -> None:
    write, reason = REFUSED[name]
    with pytest.raises(SlideError, match=reason) as refused:
        Slide(write(tmp_path), SlideConfig(slide_mpp=0.5))
    assert refused.value.remedy


def test_a_zarr_without_unit_has_no_resolution_and_one_without_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MppError, match="does not say its resolution"):
        Slide(write_ome_zarr(tmp_path / "a.ome.zarr", LEVELS, mpp=None))
    zarr.open_group(tmp_path / "b.zarr", mode="w")
    with pytest.raises(SlideError, match="without an image"):
        Slide(tmp_path / "b.zarr")


def test_a_damaged_chunk_is_a_hole(tmp_path: Path) -> None:
    folder = write_ome_zarr(tmp_path / "a.ome.zarr", LEVELS, version="0.4")
    chunk = next(path for path in sorted((folder / "0").rglob("*")) if path.is_file() and path.name[0] != ".")
    chunk.write_bytes(b"no chunk")
    with Slide(folder) as slide:
        pixels, lost = slide.read_repaired(Region(0, 0, 256, 128))
        assert lost and np.array_equal(pixels[:, 128:], PIXELS[:128, 128:256])


def test_formats_of_fastslide_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fastslide", None)
    (tmp_path / "a.vsi").write_bytes(b"no slide")
    with pytest.raises(SlideError, match="FastSlide is missing") as refused:
        Slide(tmp_path / "a.vsi")
    assert "wsi-stain[fastslide]" in refused.value.remedy


def test_a_file_that_was_cut_short_is_refused_though_its_first_image_is_whole(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "whole.tif") as file:
        for level in LEVELS[:2]:
            file.write(level, tile=(256, 256), photometric="rgb", compression="zstd")
    with tifffile.TiffFile(tmp_path / "whole.tif") as file:
        second = file.pages[1].offset
    content = (tmp_path / "whole.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(content[: second - 1])
    with pytest.raises(SlideError, match=f"cut short: its next image would begin at byte {second}"):
        open_reader(tmp_path / "cut.tif")
