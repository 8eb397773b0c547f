"""Where networks compute: by the settings and what this machine has, settled once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pipelines.shared.config import choose_config
from pipelines.shared.device import own_device, resolve_auto, tasks_device
from tests.support.commands import Run
from tests.support.dask_processes import dask_processes
from tests.support.made_checkpoint import write_untrained
from tests.support.made_store import paint_tissue, store_slide
from wsi_stain.core.errors import ConfigError
from wsi_stain.core.geometry import Size
from wsi_stain.executor import ExecutorConfig, SerialExecutor, open_executor
from wsi_stain.normalizers.config import NormalizeConfig

REMOTE = "tcp://127.0.0.1:1"


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch says that there is a GPU; no test computes on it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)


@pytest.mark.parametrize(
    ("gpus", "scheduler", "tasks", "own"),
    [
        (0, None, "cpu", "cpu"),
        (1, None, "cpu", "cpu"),
        (0, REMOTE, "cpu", "cpu"),
        (None, REMOTE, "cpu", "cpu"),
        (2, REMOTE, "cuda", "cpu"),
    ],
)
def test_without_a_gpu(gpus: int | None, scheduler: str | None, tasks: str, own: str) -> None:
    config = ExecutorConfig(gpus=gpus, scheduler=scheduler)
    assert (tasks_device(config), own_device(config)) == (tasks, own)


@pytest.mark.usefixtures("with_gpu")
@pytest.mark.parametrize(
    ("gpus", "scheduler", "expected"),
    [(0, None, "cpu"), (0, REMOTE, "cpu"), (1, None, "cuda"), (None, None, "cuda"), (2, REMOTE, "cuda")],
)
def test_with_a_gpu(gpus: int | None, scheduler: str | None, expected: str) -> None:
    config = ExecutorConfig(gpus=gpus, scheduler=scheduler)
    assert (tasks_device(config), own_device(config)) == (expected, expected)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.shared.config.gpu_count", lambda: 0)
    with pytest.raises(ConfigError, match="gpus is 1, this machine shows 0"):
        choose_config("small", {"executor": {"gpus": 1}})
    assert choose_config("small", {"executor": {"gpus": 1, "scheduler": REMOTE}}).executor.gpus == 1


@pytest.mark.usefixtures("with_gpu")
def test_more_gpus_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match="gpus is 2, this machine shows 1"):
        choose_config("wsi", {"executor": {"gpus": 2}})
    assert choose_config("wsi", {"executor": {"gpus": 2, "scheduler": REMOTE}}).executor.gpus == 2


@pytest.mark.usefixtures("with_gpu")
def test_zero_gpus_keep_a_run_off_the_gpu(wsi_stain: Run, tmp_path: Path) -> None:
    store_slide(tmp_path / "store", "a", paint_tissue(Size(600, 500)), mpp=0.5)
    config = tmp_path / "c.yaml"
    config.write_text("executor: {gpus: 0, workers: 0}\nnormalize: {lut_tiles: 10}")
    checkpoint, out = write_untrained(tmp_path / "c.safetensors"), tmp_path / "out"
    ended = wsi_stain("normalize", tmp_path / "store", "--checkpoint", checkpoint, "-c", config, "-o", out)
    assert ended.code == 0, ended.out
    record = json.loads((out / "run.json").read_text())
    assert (record["device"], record["config"]["normalize"]["mode"]) == ("cpu", "lut")


def test_a_worker_that_offers_a_gpu_and_has_none_is_told(tmp_path: Path) -> None:
    with dask_processes(tmp_path, ("--nthreads", "1", "--resources", "GPU=1")) as processes:
        asked = {"executor": {"scheduler_file": str(processes.file), "gpus": 1}}
        config = choose_config("wsi", asked)
        with open_executor(config.executor) as executor, pytest.raises(ConfigError, match="finds none"):
            resolve_auto(config, executor)


@pytest.mark.usefixtures("with_gpu")
def test_a_gpu_is_asked_for_its_precision_by_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def is_native(including_emulation: bool) -> bool:
        asked.append(including_emulation)
        return False

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_native)
    config = resolve_auto(choose_config("wsi", {}), SerialExecutor())
    assert (config.normalize.mode, config.normalize.precision) == ("generator", "float32")
    assert asked == [False]
    assert resolve_auto(config, SerialExecutor()) == config


def test_threads_by_device_unless_given() -> None:
    assert [NormalizeConfig().resolve_auto(device).threads for device in ("cpu", "cuda", "cuda:1")] == [1, 4, 4]
    assert [NormalizeConfig(threads=2).resolve_auto(device).threads for device in ("cpu", "cuda")] == [2, 2]
