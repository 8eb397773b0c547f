"""Runs whose outputs are colour tables: what they write, what they leave undone, what other commands make of them."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import simplejpeg
from rich.console import Console

from pipelines import run, verify, view
from pipelines.normalization import tasks
from pipelines.shared.config import RunConfig
from pipelines.shared.device import resolve_auto
from tests.support.files_below import digests
from tests.support.made_checkpoint import write_untrained
from tests.support.tiled_slides import SMALL, paint, write
from wsi_stain.core.receipts import Receipt, file_product, write_receipt
from wsi_stain.executor import ExecutorConfig, open_executor
from wsi_stain.formats.cube_table import decode_cube
from wsi_stain.formats.icc_table import apply_icc
from wsi_stain.results.finished import load_finished
from wsi_stain.stain.colour_table import apply_table
from wsi_stain.store.artifact import TABLE, load_artifact
from wsi_stain.viewer.tiles import SlideTiles

SETTINGS = {"executor": {"workers": 0}, "normalize": {"stride_px": 512, "lut_tiles": 10}}


class Laboratory:
    """One slide and a checkpoint that nobody trained."""

    def __init__(self, folder: Path) -> None:
        self.slide = write(folder / "a.tif", paint(SMALL)).path
        self.checkpoint = write_untrained(folder / "c.safetensors", gain=12)

    def run(self, out: Path, *formats: str, code: int = 0, **settings: Any) -> str:
        """Run the command's own code in this process; returns what it printed."""
        config = RunConfig.model_validate({**SETTINGS, "formats": formats, **settings})
        printed = io.StringIO()
        request = run.Request([self.slide], [], self.checkpoint, out, config)
        assert run.run(request, Console(file=printed, width=200)) == code, printed.getvalue()
        return printed.getvalue()


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    return Laboratory(tmp_path_factory.mktemp("laboratory"))


@pytest.fixture(scope="module")
def tables(laboratory: Laboratory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output directory of a run that was asked for both tables and nothing else, and could make nothing else."""
    out = tmp_path_factory.mktemp("tables")
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(tasks, "normalize_block")
        patch.delattr(tasks, "stitch_slide")
        laboratory.run(out, "icc", "cube")
    return out


@pytest.fixture(scope="module")
def pyramid(laboratory: Laboratory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output directory of a run that was asked for a pyramid in mode lut, and then for its tables too."""
    out = tmp_path_factory.mktemp("pyramid")
    lut = {**SETTINGS["normalize"], "mode": "lut"}
    laboratory.run(out, "ome-tiff", normalize=lut)
    printed = laboratory.run(out, "ome-tiff", "icc", "cube", normalize=lut)
    assert "made again" not in printed and "normalizing" not in printed, "tables are written from what is kept"
    return out


def summary(out: Path) -> dict[str, str]:
    (row,) = csv.DictReader((out / "summary.csv").read_text().splitlines())
    return row


def run_verify(out: Path) -> tuple[int, str]:
    """Run `verify`; its exit code and what it printed."""
    printed = io.StringIO()
    code = verify.run(verify.Request(out, (), ExecutorConfig(workers=0)), Console(file=printed, width=250))
    return code, printed.getvalue()


def test_a_run_for_tables_writes_kilobytes_and_stores_no_tiles(tables: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in (tables / "slides").iterdir()}
    assert sorted(sizes) == ["a.cube", "a.icc"] and sizes["a.icc"] < 217_000 and sizes["a.cube"] < 140_000
    assert (
        not (tables / "work" / "tiles.zarr").exists() and not (tables / "work" / "slides" / "a.tif" / "blocks").exists()
    )
    row = summary(tables)
    assert (row["status"], row["output"], row["other_outputs"]) == ("done", "slides/a.icc", "slides/a.cube")
    assert float(row["table_distance"]) > 0
    page = (tables / "report" / "index.html").read_text()
    assert 'href="../slides/a.icc"' in page and page.count("data:image/webp") >= 2


def test_tables_do_what_the_pyramid_shows(laboratory: Laboratory, pyramid: Path) -> None:
    """In kept tissue, up to the pyramid's JPEG; its margins are faded into glass."""
    with openslide.OpenSlide(pyramid / "slides" / "a.ome.tif") as slide:
        written = np.asarray(slide.read_region((512, 256), 0, (512, 256)).convert("RGB")).astype(int)
    source = paint(SMALL)[256:512, 512:1024]
    table = load_artifact(pyramid / "work" / "slides" / "a.tif" / "artifact.npz")[TABLE]
    own = apply_table(table, source).astype(int)
    shown = apply_icc((pyramid / "slides" / "a.icc").read_bytes(), source).astype(int)
    apart = np.abs(shown - own).max(axis=2)
    assert apart.max() <= 3 and (apart <= 1).mean() >= 0.99
    assert np.abs(shown - written).mean() <= np.abs(own - written).mean() + 0.2, "JPEG's error and no more"
    assert np.abs(shown - source).mean() > 8
    np.testing.assert_allclose(decode_cube((pyramid / "slides" / "a.cube").read_bytes()), table, atol=1e-3)


def test_a_table_has_the_same_bytes_alone_and_beside_a_pyramid(tables: Path, pyramid: Path) -> None:
    beside = digests(pyramid / "slides")
    del beside["a.ome.tif"]
    assert digests(tables / "slides") == beside


def test_a_pyramid_added_later_keeps_the_tables_and_is_the_same(
    laboratory: Laboratory, tables: Path, pyramid: Path, tmp_path: Path
) -> None:
    laboratory.run(tmp_path, "cube")
    laboratory.run(tmp_path, "ome-tiff", "cube", "icc")
    assert digests(tmp_path / "slides") == digests(pyramid / "slides")


def test_a_run_again_makes_nothing_and_a_missing_table_alone(laboratory: Laboratory, tmp_path: Path) -> None:
    laboratory.run(tmp_path, "icc", "cube")
    before, kept = digests(tmp_path), (tmp_path / "slides" / "a.cube").stat().st_mtime_ns
    (tmp_path / "slides" / "a.icc").unlink()
    assert "normalizing" not in laboratory.run(tmp_path, "icc", "cube")
    assert (tmp_path / "slides" / "a.cube").stat().st_mtime_ns == kept
    assert digests(tmp_path / "slides") == {
        name.removeprefix("slides/"): digest for name, digest in before.items() if name.startswith("slides/")
    }


def test_verify_finds_tables_good_and_others_wrong(laboratory: Laboratory, tmp_path: Path) -> None:
    laboratory.run(tmp_path, "icc", "cube")
    code, printed = run_verify(tmp_path)
    assert code == 0, printed
    folder = tmp_path / "work" / "slides" / "a.tif"
    finished = load_finished(folder)
    assert finished is not None
    for name in ("a.icc", "a.cube"):
        path = tmp_path / "slides" / name
        content = path.read_bytes()
        spoilt = content.replace(b"0.9", b"0.5") if name == "a.cube" else content[:600] + bytes(9000) + content[9600:]
        path.write_bytes(spoilt)
        receipt = folder / f"{path.suffix[1:]}.json"
        write_receipt(receipt, Receipt(key=finished.key, product=file_product(path)))
        code, printed = run_verify(tmp_path)
        assert code == 3 and "wrong: table" in printed and name in printed
        path.write_bytes(content)
        write_receipt(receipt, Receipt(key=finished.key, product=file_product(path)))
        path.write_bytes(content[:-1])
        assert run_verify(tmp_path)[0] == 3, "and other bytes"
        path.write_bytes(content)


def test_view_shows_the_source_through_its_table(laboratory: Laboratory, tables: Path) -> None:
    (case,) = view.plan(view.Request(tables), pytest.fail)
    source, normalized = case.pictures
    assert source.path == normalized.path == laboratory.slide and source.id != normalized.id
    tiles, level = SlideTiles(), 11  # the last: 1503 px take 2^11
    plain, through = (
        simplejpeg.decode_jpeg(tiles.jpeg(picture.path, level, 1, 0, picture.table)) for picture in case.pictures
    )
    table = load_artifact(tables / "work" / "slides" / "a.tif" / "artifact.npz")[TABLE]
    expected = apply_table(table, plain).astype(int)
    assert np.abs(through - expected).mean() < 5 < np.abs(through - plain.astype(int)).mean(), "JPEG on both sides"


@pytest.mark.parametrize("normalize", [{"mode": "generator"}, {"mode": "guard"}, {"method": "macenko"}])
def test_tables_of_other_modes_are_refused(normalize: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="use --mode lut"):
        RunConfig.model_validate({"formats": ["ome-tiff", "icc"], "normalize": normalize})


def test_a_profile_cannot_follow_another_but_a_cube_can() -> None:
    srgb = {"tiling": {"slide": {"icc": "srgb"}}}
    with pytest.raises(ValueError, match="cube"):
        RunConfig.model_validate({"formats": ["icc"], **srgb})
    assert RunConfig.model_validate({"formats": ["cube"], **srgb}).formats == ("cube",)


def test_tiles_are_stored_where_more_than_tables_needs_them() -> None:
    assert not RunConfig(formats=("icc",)).stores_tiles and RunConfig(formats=("icc", "dicom")).stores_tiles
    assert RunConfig(formats=("icc",), keep_tiles=True).stores_tiles
    assert not RunConfig(stream=True).stores_tiles
    with open_executor(ExecutorConfig(workers=0)) as executor:
        assert resolve_auto(RunConfig(formats=("icc",)), executor).normalize.mode == "lut"


def test_a_plan_names_kilobytes_a_slide(laboratory: Laboratory, tmp_path: Path) -> None:
    config, printed = RunConfig.model_validate({**SETTINGS, "formats": ["icc"]}), io.StringIO()
    request = run.Request([laboratory.slide], [], laboratory.checkpoint, tmp_path, config)
    assert run.show_plan(request, Console(file=printed, width=200)) == 0
    assert "outputs: icc about 216 kB" in printed.getvalue()
