"""Two real processes that train one generator together."""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.made_store import paint_tissue, store_slide
from wsi_stain.core.geometry import Size

TINY = """
training:
  generator: {downs: 3, ngf: 4, dropout: 0.0}
  ndf: 4
  images: 24
  epochs: 2
  batch: 4
  crop: 64
  lr: 0.002
  laboratories: 4
  validation_share: 0.3
  validation_tiles: 3
  calibration_images: 16
  panels: 1
  precision: float32
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("replicas") / "store.zarr"
    store_slide(root, "reference", paint_tissue(Size(1900, 700)))
    return root


def command(store: Path, out: Path, text: str = TINY) -> list[str]:
    config = out.with_suffix(".yaml")
    config.write_text(text)
    return ["-m", "pipelines.cli", "train", str(store), "--out", str(out), "--config", str(config)]


def together(arguments: list[str]) -> list[subprocess.CompletedProcess[str]]:
    """What torchrun does, with its environment variables."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    ended = []
    for process in processes:
        output, _ = process.communicate(timeout=300)
        ended.append(subprocess.CompletedProcess(process.args, process.returncode, output))
    return ended


def losses(out: Path) -> list[float]:
    return [float(row["l1"]) for row in csv.DictReader((out / "metrics.csv").read_text().splitlines())]


def test_two_train_as_one(store: Path, tmp_path: Path) -> None:
    first, second = together(command(store, tmp_path / "two"))
    assert (first.returncode, second.returncode) == (0, 0), first.stdout + second.stdout
    assert "checkpoint:" in first.stdout
    assert "checkpoint:" not in second.stdout
    assert (tmp_path / "two" / "checkpoint.safetensors").exists()
    alone = subprocess.run(
        [sys.executable, *command(store, tmp_path / "one")], capture_output=True, text=True, timeout=300
    )
    assert alone.returncode == 0, alone.stdout + alone.stderr
    # The same batches and weights at the start; only the statistics of BatchNorm are each replica's own.
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=0.1)


def test_a_batch_that_cannot_be_shared_is_refused(store: Path, tmp_path: Path) -> None:
    ended = together(command(store, tmp_path / "odd", TINY.replace("batch: 4", "batch: 3")))
    assert [each.returncode for each in ended] == [1, 1]
    assert all("multiple of their number" in each.stdout for each in ended)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_stops_it_safely(store: Path, tmp_path: Path, number: signal.Signals) -> None:
    out, many = tmp_path / "cut", TINY.replace("epochs: 2", "epochs: 400")
    process = subprocess.Popen(
        [sys.executable, *command(store, out, many)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    for _ in range(600):
        if (out / "state.safetensors").exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "stopped after" in output
    assert "Run the same command again" in output
    assert (out / "last.safetensors").exists()
    assert not (out / ".training.json").exists()
