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
from tests.support.other_slides import write_ome_tiff, write_ome_zarr
from tests.support.s3_server import s3_endpoint, upload
from tests.support.slide_files import shrink
from tests.support.tiled_slides import SMALL, paint, write
from wsi_stain.slides.slide import Slide

pytestmark = pytest.mark.slow

Slides: TypeAlias = dict[str, tuple[str, str]]
"""Reader and slide by kind."""

MPP = 0.25
PIXELS = paint(SMALL)
LEVELS = [PIXELS, shrink(PIXELS, 2), shrink(PIXELS, 4)]


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


def normalize_all(slides: Slides, folder: Path) -> dict[str, np.ndarray]:
    """Run slides with the shipped checkpoint; the normalized level 0 of each, (3, h, w)."""
    sections = {"normalize": {"mode": "generator"}, "formats": ["ome-zarr"], "stream": True, "executor": {"workers": 0}}
    config, out, printed = RunConfig.model_validate(sections), folder / "out", io.StringIO()
    given, found = [Path(slide) for _reader, slide in slides.values()], {}
    request = run.Request(given, [], shipped_checkpoint(), out, config)
    assert run.run(request, Console(file=printed, width=300)) == 0, printed.getvalue()
    for kind, (reader, slide) in slides.items():
        with Slide(Path(slide)) as opened:
            assert opened.reader == reader, kind
        pyramid = out / "slides" / f"{Path(slide).name.partition('.')[0]}.ome.zarr"
        found[kind] = zarr.open_array(pyramid / "0", mode="r")[:]
    return found


@pytest.mark.usefixtures("bucket")
def test_the_same_pixels_become_the_same_whatever_keeps_them(tmp_path: Path) -> None:
    normalized = normalize_all(write_lossless(tmp_path / "slides"), tmp_path)
    expected = normalized.pop("plain TIFF")
    assert np.abs(expected.astype(int) - PIXELS.transpose(2, 0, 1)).mean() > 2, "something was normalized"
    assert len(normalized) == 4
    for kind, pixels in normalized.items():
        np.testing.assert_array_equal(pixels, expected, err_msg=kind)
