"""Every subcommand from the command line to the files it leaves, on small synthetic slides."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
from rich.markup import render
from skimage.color import rgb2lab
from typer.main import get_command

from pipelines.cli.app import app
from pipelines.doctor import EXTRAS
from tests.support.commands import TINY, Run
from tests.support.files_below import digests
from tests.support.forked import fork_command
from tests.support.made_checkpoint import write_untrained
from tests.support.s3_server import s3_endpoint, upload
from tests.support.tiled_slides import SMALL, paint, write
from wsi_stain.core.geometry import Size
from wsi_stain.store import TileStore
from wsi_stain.synthetic import LABORATORIES, Cohort, stain_tissue, write_cohort, write_slide
from wsi_stain.synthetic.tissue import render_tissue


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return write_cohort(tmp_path_factory.mktemp("cohort"), width=1100, broken=True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def finished_run(cohort: Cohort, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output directory of one whole run, in processes of its own as a user starts it."""
    out = tmp_path_factory.mktemp("run") / "out"
    command = [sys.executable, "-m", "pipelines.cli", "run", str(cohort.slides), "--reference", str(cohort.reference)]
    ended = subprocess.run([*command, "--out", str(out), "-c", str(tiny), "-j", "2"], check=False)
    assert ended.returncode == 3, "the broken slide, and nothing else, must fail"
    return out


def rows(out: Path) -> dict[str, dict[str, str]]:
    with open(out / "summary.csv", encoding="utf-8", newline="") as file:
        return {row["slide"]: row for row in csv.DictReader(file)}


def test_run_gives_a_pyramid_a_slide_and_a_row_for_each(finished_run: Path, cohort: Cohort) -> None:
    found = rows(finished_run)
    assert {name: row["status"] for name, row in found.items() if name != "broken.svs"} == dict.fromkeys(
        set(found) - {"broken.svs"}, "done"
    )
    assert len(found) == 4
    assert found["broken.svs"]["status"] == "failed"
    assert found["broken.svs"]["reason"]
    assert found["broken.svs"]["remedy"]
    for name, row in found.items():
        if row["status"] == "done":
            with (
                openslide.OpenSlide(finished_run / row["output"]) as after,
                openslide.OpenSlide(cohort.slides / name) as before,
            ):
                assert after.dimensions == before.dimensions
                assert after.level_count > 2
                assert float(after.properties["openslide.mpp-x"]) == pytest.approx(0.25, rel=1e-3)


def test_run_leaves_the_record_and_the_report(finished_run: Path) -> None:
    record = json.loads((finished_run / "run.json").read_text())
    assert record["config"]["training"]["generator"]["ngf"] == 8
    assert len(record["checkpoint"]["sha256"]) == 64
    page = (finished_run / "report" / "index.html").read_text()
    assert "broken.svs" in page
    assert page.count("data:image/webp") >= 6 * 3
    assert (finished_run / "training" / "checkpoint.safetensors").exists()
    assert not (finished_run / ".lease").exists()


def test_run_moves_the_colour_towards_the_reference(finished_run: Path, cohort: Cohort) -> None:
    def mean_lab(path: Path) -> np.ndarray:
        with openslide.OpenSlide(path) as slide:
            pixels = np.asarray(slide.get_thumbnail((300, 300)).convert("RGB"))
        lab = rgb2lab(pixels)
        return lab[lab[..., 0] < 85].mean(axis=0)

    reference = mean_lab(next(cohort.reference.iterdir()))
    for name, row in rows(finished_run).items():
        if row["status"] == "done" and name != "marked.svs":  # on a slide this small its stroke counts as a speck
            before, after = mean_lab(cohort.slides / name), mean_lab(finished_run / row["output"])
            assert np.linalg.norm(after - reference) < 0.6 * np.linalg.norm(before - reference), name


def test_run_again_keeps_everything(
    finished_run: Path, cohort: Cohort, tiny: Path, wsi_stain: Run, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished_run, out, copy_function=shutil.copy2)
    before = {path: path.stat().st_mtime_ns for path in (out / "slides").rglob("*.tif")}
    ended = wsi_stain("run", cohort.slides, "-r", cohort.reference, "-o", out, "-c", tiny, "-j", 0)
    assert ended.code == 3
    assert ended.out.index("broken.svs") < ended.out.index("training: kept"), "told before any work"
    assert before == {path: path.stat().st_mtime_ns for path in (out / "slides").rglob("*.tif")}
    assert {name: row["status"] for name, row in rows(out).items()} == {
        name: row["status"] for name, row in rows(finished_run).items()
    }


def test_normalize_again_keeps_everything_and_another_checkpoint_leaves_nothing_old(
    finished_run: Path, tiny: Path, wsi_stain: Run, tmp_path: Path
) -> None:
    store, checkpoint = finished_run / "work" / "reference.zarr", finished_run / "training" / "checkpoint.safetensors"
    command = ("normalize", store, "--checkpoint", checkpoint, "-o", tmp_path / "out", "-c", tiny, "-j", 0)
    assert wsi_stain(*command).code == 0
    (pyramid,) = (tmp_path / "out" / "slides").rglob("*.tif")
    written = pyramid.stat().st_mtime_ns
    again = wsi_stain(*command)
    assert (again.code, pyramid.stat().st_mtime_ns) == (0, written)
    assert wsi_stain(*command, "--mode", "generator").code == 0
    assert pyramid.stat().st_mtime_ns > written


def test_a_damaged_slide_of_a_store_is_a_failed_row_and_no_more(
    finished_run: Path, tiny: Path, wsi_stain: Run, tmp_path: Path
) -> None:
    store, checkpoint = tmp_path / "store", finished_run / "training" / "checkpoint.safetensors"
    shutil.copytree(finished_run / "work" / "reference.zarr", store)
    (good,) = TileStore(store).slide_ids()
    shutil.copytree(store / good, store / "damaged")  # its record is of another slide
    ended = wsi_stain("normalize", store, "--checkpoint", checkpoint, "-o", tmp_path / "out", "-c", tiny, "-j", 0)
    assert ended.code == 3
    found = {row["slide"]: row for row in rows(tmp_path / "out").values()}
    assert sorted(row["status"] for row in found.values()) == ["done", "failed"]
    assert "The record of the slide" in found["damaged"]["reason"]
    for command in (("train", store), ("normalize", store, "--checkpoint", checkpoint)):
        planned = wsi_stain(*command, "-o", tmp_path / "t", "-c", tiny, "--dry-run")
        assert planned.code == (0 if command[0] == "train" else 3)
        assert "damaged: " in planned.out
        assert good in planned.out


def test_a_store_on_s3_normalizes_as_on_disk(finished_run: Path, tiny: Path, wsi_stain: Run, tmp_path: Path) -> None:
    store, checkpoint = finished_run / "work" / "reference.zarr", finished_run / "training" / "checkpoint.safetensors"
    with s3_endpoint():
        for name, place in (("disk", str(store)), ("s3", upload(store, "tiles"))):
            ended = wsi_stain(
                "normalize", place, "--checkpoint", checkpoint, "-o", tmp_path / name, "-c", tiny, "-j", 0
            )
            assert ended.code == 0
        assert "to learn from" in wsi_stain("train", place, "-o", tmp_path / "t", "-c", tiny, "--dry-run").out
    assert digests(tmp_path / "s3" / "slides") == digests(tmp_path / "disk" / "slides") != {}


def test_names_that_look_like_markup_are_names(cohort: Cohort, wsi_stain: Run, tmp_path: Path) -> None:
    folder = tmp_path / "a["
    folder.mkdir()
    shutil.copy(cohort.slides / "broken.svs", folder / "b].svs")
    ended = wsi_stain("inspect", tmp_path, "-j", 0)
    assert ended.code == 3
    assert "a[/b].svs" in ended.out


def test_serial_and_dask_and_another_cut_of_work_give_the_same_bytes(
    finished_run: Path, cohort: Cohort, tiny: Path, wsi_stain: Run, tmp_path: Path
) -> None:
    checkpoint = finished_run / "training" / "checkpoint.safetensors"
    wsi_stain("run", cohort.slides, "--checkpoint", checkpoint, "-o", tmp_path / "out", "-c", tiny, "-j", 0)
    assert digests(tmp_path / "out" / "slides") == digests(finished_run / "slides")


@pytest.mark.parametrize(
    "failpoint",
    [
        pytest.param("before-rename:9", marks=pytest.mark.slow),
        "before-rename:30",
        pytest.param("stitch-block:1", marks=pytest.mark.slow),
    ],
)
def test_killed_and_run_again_gives_the_same_bytes(
    finished_run: Path, cohort: Cohort, tiny: Path, tmp_path: Path, failpoint: str
) -> None:
    checkpoint, out = finished_run / "training" / "checkpoint.safetensors", tmp_path / "out"
    command = ("run", cohort.slides, "--checkpoint", checkpoint, "-o", out, "-c", tiny, "-j", 0)
    assert fork_command(*command, WSI_STAIN_FAILPOINT=failpoint).wait().code == -9
    assert digests(out / "slides") != digests(finished_run / "slides")
    assert fork_command(*command).wait().code == 3
    assert digests(out / "slides") == digests(finished_run / "slides")


def test_the_steps_give_what_run_gives(
    finished_run: Path, cohort: Cohort, tiny: Path, wsi_stain: Run, tmp_path: Path
) -> None:
    assert wsi_stain("tile", cohort.reference, "-s", tmp_path / "ref.zarr", "-c", tiny, "-j", 0).code == 0
    assert wsi_stain("train", tmp_path / "ref.zarr", "-o", tmp_path / "training", "-c", tiny).code == 0
    checkpoint = tmp_path / "training" / "checkpoint.safetensors"
    assert wsi_stain("tile", cohort.slides, "-s", tmp_path / "tiles.zarr", "-c", tiny, "-j", 0).code == 3
    out = tmp_path / "out"
    done = wsi_stain("normalize", tmp_path / "tiles.zarr", "--checkpoint", checkpoint, "-o", out, "-c", tiny, "-j", 0)
    assert done.code == 0
    assert set(digests(out / "slides")) == set(digests(finished_run / "slides"))
    for path in (out / "slides").rglob("*.tif"):
        with openslide.OpenSlide(path) as slide:
            assert slide.level_count > 2


def change_by(run: Run, finished_run: Path, cohort: Cohort, tiny: Path, out: Path) -> float:
    """Mean change of a slide's pixels where all is tissue, by `--mode generator`."""
    checkpoint, slide = finished_run / "training" / "checkpoint.safetensors", next(cohort.slides.rglob("*.tif"))
    ended = run(
        *("run", slide, "--checkpoint", checkpoint, "-o", out, "-c", tiny, "-j", 0),
        *("--mode", "generator", "--keep-tiles"),
    )
    assert ended.code == 0
    (row,) = rows(out).values()
    with openslide.OpenSlide(out / row["output"]) as after, openslide.OpenSlide(slide) as before:
        width, height = before.dimensions
        old, new = (np.asarray(s.read_region((0, 0), 0, (width, height)).convert("RGB"), int) for s in (before, after))
    store = TileStore(out / "work" / "tiles.zarr")
    (slide_id,) = store.slide_ids()
    rich = np.kron(store[slide_id].tissue > 0.99, np.ones((256, 256), bool))[:height, :width]
    return float(np.abs(new - old)[rich].mean())


def test_the_generator_changes_pixels(
    finished_run: Path, cohort: Cohort, tiny: Path, wsi_stain: Run, tmp_path: Path
) -> None:
    assert change_by(wsi_stain, finished_run, cohort, tiny, tmp_path) > 3


@pytest.mark.usefixtures("identity")
def test_nothing_but_the_normalizer_changes_pixels(
    finished_run: Path, cohort: Cohort, tiny: Path, wsi_stain: Run, tmp_path: Path
) -> None:
    assert change_by(wsi_stain, finished_run, cohort, tiny, tmp_path) < 3


def test_tile_dry_run_writes_nothing(cohort: Cohort, wsi_stain: Run, tmp_path: Path) -> None:
    ended = wsi_stain("tile", cohort.slides, "-s", tmp_path / "tiles.zarr", "-j", 0, "--dry-run")
    assert ended.code == 3
    assert "3 of 4 slides" in ended.out
    assert not list(tmp_path.iterdir())


def test_run_dry_run_writes_nothing(cohort: Cohort, wsi_stain: Run, tmp_path: Path) -> None:
    ended = wsi_stain("run", cohort.slides, "-r", cohort.reference, "-o", tmp_path / "out", "-j", 0, "--dry-run")
    assert ended.code == 3
    assert "tiles" in ended.out
    assert "GPU was found" in ended.out, "the default configuration is told, and why it was taken"
    assert not list(tmp_path.iterdir())


def test_train_and_normalize_dry_runs_write_nothing(
    finished_run: Path, tiny: Path, wsi_stain: Run, tmp_path: Path
) -> None:
    store = finished_run / "work" / "reference.zarr"
    ended = wsi_stain("train", store, "-o", tmp_path / "t", "-c", tiny, "--dry-run")
    assert (ended.code, "tiles to learn from" in ended.out) == (0, True)
    checkpoint = finished_run / "training" / "checkpoint.safetensors"
    ended = wsi_stain("normalize", store, "--checkpoint", checkpoint, "-o", tmp_path / "o", "-c", tiny, "--dry-run")
    assert (ended.code, "um/px" in ended.out) == (0, True)
    assert not list(tmp_path.iterdir())


def test_inspect_shows_each_slide_and_what_is_wrong_with_it(cohort: Cohort, wsi_stain: Run) -> None:
    ended = wsi_stain("inspect", cohort.slides, "-j", 0)
    assert ended.code == 3
    assert "aperio" in ended.out
    assert "40x" in ended.out
    assert "broken.svs" in ended.out
    assert "unreadable" in ended.out


def test_doctor_tells_versions_and_place(wsi_stain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRAS, "dicom", ("--format dicom", ("no-such-package",)))
    ended = wsi_stain("doctor", tmp_path)
    assert ended.code in (0, 1)
    assert "OpenSlide library" in ended.out
    assert "GPU" in ended.out
    told = " ".join(re.sub(r"[^\w\[\]'.-]", " ", ended.out).split())
    assert "extra dicom pip install 'wsi-stain[dicom]' if you want --format dicom" in told
    assert "extra s3 installed" in told


def test_doctor_knows_every_extra() -> None:
    extras = tomllib.loads((Path(__file__).parent.parent.parent / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    packages = {
        name: tuple(re.split(r"[^\w-]", wanted)[0] for wanted in extra)
        for name, extra in extras.items()
        if name not in ("dev", "docs")  # which no command needs
    }
    assert {name: brought for name, (_, brought) in EXTRAS.items()} == packages
    assert set(re.findall(r"\w+", extras["dev"][0].partition("[")[2])) == {*packages, "docs"}


def test_version_and_help(wsi_stain: Run) -> None:
    assert wsi_stain("--version").out.startswith("wsi-stain 0")
    assert "--reference" in wsi_stain("run", "--help").out


def test_help_shows_every_word_of_its_texts() -> None:
    """What stands in square brackets, such as a default, would be taken for markup and left out."""

    def texts(command: Any) -> Iterator[str]:
        yield from (text for text in (command.help, *(getattr(each, "help", "") for each in command.params)) if text)
        for part in getattr(command, "commands", {}).values():
            yield from texts(part)

    found = list(texts(get_command(app)))
    assert len(found) > 100
    assert [text for text in found if render(text).plain != text] == []


# Bad input: a clear error with a remedy, an exit code, nothing else lost.


def plain_slide(path: Path, mpp: float | None, tissue: bool = True) -> Path:
    size = Size(601, 433)
    amount = render_tissue(size, mpp or 0.25, 5) * tissue
    write_slide(path, stain_tissue(amount, LABORATORIES["other"], 5), mpp, 40)
    return path


def test_no_slides(wsi_stain: Run, tmp_path: Path) -> None:
    ended = wsi_stain("inspect", tmp_path)
    assert (ended.code, "remedy" in ended.err) == (1, True)


def test_a_slide_without_mpp_names_the_flag_and_the_flag_helps(
    finished_run: Path, tiny: Path, wsi_stain: Run, tmp_path: Path
) -> None:
    slide = plain_slide(tmp_path / "plain.tif", None)
    common = ("run", slide, "--checkpoint", finished_run / "training" / "checkpoint.safetensors", "-c", tiny, "-j", 0)
    assert wsi_stain(*common, "-o", tmp_path / "out").code == 3
    assert "--slide-mpp" in rows(tmp_path / "out")["plain.tif"]["remedy"]
    assert wsi_stain(*common, "-o", tmp_path / "out", "--slide-mpp", 0.25).code == 0
    again = wsi_stain(*common, "-o", tmp_path / "out", "--slide-mpp", 0.25, "--mode", "generator")
    assert (again.code, "plain.tif: made again" in again.out) == (0, True)


def test_a_slide_without_tissue_is_empty_not_failed(
    finished_run: Path, tiny: Path, wsi_stain: Run, tmp_path: Path
) -> None:
    slide = plain_slide(tmp_path / "glass.tif", 0.25, tissue=False)
    checkpoint = finished_run / "training" / "checkpoint.safetensors"
    ended = wsi_stain("run", slide, "--checkpoint", checkpoint, "-o", tmp_path / "out", "-c", tiny, "-j", 0)
    assert ended.code == 0
    assert rows(tmp_path / "out")["glass.tif"]["status"] == "empty"


def test_a_slide_of_another_resolution_is_refused_with_the_flag(
    finished_run: Path, tiny: Path, wsi_stain: Run, tmp_path: Path
) -> None:
    slide = plain_slide(tmp_path / "coarse.tif", 0.5)
    checkpoint = finished_run / "training" / "checkpoint.safetensors"
    ended = wsi_stain(
        "run", slide, "--checkpoint", checkpoint, "-o", tmp_path / "out", "-c", tiny, "-j", 0, "--slide-mpp", 0.5
    )
    assert ended.code == 3
    assert "um/px" in rows(tmp_path / "out")["coarse.tif"]["reason"]


@pytest.mark.parametrize("content", [b"not a checkpoint", b"", b"\x80\x04pickle"], ids=["text", "empty", "pickle"])
def test_a_wrong_checkpoint_stops_the_run_at_once(
    cohort: Cohort, wsi_stain: Run, tmp_path: Path, content: bytes
) -> None:
    wrong = tmp_path / "wrong.pt"
    wrong.write_bytes(content)
    ended = wsi_stain("run", cohort.slides, "--checkpoint", wrong, "-o", tmp_path / "out")
    assert (ended.code, "remedy" in ended.err) == (1, True)
    assert not (tmp_path / "out").exists()


def test_neither_reference_nor_checkpoint(cohort: Cohort, wsi_stain: Run, tmp_path: Path) -> None:
    ended = wsi_stain("run", cohort.slides, "-o", tmp_path / "out")
    assert (ended.code, "--reference" in ended.err) == (1, True)


def test_an_unusable_reference_stops_the_run(cohort: Cohort, tiny: Path, wsi_stain: Run, tmp_path: Path) -> None:
    broken = cohort.slides / "broken.svs"
    ended = wsi_stain("run", cohort.slides, "-r", broken, "-o", tmp_path / "out", "-c", tiny, "-j", 0)
    assert ended.code == 1
    assert "reference" in ended.err


def test_an_output_that_cannot_be_written(cohort: Cohort, wsi_stain: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = wsi_stain("run", cohort.slides, "-r", cohort.reference, "-o", tmp_path / "file" / "out")
    assert (ended.code, "cannot be written" in ended.err) == (1, True)


def test_an_unknown_key_is_named(cohort: Cohort, wsi_stain: Run, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("training: {epoch: 3}")
    ended = wsi_stain("run", cohort.slides, "-r", cohort.reference, "-o", tmp_path / "out", "-c", wrong)
    assert (ended.code, "training.epoch" in ended.err) == (1, True)


def test_wrong_usage_is_exit_code_2(wsi_stain: Run) -> None:
    assert wsi_stain("run", "--no-such-option").code == 2


@pytest.mark.parametrize("empty", [("-o", ""), ("--out", ""), ("--out=",)])
def test_an_empty_path_is_refused_and_not_the_current_folder(
    cohort: Cohort, wsi_stain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = wsi_stain("run", cohort.slides, "--checkpoint", "shipped", *empty)
    assert (ended.code, f"{empty[0]}" in ended.err, "is empty" in ended.err) == (2, True, True)
    assert not list(tmp_path.iterdir())


# Real slides, where they are.


def test_run_on_real_slides_some_of_which_cannot_be_used(
    real_data: Path, tiny: Path, wsi_stain: Run, tmp_path: Path
) -> None:
    skin = real_data / "formats" / "CMU-1-Small-Region.svs"
    ended = wsi_stain("run", real_data / "formats", "-r", skin, "-o", tmp_path, "-c", tiny, "-j", 0, "--mpp", 0.5)
    assert ended.code == 3
    found = rows(tmp_path)
    assert found["CMU-1-Small-Region.svs"]["status"] == "done"
    with openslide.OpenSlide(tmp_path / found["CMU-1-Small-Region.svs"]["output"]) as pyramid:
        assert float(pyramid.properties["openslide.mpp-x"]) == pytest.approx(0.5, abs=0.005)
        assert not pyramid.associated_images, "no label or macro image of the source may come along"
    for name, expected in {
        "broken.svs": "not a slide",
        "TCGA-CR-7395-01A-01-TS1.svs": "--slide-mpp",
        "CMU-1-Small-Region.jpeg.tiff": "--slide-mpp",
        "boxes.tiff": "--slide-mpp",
    }.items():
        assert found[name]["status"] == "failed", name
        assert expected in found[name]["reason"] + found[name]["remedy"], name
    assert all(row["reason"] and row["remedy"] for row in found.values() if row["status"] in ("failed", "empty"))


@pytest.mark.slow
def test_demo(wsi_stain: Run, tmp_path: Path) -> None:
    ended = wsi_stain("demo", "-o", tmp_path)
    assert ended.code == 0
    assert [row["status"] for row in rows(tmp_path / "out").values()] == ["done"] * 3
    assert (tmp_path / "out" / "report" / "before-after.jpg").exists()


def test_a_name_that_is_not_text_is_a_name(tmp_path: Path, wsi_stain: Run) -> None:
    folder, out = tmp_path / "slides", tmp_path / "out"
    folder.mkdir()
    made = write(tmp_path / "a.tif", paint(SMALL)).path
    try:
        made.rename(os.fsdecode(os.fsencode(folder) + b"/l\xe9; b.tif"))
    except OSError:
        pytest.skip("this file system takes names of UTF-8 only")
    checkpoint = write_untrained(tmp_path / "c.safetensors")
    assert wsi_stain("run", folder, "--checkpoint", checkpoint, "-o", out, "-j", 0).code == 0
    assert len(list((out / "slides").glob("*.ome.tif"))) == 1
    ended = wsi_stain("verify", out, "-j", 0)
    assert ended.code == 0, ended.out + (out / "verify.csv").read_text(errors="surrogateescape")
