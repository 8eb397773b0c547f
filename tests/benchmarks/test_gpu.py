"""The measurements on a GPU: bounded, resumable, and as far as a CPU goes, right at the first try."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from wsi_stain.formats.block_file import encode_jpeg

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "gpu"))

from prepare import required_core, trim_wheel
from results import Results, write_table
from run import HERE, LIMITS_S, ROOT, is_installed, start_part


def write_wheel(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, text in files.items():
            file.writestr(name, text)
    return path


def names_in(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as file:
        return sorted(file.namelist())


def test_all_parts_fit_into_eight_minutes() -> None:
    assert sum(LIMITS_S.values()) <= 480


def test_what_was_found_is_there_when_the_part_is_stopped(tmp_path: Path) -> None:
    results = Results(tmp_path / "results" / "bare.json")
    results.add("eager", "9 Mpx/s")
    results.add("twice", "differs", "the same bytes", False)
    again = Results.load(results.path)
    assert again == results and again.ended == ""
    again.end("stopped after 3 s")
    table = write_table({"bare": again, "giant": Results.load(tmp_path / "none.json")}, tmp_path / "table.md")
    assert "| bare | twice | differs | **the same bytes: missed** |" in table
    assert "| bare | | stopped after 3 s | |" in table and "| giant | | not run | |" in table


def test_a_part_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)])}
    assert start_part("bare", tmp_path, True, environment, 0.05) == "stopped after 0 s"


def test_of_two_packages_only_what_is_called_is_carried(tmp_path: Path) -> None:
    codecs = ["_jpeg8.cpython-312-x86_64-linux-gnu.so", "_jpegxl.cpython-312-x86_64-linux-gnu.so", "__init__.py"]
    files = {f"imagecodecs/{name}": "x" for name in codecs} | {"imagecodecs-1.dist-info/METADATA": "Name: imagecodecs"}
    wheel = write_wheel(tmp_path / "imagecodecs-1-cp312-cp312-linux.whl", files)
    trim_wheel(wheel, tmp_path / "out.whl")
    assert names_in(tmp_path / "out.whl") == sorted(name for name in files if "jpegxl" not in name)
    other = write_wheel(tmp_path / "zarr-3-py3-none-any.whl", {"zarr/tests/a.py": "x"})
    trim_wheel(other, tmp_path / "same.whl")
    assert (tmp_path / "same.whl").read_bytes() == other.read_bytes()


def test_pydantic_gets_the_core_that_it_wants(tmp_path: Path) -> None:
    metadata = {
        "pydantic-2.dist-info/METADATA": "Requires-Dist: pydantic-core==2.41.5\nRequires-Dist: typing-inspection"
    }
    assert required_core(write_wheel(tmp_path / "pydantic-2.whl", metadata)) == "pydantic-core==2.41.5"


def test_a_jpeg_says_how_it_was_sampled_and_quantized() -> None:
    from encoding import read_header

    tile = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    kept, thinned, coarse = (read_header(encode_jpeg(tile, *how)) for how in ((90, 444), (90, 420), (50, 444)))
    assert kept.sampling == ((1, 1),) * 3 and thinned.sampling == ((2, 2), (1, 1), (1, 1))
    assert kept.tables == thinned.tables != coarse.tables
    assert coarse.tables[0][:4] == (16, 11, 12, 14), "at quality 50 they are those of the standard's annex K"


def test_what_a_machine_has_is_known() -> None:
    assert is_installed("numpy") and not is_installed("no-such-package")


@pytest.mark.slow
def test_the_dry_run_goes_through_every_part(tmp_path: Path) -> None:
    """The same code as on a GPU, tiny, on a CPU; run again it has nothing left to do."""
    command = [sys.executable, str(HERE / "run.py"), str(tmp_path), "--dry-run", "--minutes", "60"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in LIMITS_S:
        stored = json.loads((tmp_path / "results" / f"{name}.json").read_text())
        assert stored["ended"] == "done", f"{name}: {stored}\n{done.stdout}\n{done.stderr}"
        assert stored["rows"]
        assert not [row for row in stored["rows"] if row["met"] is False]
    assert (tmp_path / "pictures" / "correctness-generator.png").exists()
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout.count("done before") == len(LIMITS_S)
