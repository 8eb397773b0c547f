"""The hybrid TIFF's bytes, as OpenSlide and tifffile read them; its OME-XML, and text that could break it."""

from __future__ import annotations

import io
from itertools import pairwise, product
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from wsi_stain.core.geometry import Mpp, Size, TileIndex, ceil_div, grid_shape, level_sizes
from wsi_stain.formats.block_file import encode_jpeg
from wsi_stain.formats.ome_tiff import PROVENANCE_NAMESPACE, PyramidTiff, ome_xml

WHITE = (243, 240, 245)
MPP = Mpp(0.2528, 0.2531)
SIZES = [Size(1, 1), Size(200, 131), Size(256, 256), Size(300, 200), Size(257, 1), Size(1500, 3001)]
IDS = [f"{size.width}x{size.height}" for size in SIZES]


def flat(colour: tuple[int, int, int]) -> bytes:
    return encode_jpeg(np.full((256, 256, 3), colour, np.uint8), 95)


def colour_of(level: int, row: int, col: int) -> tuple[int, int, int]:
    return 60 + 20 * level, 40 + 30 * (row % 5), 90 + 25 * (col % 6)


def content(size: Size, icc: bytes | None = None, mpp: Mpp = MPP, empty: bool = False) -> bytes:
    sizes = level_sizes(size)
    file = io.BytesIO()
    tiff = PyramidTiff(file, sizes, flat(WHITE))
    for level, size_level in enumerate(sizes):
        rows, cols = grid_shape(size_level)
        for row, col in [] if empty else product(reversed(range(rows)), range(cols)):
            tiff.put(level, TileIndex(row, col), flat(colour_of(level, row, col)))
    tiff.finish(mpp, ome_xml(size, mpp, 40.0, {}), icc)
    return file.getvalue()


@pytest.fixture
def pyramid(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Size, Path]:
    path = tmp_path / "slide.ome.tif"
    path.write_bytes(content(request.param, icc=b"profile of 18 bytes"))
    return request.param, path


@pytest.mark.parametrize("pyramid", SIZES, ids=IDS, indirect=True)
def test_openslide_sees_every_level_with_its_colours(pyramid: tuple[Size, Path]) -> None:
    size, path = pyramid
    sizes = level_sizes(size)
    with openslide.OpenSlide(path) as slide:
        assert list(slide.level_dimensions) == sizes
        for level, size_level in enumerate(sizes):
            row, col = (count - 1 for count in grid_shape(size_level))
            place = (col * 256 << level, row * 256 << level)
            pixel = np.asarray(slide.read_region(place, level, (1, 1)))[0, 0]
            np.testing.assert_allclose(pixel, (*colour_of(level, row, col), 255), atol=2)


@pytest.mark.parametrize("pyramid", SIZES, ids=IDS, indirect=True)
def test_levels_stand_in_the_chain_and_as_subifds(pyramid: tuple[Size, Path]) -> None:
    size, path = pyramid
    with tifffile.TiffFile(path) as tiff:
        shapes = [(level.height, level.width, 3) for level in level_sizes(size)]
        chain = list(tiff.pages)
        assert tiff.is_bigtiff and tiff.is_ome
        assert [page.shape for page in chain] == shapes
        assert list(chain[0].subifds or ()) == [page.offset for page in chain[1:]]
        assert [page.tags[254].value for page in chain] == [0] + [1] * (len(shapes) - 1)
        assert [level.shape for level in tiff.series[0].levels] == shapes


@pytest.mark.parametrize("pyramid", [Size(1500, 3001)], indirect=True)
def test_tags_that_mislead_readers_or_differ_between_runs_are_absent(pyramid: tuple[Size, Path]) -> None:
    with tifffile.TiffFile(pyramid[1]) as tiff:
        for page in tiff.pages:
            codes = [tag.code for tag in page.tags]
            assert codes == sorted(codes)
            assert not {"YCbCrSubSampling", "Software", "DateTime", "HostComputer"} & {tag.name for tag in page.tags}
        assert tiff.pages[0].tags[34675].value == b"profile of 18 bytes"
    assert content(pyramid[0], icc=b"profile of 18 bytes") == pyramid[1].read_bytes()


def test_no_profile_no_tag() -> None:
    with tifffile.TiffFile(io.BytesIO(content(Size(300, 200)))) as tiff:
        assert 34675 not in tiff.pages[0].tags


@pytest.mark.parametrize("pyramid", [Size(700, 530)], indirect=True)
def test_tifffile_decodes_what_openslide_decodes(pyramid: tuple[Size, Path]) -> None:
    with tifffile.TiffFile(pyramid[1]) as tiff, openslide.OpenSlide(pyramid[1]) as slide:
        for level, level_size in enumerate(slide.level_dimensions):
            seen = np.asarray(slide.read_region((0, 0), level, level_size))[..., :3]
            np.testing.assert_array_equal(tiff.series[0].levels[level].asarray(), seen)


@pytest.mark.parametrize("um", [0.05, 0.1234567, 0.22, 0.2528, 0.4406, 0.5, 1 / 3, 5.0])
def test_resolution_is_exact_and_doubles(tmp_path: Path, um: float) -> None:
    path = tmp_path / "slide.tif"
    path.write_bytes(content(Size(1500, 301), mpp=Mpp(um, um / 2)))
    with openslide.OpenSlide(path) as slide:
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(um, rel=1e-6)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(um / 2, rel=1e-6)
    with tifffile.TiffFile(path) as tiff:
        resolutions = [page.tags[282].value for page in tiff.pages]
        assert all(page.tags[296].value == 3 for page in tiff.pages)
    for (above, above_of), (below, below_of) in pairwise(resolutions):
        assert above / above_of == pytest.approx(2 * below / below_of, rel=1e-6)


def test_tiles_never_put_are_one_shared_glass_tile(tmp_path: Path) -> None:
    size, path = Size(3000, 1100), tmp_path / "slide.tif"
    path.write_bytes(content(size, empty=True))
    with tifffile.TiffFile(path) as tiff:
        offsets = {offset for page in tiff.pages for offset in page.dataoffsets}
        assert len(offsets) == 1
        assert len(tiff.pages[0].dataoffsets) == ceil_div(3000, 256) * ceil_div(1100, 256)
    with openslide.OpenSlide(path) as slide:
        pixels = np.asarray(slide.read_region((2990, 1090), 0, (10, 10)))
        np.testing.assert_allclose(pixels, np.broadcast_to((*WHITE, 255), (10, 10, 4)), atol=2)


OME = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}"
SIZE, MPP = Size(1301, 777), Mpp(0.2528, 0.253)


def test_says_size_and_resolution() -> None:
    pixels = ET.fromstring(ome_xml(SIZE, MPP, 40.0, {})).find(f"{OME}Image/{OME}Pixels")
    assert pixels is not None
    assert (pixels.get("SizeX"), pixels.get("SizeY"), pixels.get("SizeC")) == ("1301", "777", "3")
    assert (pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeY")) == ("0.2528", "0.253")


def test_the_micro_sign_is_literal() -> None:
    assert ome_xml(SIZE, MPP, None, {}).count("µm".encode()) == 2


@pytest.mark.parametrize(("power", "written"), [(40.0, "40"), (20.5, "20.5"), (None, None)])
def test_objective(power: float | None, written: str | None) -> None:
    root = ET.fromstring(ome_xml(SIZE, MPP, power, {}))
    objective = root.find(f"{OME}Instrument/{OME}Objective")
    assert (objective is None) == (written is None)
    assert (root.find(f"{OME}Image/{OME}ObjectiveSettings") is None) == (written is None)
    assert objective is None or objective.get("NominalMagnification") == written


@given(st.dictionaries(st.text(), st.text(), max_size=4))
def test_any_provenance_is_well_formed(provenance: dict[str, str]) -> None:
    root = ET.fromstring(ome_xml(SIZE, MPP, 40.0, provenance))
    entries = root.findall(f"{OME}StructuredAnnotations/{OME}MapAnnotation/{OME}Value/{OME}M")
    assert len(entries) == len(provenance)


def test_provenance_is_kept_and_its_order_does_not_matter() -> None:
    provenance = {"checkpoint": "sha256 <1>", "config": '{"a": "&"}', "a\x00b": "\x1b"}
    first = ome_xml(SIZE, MPP, 40.0, provenance)
    assert first == ome_xml(SIZE, MPP, 40.0, dict(reversed(provenance.items())))
    annotation = ET.fromstring(first).find(f"{OME}StructuredAnnotations/{OME}MapAnnotation")
    assert annotation is not None and annotation.get("Namespace") == PROVENANCE_NAMESPACE
    found = {entry.get("K"): entry.text for entry in annotation.iter(f"{OME}M")}
    assert found == {"checkpoint": "sha256 <1>", "config": '{"a": "&"}', "a\ufffdb": "\ufffd"}
