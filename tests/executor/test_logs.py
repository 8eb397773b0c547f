"""What libraries and workers have to say goes to files, and nothing of it to the terminal."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from wsi_stain.executor import ExecutorConfig, Flow, Task, open_executor, run_flows


def complain(argument: Any) -> dict[str, Any]:
    """Warn in three ways, as tifffile, numpy and libtiff do, and fail."""
    logging.getLogger("tifffile").warning("a tag is odd")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("a mean of nothing", RuntimeWarning, stacklevel=1)
    os.write(2, b"TIFFReadDirectory: a directory is odd\n")
    raise ZeroDivisionError("a bug")


def die_once(marker: Path) -> dict[str, Any]:
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {}


def flow_of(*tasks: Task) -> Flow:
    return (yield list(tasks))


def test_workers_write_to_their_log_and_dask_to_the_command_s(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logs = tmp_path / "out" / "logs"
    with open_executor(ExecutorConfig(workers=1), logs) as executor:
        flows = {
            "bad": flow_of(Task(complain, None, "read")),
            "dead": flow_of(Task(die_once, tmp_path / "died", "die")),
        }
        results = {result.key: result for result in run_flows(executor, flows)}
    assert isinstance(results["bad"].error, ZeroDivisionError)
    assert results["dead"].error is None
    assert capfd.readouterr() == ("", "")
    said = (logs / "cpu-0.log").read_text()
    for words in ("a tag is odd", "a mean of nothing", "a directory is odd", "Traceback", "ZeroDivisionError"):
        assert words in said
    assert "Restarting worker" in (logs / "command.log").read_text()


def test_what_a_killed_worker_leaves_in_shared_memory_is_not_told() -> None:
    ends_badly = (
        "import multiprocessing, os; from wsi_stain.executor import dask_cluster;"
        "dask_cluster._check_shared_memory(); left = multiprocessing.get_context('spawn').Lock(); os._exit(3)"
    )
    ended = subprocess.run([sys.executable, "-c", ends_badly], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "", "")


def test_in_one_process_warnings_and_tracebacks_go_to_the_command_s_log(tmp_path: Path) -> None:
    with open_executor(ExecutorConfig(workers=0), tmp_path / "logs") as executor:
        list(run_flows(executor, {"bad": flow_of(Task(complain, None, "read"))}))
    said = (tmp_path / "logs" / "command.log").read_text()
    for words in ("a tag is odd", "a mean of nothing", "Traceback", "ZeroDivisionError"):
        assert words in said


def test_where_nobody_says_anything_there_are_no_logs(tmp_path: Path) -> None:
    with open_executor(ExecutorConfig(workers=0), tmp_path / "logs"):
        pass
    assert not (tmp_path / "logs").exists()


def test_a_log_that_cannot_be_written_costs_nothing_but_itself(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs").touch()
    with open_executor(ExecutorConfig(workers=0), tmp_path / "logs") as executor:
        (result,) = run_flows(executor, {"bad": flow_of(Task(complain, None, "read"))})
    assert isinstance(result.error, ZeroDivisionError)
    assert "Logging error" not in capfd.readouterr().err
