"""Commands in odd surroundings: another locale, a terminal of no columns, a full disk behind stdout, little memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.made_store import paint_tissue
from wsi_stain.core.geometry import Size
from wsi_stain.synthetic.slide import write_slide

ASCII_ONLY = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def wsi_stain(*arguments: str, stdout: str = "&1", limit: str = ":", **environment: str) -> tuple[int, str]:
    """Run a command in a shell, below a limit (`ulimit`): its exit code, and what it printed."""
    line = f'{limit}; exec "$0" -m pipelines.cli "$@" >{stdout}'
    ended = subprocess.run(
        ["bash", "-c", line, sys.executable, *arguments],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
        capture_output=True,
        check=False,
    )
    return ended.returncode, (ended.stdout + ended.stderr).decode()


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "é漢.tif"
    write_slide(path, paint_tissue(Size(700, 530)), 0.5)
    return path


def test_a_locale_that_lacks_letters_of_a_name_is_no_obstacle(slide: Path, tmp_path: Path) -> None:
    code, said = wsi_stain("tile", str(slide), "-s", str(tmp_path / "é漢"), "-j", "0", **ASCII_ONLY)
    assert code == 0, said
    assert "Traceback" not in said and (tmp_path / "é漢" / "zarr.json").exists()


def test_letters_that_the_terminal_lacks_are_escaped(slide: Path) -> None:
    code, said = wsi_stain("inspect", str(slide), "-j", "0", PYTHONIOENCODING="ascii")
    assert code == 0 and r"\xe9\u6f22.tif" in said


def test_a_terminal_of_no_columns_gets_the_table_all_the_same(slide: Path) -> None:
    code, said = wsi_stain("inspect", str(slide), "-j", "0", COLUMNS="0")
    assert code == 0 and "é漢.tif" in said


def test_what_the_machine_refuses_is_said_in_words(slide: Path) -> None:
    code, said = wsi_stain("inspect", str(slide), "-j", "0", stdout="/dev/full")
    assert code == 1 and "No space left on device" in " ".join(said.split()) and "Traceback" not in said
    code, said = wsi_stain("train", "store", "-o", "x", limit="ulimit -v 1000000")
    assert code == 1 and "refused something" in said and "Traceback" not in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_signals_that_end_a_command_stop_it_as_ctrl_c_does(number: signal.Signals, slide: Path, tmp_path: Path) -> None:
    """At a moment when it works: a write of it never ends."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "pipelines.cli", "tile", str(slide), "-s", str(out), "-j", "0"]
    hangs = {**os.environ, "WSI_STAIN_FAILPOINT": "before-rename:3:hang"}
    former = signal.signal(number, signal.SIG_DFL)  # below nohup SIGHUP is ignored, by what is started as well
    try:
        process = subprocess.Popen(command, env=hangs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    finally:
        signal.signal(number, former)
    try:
        while process.poll() is None and not any(out.rglob("*.partial")):
            time.sleep(0.05)
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "run the same command again" in said, said
