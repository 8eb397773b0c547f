"""Tasks that never end, workers that fall silent or die before they begin: on real processes of this machine."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest

from tests.support.commands import Run
from tests.support.made_store import paint_tissue
from wsi_stain.core import journal
from wsi_stain.core.errors import TimeLimitError
from wsi_stain.core.geometry import Size
from wsi_stain.executor import DaskExecutor, ExecutorConfig, Flow, SerialExecutor, Task, dask_cluster, flows, run_flows
from wsi_stain.store import TileStore
from wsi_stain.synthetic.slide import write_slide


def pid_of(argument: Any) -> dict[str, Any]:
    return {"pid": os.getpid()}


def never_return(note: Path) -> dict[str, Any]:
    """Read what nobody will ever write."""
    note.write_text(str(os.getpid()))
    os.read(os.pipe()[0], 1)
    return {}


def stop_once(note: Path) -> dict[str, Any]:
    """Be stopped, as by Ctrl-Z, but only the first time."""
    if not note.exists():
        note.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)
    return {"pid": os.getpid()}


def await_end(pid: int) -> None:
    """Wait until a process has ended; one that is killed on a busy machine ends a little later."""
    deadline = time.monotonic() + 60
    with suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def flow_of(*tasks: Task) -> Flow:
    return (yield list(tasks))


def worker_processes() -> list[psutil.Process]:
    """Processes that this one has started for Dask."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ended meanwhile
            if any("spawn_main" in word for word in process.cmdline()):
                found.append(process)
    return found


@pytest.fixture(scope="module")
def executor() -> Iterator[DaskExecutor]:
    with DaskExecutor(ExecutorConfig(workers=2, time_limit_s=20, silence_s=5)) as opened:
        yield opened


def test_a_task_that_never_returns_fails_alone_and_its_worker_is_replaced(
    executor: DaskExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows, "_WATCH_EVERY_S", 0.2)
    waits: list[tuple[str, str]] = []
    stuck = Task(never_return, tmp_path / "pid", "read", 0.1)
    both = {"stuck": flow_of(stuck), "innocent": flow_of(*[Task(pid_of, None, "quick")] * 8)}
    ended = run_flows(executor, both, on_wait=lambda key, task, seconds: waits.append((key, task.stage)))
    results = {result.key: result for result in ended}
    assert isinstance(results["stuck"].error, TimeLimitError)
    assert "stage read did not end within 2 s" in str(results["stuck"].error)
    assert "executor.time_limit_s" in results["stuck"].error.remedy
    assert results["innocent"].error is None
    assert ("stuck", "read") in waits
    (later,) = run_flows(executor, {"later": flow_of(*[Task(pid_of, None, "quick")] * 8)})
    assert later.error is None
    pid = int((tmp_path / "pid").read_text())
    await_end(pid)
    assert pid not in {receipt["pid"] for receipt in later.value}


def test_the_tasks_of_a_stopped_worker_go_to_others(executor: DaskExecutor, tmp_path: Path) -> None:
    begun = time.monotonic()
    stopped = flow_of(Task(stop_once, tmp_path / "pid", "stop", 10.0), *[Task(pid_of, None, "quick")] * 8)
    (result,) = run_flows(executor, {"stopped": stopped})
    assert result.error is None
    assert int((tmp_path / "pid").read_text()) not in {receipt["pid"] for receipt in result.value}
    assert time.monotonic() - begun < 120


def await_another(known: set[int]) -> psutil.Process:
    """Wait for a worker process that was not known, and add it to those."""
    while True:
        for process in worker_processes():
            if process.pid not in known:
                known.add(process.pid)
                return process
        time.sleep(0.02)


@pytest.mark.slow
def test_workers_that_dask_gave_up_or_that_never_begin_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask gives up whose worker is away when it looks, some time after a death: here at once, else the first is hit
    by chance after hours of deaths."""
    monkeypatch.setitem(dask_cluster._LOCAL_SETTINGS, "distributed.deploy.lost-worker-timeout", "10ms")
    monkeypatch.setattr(dask_cluster, "_BEGIN_S", 15.0)
    known = {process.pid for process in worker_processes()}
    with DaskExecutor(ExecutorConfig(workers=1, worker_timeout_s=60)) as one:
        await_another(known).kill()
        (result,) = run_flows(one, {"given up": flow_of(Task(pid_of, None, "quick"))})
        assert result.error is None
        last = psutil.Process(result.value[0]["pid"])
        known.add(last.pid)
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1000 days"})
        last.kill()
        await_another(known).suspend()
        (result,) = run_flows(one, {"hung": flow_of(Task(pid_of, None, "quick"))})
        assert result.error is None
        assert result.value[0]["pid"] not in known


@pytest.mark.slow
def test_a_worker_that_is_killed_while_the_cluster_starts_does_not_end_the_run() -> None:
    known = {process.pid for process in worker_processes()}
    killer = threading.Thread(target=lambda: await_another(known).kill())
    killer.start()
    with DaskExecutor(ExecutorConfig(workers=1)) as one:
        killer.join()
        (result,) = run_flows(one, {"slide": flow_of(Task(pid_of, None, "quick"))})
    assert result.error is None
    assert result.value[0]["pid"] not in known


def test_in_one_process_the_task_that_runs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "_WATCH_EVERY_S", 0.01)
    named = threading.Event()

    def wait_until_named(argument: Any) -> dict[str, Any]:
        return {"named": named.wait(10)}

    with SerialExecutor() as serial:
        flow = flow_of(Task(wait_until_named, None, "wait"))
        (result,) = run_flows(serial, {"slide": flow}, on_wait=lambda key, task, seconds: named.set())
    assert result.value == [{"named": True}]
    assert threading.active_count() == 1 or all(thread.name != "watch" for thread in threading.enumerate())


@pytest.fixture
def hanging_slide(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a slide that no process of this test ever opens."""
    monkeypatch.setenv("WSI_STAIN_FAILPOINT", "open b.svs:1:hang")
    yield "b.svs"
    journal._failpoint_plan.cache_clear()


@pytest.mark.slow
def test_a_slide_that_never_opens_is_a_row_and_the_others_are_done(
    wsi_stain: Run, tmp_path: Path, hanging_slide: str
) -> None:
    (tmp_path / "slides").mkdir()
    for name in ("a.svs", hanging_slide, "c.svs"):
        write_slide(tmp_path / "slides" / name, paint_tissue(Size(1500, 1100)), 0.5, style="svs")
    config = tmp_path / "config.yaml"
    config.write_text("executor: {time_limit_s: 100}")
    ended = wsi_stain("tile", tmp_path / "slides", "-s", tmp_path / "tiles.zarr", "-c", config, "-j", 2)
    assert ended.code == 3
    assert "b.svs: Its stage open did not end within 20 s" in ended.out
    assert TileStore(tmp_path / "tiles.zarr").slide_ids() == ["a.svs", "c.svs"]
