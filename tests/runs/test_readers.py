"""The reader matrix: what a run writes opens in other people's programs, all of it, with its colours in their places.

Pixels are compared with tifffile's; that those are the source's, test_same_place shows.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import openslide
import pytest
import pyvips
import tifffile
from numpy.typing import NDArray

from tests.support.made_run import Unchanged, odd_slide, run_unchanged
from tests.support.readers import READERS, SLOW_READERS, Reader
from wsi_stain.core.geometry import TILE, Mpp, Region, Size, level_sizes

Pixels = NDArray[np.uint8]
_WINDOW = 300
# Without tag 530 libtiff takes 4:2:0 for granted, finds 4:4:4 in the stream, and says so.
_HARMLESS = re.compile(r"JPEGFixupTagsSubsamplingSec: Warning, Auto-corrected former TIFF subsampling values")


@dataclass(frozen=True)
class Output:
    """A pyramid and what must be found in it.

    Attributes:
        run: How it came to be.
        chroma: Its chroma subsampling, 444 or 420.
    """

    run: Unchanged
    chroma: int

    @property
    def path(self) -> Path:
        return self.run.pyramid

    @property
    def size(self) -> Size:
        return self.run.stored.size

    @property
    def mpp(self) -> Mpp:
        return self.run.stored.mpp

    @property
    def sizes(self) -> list[Size]:
        return level_sizes(self.size)

    @cached_property
    def levels(self) -> list[Pixels]:
        """As tifffile reads them."""
        with tifffile.TiffFile(self.path) as tiff:
            return [page.asarray() for page in tiff.pages]

    def places(self, level: int) -> list[Region]:
        """Of a level: a window on tissue, and the one that ends with the slide, px of that level."""
        size = self.sizes[level]
        width, height = min(_WINDOW, size.width), min(_WINDOW, size.height)
        full = np.argwhere(self.run.stored.tissue == self.run.stored.tissue.max())
        row, col = full[len(full) // 2]
        x, y = ((int(at) * TILE) >> level for at in (col, row))
        tissue = Region(min(x, size.width - width), min(y, size.height - height), width, height)
        return [tissue, Region(size.width - width, size.height - height, width, height)]


def make_output(name: str, folder: Path, data: Path | None) -> Output:
    if data is not None:
        return Output(run_unchanged(data / "slides" / name, folder / "out"), 444)
    chroma = int(name[-3:])
    jpeg = {"subsampling": chroma}
    return Output(run_unchanged(odd_slide(folder / "odd.svs"), folder / "out", jpeg=jpeg), chroma)


REAL = ["AT2_gastric_metaplasia.svs", "NanoZoomer_EO1_cropA.svs"]
OUTPUTS = ["odd, 444", "odd, 420", *(pytest.param(name, marks=pytest.mark.slow) for name in REAL)]


@pytest.fixture(scope="module", params=OUTPUTS)
def output(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Output:
    data = request.getfixturevalue("real_data") if request.param in REAL else None
    return make_output(request.param, tmp_path_factory.mktemp("output"), data)


@pytest.fixture(params=[*READERS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_READERS)])
def reader(request: pytest.FixtureRequest) -> Reader:
    return (READERS | SLOW_READERS)[request.param]


def test_every_level_is_found(output: Output, reader: Reader) -> None:
    assert reader.sizes(output.path) == output.sizes


def test_the_resolution_is_found(output: Output, reader: Reader) -> None:
    assert reader.mpp(output.path) == pytest.approx(output.mpp, rel=1e-5)


def test_pixels_are_the_same(output: Output, reader: Reader) -> None:
    for level in {0, 3, len(output.sizes) - 1}:
        for number, place in enumerate(output.places(level)):
            found = reader.read(output.path, level, place)
            expected = output.levels[level][place.y : place.y + place.height, place.x : place.x + place.width]
            assert found.shape == expected.shape
            assert number > 0 or expected.std() > 5, "no tissue there"
            difference = found.astype(int) - expected
            assert np.abs(difference).max() <= reader.unlike[output.chroma], (level, place)
            # Programs enlarge 4:2:0 chroma in ways of their own, which leaves luminance (BT.601, as JPEG has it) alone.
            assert np.abs(difference @ (0.299, 0.587, 0.114)).mean() < 0.7, (level, place)


def test_the_objective_is_told(output: Output) -> None:
    with openslide.OpenSlide(output.run.source) as source, tifffile.TiffFile(output.path) as tiff:
        power = source.properties["openslide.objective-power"]
        assert f'NominalMagnification="{power}"' in tiff.ome_metadata


def test_tifffile_finds_chain_and_subifds(output: Output) -> None:
    with tifffile.TiffFile(output.path) as tiff:
        chain, (series,) = list(tiff.pages), tiff.series
        shapes = [(size.height, size.width, 3) for size in output.sizes]
        assert (tiff.is_bigtiff, tiff.is_ome, series.axes) == (True, True, "YXS")
        assert [level.shape for level in series.levels] == shapes
        assert [page.shape for page in chain] == shapes
        assert [page.offset for page in chain[1:]] == list(chain[0].subifds)
        assert {page.compression.name for page in chain} == {"JPEG"}


def test_every_tile_can_be_decoded(output: Output) -> None:
    for level, pixels in enumerate(output.levels):
        image = pyvips.Image.new_from_file(str(output.path), page=level, fail_on="error", access="sequential")
        assert image.avg() == pytest.approx(pixels.mean(), abs=0.1)


def test_ome_xml_is_valid(output: Output) -> None:
    pytest.importorskip("lxml", reason="ome-types[lxml] is not installed")
    import ome_types

    with tifffile.TiffFile(output.path) as tiff:
        xml = tiff.ome_metadata
    ome_types.validate_xml(xml)
    (image,) = ome_types.from_xml(xml).images
    pixels = image.pixels
    assert (pixels.size_x, pixels.size_y, pixels.channels[0].samples_per_pixel) == (*output.size, 3)
    assert (pixels.physical_size_x, pixels.physical_size_y) == tuple(output.mpp)
    assert pixels.physical_size_x_unit.value == "µm"


def test_libtiff_finds_nothing_wrong(output: Output) -> None:
    tiffinfo = shutil.which("tiffinfo")
    if tiffinfo is None:
        pytest.skip("no tiffinfo: install Debian's libtiff-tools")
    said = subprocess.run([tiffinfo, output.path], check=True, capture_output=True, text=True)
    complaints = [line for line in said.stderr.splitlines() if not _HARMLESS.match(line)]
    assert not complaints
    assert output.chroma == 444 or not said.stderr
    assert len(set(re.findall(r"TIFF Directory at offset (\S+)", said.stdout))) == len(output.sizes)
