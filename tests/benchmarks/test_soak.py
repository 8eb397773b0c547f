"""The soak with killed workers, at a size that a test may take."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from soak import quarter, run_soak


@pytest.mark.slow
def test_slides_are_done_with_the_same_bytes_while_workers_are_killed(tmp_path: Path) -> None:
    soak = run_soak(tmp_path, slides=8, every_s=8.0, workers=2, seed=1)
    assert soak.faults == []
    assert soak.driver.kills > 0


def test_quarters_of_a_series() -> None:
    assert [quarter([1, 1, 5, 5, 2, 2, 9, 9], number) for number in range(4)] == [1, 5, 2, 9]
    assert quarter([], 3) == 0
