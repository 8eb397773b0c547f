"""Two real processes that train one generator together."""

from __future__ import annotations

import csv
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.support.commands import Ended
from tests.support.forked import fork_command
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
  correction_labs: 2
  panels: 1
  threads: 1
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
    return ["train", str(store), "--out", str(out), "--config", str(config)]


def together(arguments: list[str]) -> list[Ended]:
    """What torchrun does, with its environment variables."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    forks = [fork_command(*arguments, **shared, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(2)]
    return [fork.wait() for fork in forks]


def losses(out: Path) -> list[float]:
    return [float(row["l1"]) for row in csv.DictReader((out / "metrics.csv").read_text().splitlines())]


def test_two_train_as_one(store: Path, tmp_path: Path) -> None:
    first, second = together(command(store, tmp_path / "two"))
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert "checkpoint:" in first.out
    assert "checkpoint:" not in second.out
    assert (tmp_path / "two" / "checkpoint.safetensors").exists()
    alone = fork_command(*command(store, tmp_path / "one")).wait()
    assert alone.code == 0, alone.err
    # The same batches and weights at the start; only the statistics of BatchNorm are each replica's own.
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=0.1)


def test_a_batch_that_cannot_be_shared_is_refused(store: Path, tmp_path: Path) -> None:
    ended = together(command(store, tmp_path / "odd", TINY.replace("batch: 4", "batch: 3")))
    assert [each.code for each in ended] == [1, 1]
    assert all("multiple of their number" in each.err for each in ended)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_stops_it_safely(store: Path, tmp_path: Path, number: signal.Signals) -> None:
    out, many = tmp_path / "cut", TINY.replace("epochs: 2", "epochs: 400")
    fork = fork_command(*command(store, out, many))
    for _ in range(600):
        if (out / "state.safetensors").exists() or not fork.is_running:
            break
        time.sleep(0.1)
    os.kill(fork.pid, number)
    ended = fork.wait()
    output = ended.out + ended.err
    assert ended.code == 130, output
    assert "stopped after" in output
    assert "Run the same command again" in output
    assert (out / "last.safetensors").exists()
    assert not (out / ".training.json").exists()
