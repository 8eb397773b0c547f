"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.commands import Ended, Run

# A busy machine is no failure: examples may take as long as they need.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# Several test processes share the cores, so each computes on one thread; set before torch or any child process starts.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none, whatever else was chosen by `-m`."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real slides: WSI_STAIN_DATA, else ../shared/data; skips where there is none."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("WSI_STAIN_DATA", default))
    if not folder.is_dir():
        pytest.skip("no real slides: set WSI_STAIN_DATA to their folder")
    return folder


@pytest.fixture
def identity() -> Iterator[None]:
    """Every mode is the identity."""
    from tests.support.identity import identity_in_every_mode

    with identity_in_every_mode():
        yield


@pytest.fixture
def wsi_stain(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process."""
    from pipelines.cli import app  # torch stays out of tests that run no command

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["wsi-stain", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            app.main()
        out, err = capfd.readouterr()
        return Ended(int(ended.value.code or 0), out, err)

    return run
