"""Slides that OpenSlide does not read go through all commands: run, verify, inspect and view."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import openslide
import pytest
import simplejpeg
from rich.console import Console

from pipelines import inspect, normalize, verify, view
from pipelines.shared.config import RunConfig
from tests.support.made_checkpoint import write_untrained
from tests.support.made_run import run_unchanged
from tests.support.other_slides import write_ome_tiff, write_ome_zarr
from tests.support.s3_server import s3_endpoint, upload
from tests.support.slide_files import shrink
from tests.support.tiled_slides import SMALL, paint
from wsi_stain.executor import ExecutorConfig
from wsi_stain.slides.slide import Slide
from wsi_stain.viewer.tiles import SlideTiles

PIXELS = paint(SMALL)
LEVELS = [PIXELS, shrink(PIXELS, 2), shrink(PIXELS, 4)]
ALONE = ExecutorConfig(workers=0)


@pytest.fixture
def bucket() -> Iterator[None]:
    with s3_endpoint():
        yield


def _on_s3(folder: Path) -> Path:
    return Path(upload(write_ome_zarr(folder / "a.ome.zarr", LEVELS, version="0.4"), "slides/a.ome.zarr"))


SLIDES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "OME-TIFF": (lambda folder: write_ome_tiff(folder / "a.ome.tif", LEVELS, compression="lzw"), "tifffile"),
    "OME-Zarr": (lambda folder: write_ome_zarr(folder / "a.ome.zarr", LEVELS), "zarr"),
    "OME-Zarr on S3": (_on_s3, "zarr"),
}


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize("kind", SLIDES)
def test_a_slide_of_another_reader_goes_through_all_commands(kind: str, tmp_path: Path) -> None:
    write, reader = SLIDES[kind]
    slide, printed = write(tmp_path), io.StringIO()
    console = Console(file=printed, width=250)
    assert inspect.run(inspect.Request([slide], RunConfig(executor=ALONE)), console) == 0
    assert reader in printed.getvalue() and "1503 x 905" in printed.getvalue()
    made = run_unchanged(slide, tmp_path / "out")
    with openslide.OpenSlide(made.pyramid) as pyramid:
        written = np.asarray(pyramid.read_region((512, 256), 0, (512, 256)).convert("RGB"))
    assert np.abs(written.astype(int) - PIXELS[256:512, 512:1024]).mean() < 5, "JPEG's error"
    assert verify.run(verify.Request(tmp_path / "out", (), ALONE), console) == 0, printed.getvalue()
    assert "source not found" not in printed.getvalue()
    (case,) = view.plan(view.Request(tmp_path / "out"), pytest.fail)
    assert [picture.label for picture in case.pictures] == ["source", "normalized"]
    tile = simplejpeg.decode_jpeg(SlideTiles().jpeg(case.pictures[0].path, 11, 1, 0))
    assert np.abs(tile[1:, 1:].astype(int)[:256, :256] - PIXELS[:256, 512:768]).mean() < 5


def test_the_project_s_own_outputs_are_slides(tmp_path: Path) -> None:
    made = run_unchanged(
        write_ome_tiff(tmp_path / "a.ome.tif", LEVELS), tmp_path / "out", formats=["ome-tiff", "ome-zarr"]
    )
    with Slide(made.pyramid) as tiff, Slide(tmp_path / "out" / "slides" / "a.ome.zarr") as zarr:
        assert (tiff.reader, zarr.reader) == ("openslide", "zarr")
        assert tiff.size == zarr.size and tiff.mpp == pytest.approx(zarr.mpp) and tiff.level_count == zarr.level_count
        assert np.abs(tiff.thumbnail(4.0).astype(int) - zarr.thumbnail(4.0)).mean() < 4, "JPEG of the level"


def test_normalize_takes_an_ome_zarr_for_a_slide_and_not_for_a_store(tmp_path: Path) -> None:
    slide, checkpoint = write_ome_zarr(tmp_path / "a.ome.zarr", LEVELS), write_untrained(tmp_path / "c.safetensors")
    printed = io.StringIO()
    request = normalize.Request(slide, checkpoint, None, tmp_path / "out", RunConfig(executor=ALONE))
    assert normalize.show_plan(request, Console(file=printed, width=250)) == 0
    assert "a.ome.zarr" in printed.getvalue() and "1503 x 905" in printed.getvalue()
