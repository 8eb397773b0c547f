"""Worker processes that come, go, are killed, or are of two kinds: on this machine and at a scheduler of its own."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest

from tests.support.dask_processes import ONE_THREAD, Processes, dask_processes
from tests.support.made_store import paint_tissue
from wsi_stain.core.errors import ConfigError, WsiStainError
from wsi_stain.core.geometry import Size
from wsi_stain.executor import DaskExecutor, ExecutorConfig, Flow, Pool, Task, open_executor, run_flows
from wsi_stain.executor.dask_cluster import local_workers
from wsi_stain.pix2pix.gpu import translate_device_errors
from wsi_stain.synthetic.slide import write_slide

SHORT_S = 2.0
GPU = ("--nthreads", "2", "--resources", "GPU=2")


def where(argument: Any) -> dict[str, Any]:
    import torch

    time.sleep(0.05)
    return {
        "pid": os.getpid(),
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "thread": threading.get_ident(),
        "torch_threads": torch.get_num_threads(),
        "nvml": dask.config.get("distributed.diagnostics.nvml"),
    }


def wait_for_another(known: tuple[Path, list[int]]) -> dict[str, Any]:
    """Return when this is, or has been, another process than those known."""
    come, pids = known
    if os.getpid() not in pids:
        come.touch()
    while not come.exists():
        time.sleep(0.02)
    return {"pid": os.getpid()}


def note(path: str) -> dict[str, Any]:
    """One line more in a file, unless it is there already."""
    time.sleep(0.1)
    Path(path).touch()
    return {"pid": os.getpid()}


def kill_worker(argument: Any) -> dict[str, Any]:
    """Die, but not before another task waits at this worker."""
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def task_at(pool: Pool) -> Task:
    return Task(where, None, "look", pool=pool)


def flow_of(*tasks: Task) -> Flow:
    return (yield list(tasks))


def occupy_pool(folder: Path, name: str, count: int) -> Flow:
    return (yield [Task(note, str(folder / f"{name}-{number}"), "note") for number in range(count)])


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with dask_processes(tmp_path, *[ONE_THREAD] * 3) as started:
        started.await_workers()
        yield started


def join_config(processes: Processes, **settings: Any) -> ExecutorConfig:
    return ExecutorConfig(scheduler_file=processes.file, worker_timeout_s=60, **settings)


def test_what_runs_the_generator_goes_to_the_gpus_and_all_else_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPUs named are not there: no process may ask NVML about them."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7,9")
    pools: list[Pool] = ["cpu", "gpu", "cpu"] * 12
    with open_executor(ExecutorConfig(workers=2, gpus=2)) as executor:
        (result,) = run_flows(executor, {"slide": flow_of(*map(task_at, pools))})
    places = list(zip(pools, result.value, strict=True))
    on_gpu, elsewhere = ([receipt for at, receipt in places if at == pool] for pool in ("gpu", "cpu"))
    assert {receipt["nvml"] for receipt in result.value} == {False}
    assert sorted(gpu for _, gpu in {(receipt["pid"], receipt["gpu"]) for receipt in on_gpu}) == ["4", "GPU-7"]
    assert 2 <= max(Counter(pid for pid, _ in {(r["pid"], r["thread"]) for r in on_gpu}).values()) <= 3
    assert len({receipt["pid"] for receipt in elsewhere}) == 2
    assert not {receipt["pid"] for receipt in on_gpu} & {receipt["pid"] for receipt in elsewhere}
    assert {receipt["torch_threads"] for receipt in (*on_gpu, *elsewhere)} == {1}


def test_several_processes_share_a_gpu_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7")
    workers = local_workers(ExecutorConfig(workers=3, gpus=2, gpu_processes=2, gpu_tasks=2))
    assert [own.get("env", {}).get("CUDA_VISIBLE_DEVICES") for own in workers.values()] == [
        *[None] * 3,
        *["4"] * 2,
        *["GPU-7"] * 2,
    ]
    assert [own["resources"] for own in workers.values()] == [{"CPU": 1}] * 3 + [{"GPU": 2}] * 4
    free = local_workers(ExecutorConfig(gpus=1, gpu_processes=len(os.sched_getaffinity(0)) + 3))
    assert [name for name in free if name.startswith("cpu")] == ["cpu-0"]


def test_a_scheduler_s_workers_with_gpus_are_told_by_what_they_offer(tmp_path: Path) -> None:
    with dask_processes(tmp_path, ("--nthreads", "1", "--resources", "CPU=1"), GPU) as processes:
        processes.await_workers()
        with open_executor(join_config(processes, gpus=1)) as executor:
            pools: tuple[Pool, ...] = ("gpu", "cpu") * 6
            (result,) = run_flows(executor, {"slide": flow_of(*map(task_at, pools))})
        pids = [{receipt["pid"] for receipt in result.value[half::2]} for half in (0, 1)]
        assert pids == [{processes.workers[1].pid}, {processes.workers[0].pid}]


def test_without_a_worker_that_has_a_gpu_the_run_ends_and_says_what_to_start(processes: Processes) -> None:
    config = join_config(processes, gpus=1).model_copy(update={"worker_timeout_s": SHORT_S})
    with (
        open_executor(config) as executor,
        pytest.raises(WsiStainError, match=r"no worker that offers the resource GPU for 2 s.*--resources GPU=N"),
    ):
        list(run_flows(executor, {"slide": flow_of(task_at("cpu"), task_at("gpu"))}))


def test_when_all_workers_are_gone_the_run_ends(processes: Processes, tmp_path: Path) -> None:
    config = join_config(processes).model_copy(update={"worker_timeout_s": SHORT_S})
    with open_executor(config) as executor:
        ended = run_flows(executor, {"quick": occupy_pool(tmp_path, "q", 1), "long": occupy_pool(tmp_path, "a", 200)})
        assert next(ended).key == "quick"
        for worker in processes.workers:
            worker.kill()
        with pytest.raises(WsiStainError, match="no worker for 2 s"):
            next(ended)


def test_when_the_scheduler_is_gone_the_run_ends(processes: Processes, tmp_path: Path) -> None:
    with open_executor(join_config(processes)) as executor:
        ended = run_flows(executor, {"quick": occupy_pool(tmp_path, "q", 1), "long": occupy_pool(tmp_path, "a", 200)})
        assert next(ended).key == "quick"
        processes.scheduler.kill()
        with pytest.raises(WsiStainError, match="scheduler was lost"):
            next(ended)


def test_workers_that_come_late_are_put_to_work(processes: Processes, tmp_path: Path) -> None:
    known = (tmp_path / "come", [worker.pid for worker in processes.workers])
    with open_executor(join_config(processes)) as executor:
        flow = flow_of(*[Task(wait_for_another, known, "wait")] * 20)
        ended = run_flows(executor, {"quick": occupy_pool(tmp_path, "q", 1), "long": flow})
        next(ended)
        late = processes.start_worker(*ONE_THREAD)
        (result,) = ended
        assert late.pid in {receipt["pid"] for receipt in result.value}


def test_a_killed_worker_s_tasks_are_done_by_others(processes: Processes, tmp_path: Path) -> None:
    with open_executor(join_config(processes)) as executor:
        ended = run_flows(executor, {"quick": occupy_pool(tmp_path, "q", 1), "long": occupy_pool(tmp_path, "a", 60)})
        next(ended)
        processes.workers[0].kill()
        (result,) = ended
    assert result.error is None
    assert len(result.value) == 60


def test_the_task_that_kills_its_workers_fails_and_those_beside_it_do_not(tmp_path: Path) -> None:
    """On one worker all tasks in flight are beside it each time it dies, so Dask blames them all."""
    with DaskExecutor(ExecutorConfig(workers=1)) as executor:
        flows = {"innocent": occupy_pool(tmp_path, "a", 4), "killer": flow_of(Task(kill_worker, None, "die"))}
        flows |= {"late": occupy_pool(tmp_path, "b", 4)}
        results = {result.key: result for result in run_flows(executor, flows)}
    assert "died again and again" in str(results["killer"].error)
    assert [results[name].error for name in ("innocent", "late")] == [None, None]


@dataclass(frozen=True)
class BreaksOnce:
    """A task upon which the GPU of the first process that does one is broken, for that process, for good."""

    marker: Path


_broken = False


@translate_device_errors
def break_once(task: BreaksOnce) -> dict[str, Any]:
    global _broken
    if not task.marker.exists():
        task.marker.touch()
        _broken = True
    if _broken:
        import torch

        raise torch.AcceleratorError("CUDA error: device-side assert triggered")
    return {"pid": os.getpid()}


def test_a_worker_whose_gpu_is_broken_is_replaced(tmp_path: Path) -> None:
    tasks = [Task(break_once, BreaksOnce(tmp_path / "broken"), "normalize", pool="gpu")] * 12
    with open_executor(ExecutorConfig(workers=1, gpus=1)) as executor:
        (result,) = run_flows(executor, {"slide": flow_of(*tasks)})
    assert result.error is None
    assert len(result.value) == 12
    assert len({receipt["pid"] for receipt in result.value}) == 1


def test_no_scheduler_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(WsiStainError, match=r"No Dask scheduler has written .*gone.json for 0 s"):
        DaskExecutor(ExecutorConfig(scheduler_file=tmp_path / "gone.json", worker_timeout_s=0.1))
    with pytest.raises(WsiStainError, match=r"No Dask scheduler answers at tcp://127\.0\.0\.1:1"):
        DaskExecutor(ExecutorConfig(scheduler="tcp://127.0.0.1:1", worker_timeout_s=0.1))
    with pytest.raises(ConfigError, match="there are no certificates"):
        DaskExecutor(ExecutorConfig(scheduler="tls://127.0.0.1:1"))


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate that vouches for itself, and its key."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1")
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


def test_a_scheduler_behind_tls_takes_those_who_have_its_certificate(
    tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    cert, key = certificate
    files = ("--tls-ca-file", str(cert), "--tls-cert", str(cert), "--tls-key", str(key))
    with dask_processes(tmp_path, ONE_THREAD, options=("--protocol", "tls", *files)) as processes:
        assert processes.address.startswith("tls://")
        config = ExecutorConfig(scheduler=processes.address, tls_ca_file=cert, tls_cert=cert, tls_key=key)
        with open_executor(config) as executor:
            (result,) = run_flows(executor, {"slide": flow_of(Task(where, None, "look"))})
        assert result.value[0]["pid"] == processes.workers[0].pid
        with pytest.raises(ConfigError, match="there are no certificates"):
            DaskExecutor(ExecutorConfig(scheduler=processes.address))


def test_without_shared_memory_the_way_on_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(multiprocessing.get_context("spawn"), "Lock", refuse)
    with pytest.raises(WsiStainError, match="cannot be started here: Read-only file system") as caught:
        DaskExecutor(ExecutorConfig(workers=1))
    assert "--workers 0" in caught.value.remedy


@pytest.mark.slow
def test_ctrl_c_is_one_line_and_the_way_on(tmp_path: Path) -> None:
    """The signal goes to all processes of the terminal, workers too."""
    write_slide(tmp_path / "a.svs", np.tile(paint_tissue(Size(2048, 2048)), (8, 8, 1)), 0.25, style="svs")
    command = [
        sys.executable,
        "-m",
        "pipelines.cli",
        "tile",
        tmp_path / "a.svs",
        "--store",
        tmp_path / "s.zarr",
        "-j",
        "1",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        while not list((tmp_path / "s.zarr").glob("*/.receipts/survey.json")):
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        printed = process.stdout.read()
    assert process.returncode == 130
    assert "Traceback" not in printed
    assert printed.splitlines()[-1] == "stopped: run the same command again to go on, finished work is kept"
