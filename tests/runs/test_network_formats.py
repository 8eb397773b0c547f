"""The shipped network on slides of every format: what it makes depends on the pixels, not on how they are kept."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
import zarr
from rich.console import Console

from pipelines import run
from pipelines.references.library import shipped_checkpoint
from pipelines.shared.config import RunConfig
from tests.support.made_run import run_unchanged
from tests.support.other_slides import to_jpeg2000, write_ome_tiff, write_ome_zarr
from tests.support.s3_server import s3_endpoint, upload
from tests.support.slide_files import shrink
from tests.support.tiled_slides import SMALL, paint, write
from wsi_stain.slides.listing.find import find_slides
from wsi_stain.slides.slide import Slide

pytestmark = pytest.mark.slow

Slides: TypeAlias = dict[str, tuple[str, str]]
"""Reader and slide by kind."""

MPP = 0.25
PIXELS = paint(SMALL)
LEVELS = [PIXELS, shrink(PIXELS, 2), shrink(PIXELS, 4)]
TISSUE = np.s_[:, 150:650, 600:1200]


@pytest.fixture
def bucket() -> Iterator[None]:
    with s3_endpoint():
        yield


def write_lossless(folder: Path) -> Slides:
    """Write the same pixels in formats without loss; the reader and the slide of each."""
    folder.mkdir()
    made = {
        "plain TIFF": ("openslide", write(folder / "plain.tif", PIXELS, MPP).path),
        "OME-TIFF": ("tifffile", write_ome_tiff(folder / "lzw.ome.tif", LEVELS, MPP, compression="lzw")),
        "OME-Zarr 0.4": ("zarr", write_ome_zarr(folder / "old.ome.zarr", LEVELS, MPP, "0.4")),
        "OME-Zarr 0.5": ("zarr", write_ome_zarr(folder / "new.ome.zarr", LEVELS, MPP)),
    }
    remote = upload(write_ome_zarr(folder / "s3.ome.zarr", LEVELS, MPP, "0.4"), "slides/s3.ome.zarr")
    shutil.rmtree(folder / "s3.ome.zarr")
    made["OME-Zarr 0.4 on S3"] = ("zarr", Path(remote))
    return {kind: (reader, str(path)) for kind, (reader, path) in made.items()}


def write_own(folder: Path) -> Slides:
    """Write the pixels as this project does, by a run with the identity; the reader and the slide of each.

    OME-TIFF and DICOM have the same JPEG tiles, the others the pixels themselves, but for what is glass.
    """
    source, slides = write(folder / "a.tif", PIXELS, MPP).path, folder / "out" / "slides"
    formats = ["ome-tiff", "ome-zarr", "dicom"]
    run_unchanged(source, folder / "out", formats=formats, tiling={"slide": {"mpp": MPP}})
    shutil.copytree(slides / "a.dicom", folder / "reversible.dicom")
    to_jpeg2000(folder / "reversible.dicom")
    return {
        "plain TIFF": ("openslide", str(source)),
        "OME-TIFF": ("openslide", str(slides / "a.ome.tif")),
        "DICOM": ("openslide", str(slides / "a.dicom")),
        "DICOM, JPEG 2000": ("openslide", str(folder / "reversible.dicom")),
        "OME-Zarr": ("zarr", str(slides / "a.ome.zarr")),
        "tile store": ("zarr", str(folder / "out" / "work" / "tiles.zarr")),
    }


def normalize_all(slides: Slides, folder: Path) -> dict[str, np.ndarray]:
    """Run each slide with the shipped checkpoint; the normalized level 0 of each, (3, h, w)."""
    sections = {"normalize": {"mode": "generator"}, "formats": ["ome-zarr"], "stream": True, "executor": {"workers": 0}}
    config, found = RunConfig.model_validate(sections), {}
    for number, (kind, (reader, slide)) in enumerate(slides.items()):
        (source,) = find_slides([Path(slide)], warn=pytest.fail)
        with Slide(source.path) as opened:
            assert opened.reader == reader, kind
        out, printed = folder / f"normalized-{number}", io.StringIO()
        request = run.Request([Path(slide)], [], shipped_checkpoint(), out, config)
        assert run.run(request, Console(file=printed, width=300)) == 0, printed.getvalue()
        (pyramid,) = (out / "slides").rglob("*.ome.zarr")
        found[kind] = zarr.open_array(pyramid / "0", mode="r")[:]
    return found


def assert_normalized(pixels: np.ndarray) -> None:
    assert np.abs(pixels.astype(int) - PIXELS.transpose(2, 0, 1)).mean() > 2, "something was normalized"


@pytest.mark.usefixtures("bucket")
def test_the_same_pixels_become_the_same_whatever_keeps_them(tmp_path: Path) -> None:
    normalized = normalize_all(write_lossless(tmp_path / "slides"), tmp_path)
    expected = normalized.pop("plain TIFF")
    assert_normalized(expected)
    assert len(normalized) == 4
    for kind, pixels in normalized.items():
        np.testing.assert_array_equal(pixels, expected, err_msg=kind)


@pytest.mark.filterwarnings("ignore:get_frame_offsets is deprecated:DeprecationWarning")
def test_what_a_run_wrote_is_normalized_alike_from_each_of_its_formats(tmp_path: Path) -> None:
    normalized = normalize_all(write_own(tmp_path), tmp_path)
    expected = normalized.pop("OME-TIFF")
    assert_normalized(expected)
    for kind in ("DICOM", "DICOM, JPEG 2000"):
        np.testing.assert_array_equal(normalized.pop(kind), expected, err_msg=kind)
    lossless = normalized.pop("plain TIFF")
    assert len(normalized) == 2
    for kind, pixels in normalized.items():
        np.testing.assert_array_equal(pixels[TISSUE], lossless[TISSUE], err_msg=kind)
