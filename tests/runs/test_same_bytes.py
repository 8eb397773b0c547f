"""Serial, on worker processes, at a scheduler of its own, killed and resumed: the same bytes. Each takes a while."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.dask_processes import ONE_THREAD, dask_processes
from tests.support.files_below import digests
from tests.support.made_checkpoint import lively, write_untrained
from tests.support.made_run import odd_slide

pytestmark = pytest.mark.slow

_PATIENCE_S = 300


@dataclass(frozen=True)
class Job:
    """Two slides of four blocks each, stored, a checkpoint for them, and what one process makes of them."""

    store: Path
    checkpoint: Path
    config: Path
    expected: dict[str, str]


@pytest.fixture(scope="module", params=["generator", "lut"])
def job(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("same")
    slides = folder / "slides"
    slides.mkdir()
    odd_slide(slides / "a.svs")
    shutil.copy(slides / "a.svs", slides / "b.svs")
    config = folder / "config.yaml"
    config.write_text(f"normalize: {{mode: {request.param}, stride_px: 512, lut_tiles: 20}}")
    command("tile", slides, "-s", folder / "tiles.zarr", "-c", config, "-j", 0).check_returncode()
    checkpoint = folder / "c.safetensors"
    if request.param == "lut":  # whose table is made in the most steps
        lively(checkpoint, in_channels=2, stain_passes=2)
    else:
        write_untrained(checkpoint)
    job = Job(folder / "tiles.zarr", checkpoint, config, {})
    normalize(job, folder / "out", "-j", 0)
    job.expected.update(digests(folder / "out" / "slides"))
    assert len(job.expected) == 2
    return job


def command(*words: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "pipelines.cli", *map(str, words)], capture_output=True, check=False)


def words(job: Job, out: Path, *options: object) -> tuple[object, ...]:
    return ("normalize", job.store, "--checkpoint", job.checkpoint, "-c", job.config, "-o", out, *options)


def normalize(job: Job, out: Path, *options: object) -> str:
    ended = command(*words(job, out, *options))
    assert ended.returncode == 0, ended.stdout
    return ended.stdout.decode()


def await_blocks(out: Path, count: int) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while len(list(out.rglob("blocks/*.block"))) < count:
        assert time.monotonic() < deadline, "no blocks are made"
        time.sleep(0.01)


@pytest.mark.parametrize("workers", [1, 3])
def test_on_worker_processes(job: Job, tmp_path: Path, workers: int) -> None:
    said = normalize(job, tmp_path / "out", "-j", workers)
    assert "dashboard" not in said
    assert digests(tmp_path / "out" / "slides") == job.expected


@pytest.mark.gpu
def test_with_one_task_or_three_at_a_time_on_a_gpu(job: Job, tmp_path: Path) -> None:
    made = []
    for tasks in (1, 3):
        config = tmp_path / f"{tasks}.yaml"
        config.write_text(f"{job.config.read_text()}\nexecutor: {{workers: 1, gpus: 1, gpu_tasks: {tasks}}}")
        normalize(Job(job.store, job.checkpoint, config, {}), tmp_path / f"{tasks}")
        made.append(digests(tmp_path / f"{tasks}" / "slides"))
    assert made[0] == made[1]


def test_at_a_scheduler_while_a_worker_is_killed(job: Job, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with dask_processes(tmp_path, ONE_THREAD, ("--nthreads", "2"), ONE_THREAD) as processes:
        options = words(job, out, "--scheduler-file", processes.file)
        running = subprocess.Popen([sys.executable, "-m", "pipelines.cli", *map(str, options)])
        await_blocks(out, 1)
        processes.workers[0].kill()
        assert running.wait(_PATIENCE_S) == 0
    assert digests(out / "slides") == job.expected


def test_killed_with_all_its_workers_and_resumed(job: Job, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = map(str, words(job, out, "-j", 2))
    running = subprocess.Popen([sys.executable, "-m", "pipelines.cli", *options], start_new_session=True)
    await_blocks(out, 2)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert "blocks kept" in normalize(job, out, "-j", 1)
    assert digests(out / "slides") == job.expected


def test_a_scheduler_whose_workers_are_gone_ends_the_run_with_exit_code_1(job: Job, tmp_path: Path) -> None:
    out, config = tmp_path / "out", tmp_path / "config.yaml"
    config.write_text(f"{job.config.read_text()}\nexecutor: {{worker_timeout_s: 20}}")
    with dask_processes(tmp_path, ONE_THREAD) as processes:
        patient = Job(job.store, job.checkpoint, config, {})
        options = map(str, words(patient, out, "--scheduler-file", processes.file))
        running = subprocess.Popen([sys.executable, "-m", "pipelines.cli", *options], stderr=subprocess.PIPE)
        await_blocks(out, 1)
        processes.workers[0].kill()
        _, told = running.communicate(timeout=_PATIENCE_S)
    assert running.returncode == 1
    assert b"no worker for 20 s" in told
    assert b"Start workers" in told
