"""Programs that do the same work, one after the other: medians of their times, and what was measured on."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import psutil

Contender = Callable[[], object]


def medians(contenders: Mapping[str, Contender], products: Sequence[Path], rounds: int) -> dict[str, float]:
    """Median seconds of each, taking turns; what they make is removed before each turn."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _round in range(rounds):
        for name, run in contenders.items():
            for product in products:
                product.unlink(missing_ok=True)
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(turns) for name, turns in seconds.items()}


def report(found: Mapping[str, float], baseline: str, megabytes: float) -> None:
    """Print seconds, speed, and the ratio to the baseline."""
    for name, seconds in found.items():
        print(
            f"{name:36} {seconds:8.2f} s {megabytes / seconds:9.0f} MB/s {seconds / found[baseline]:7.2f} x {baseline}"
        )


def machine() -> str:
    """What was measured on."""
    describe_file = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(": ")[1] for line in describe_file if line.startswith("model name")), platform.processor())
    libraries = ", ".join(f"{name} {version(name)}" for name in ("numpy", "imagecodecs", "pyvips-binary"))
    return (
        f"{model}, {len(os.sched_getaffinity(0))} cores, {psutil.virtual_memory().total / 1e9:.0f} GB, "
        f"Linux {platform.release()}, Python {platform.python_version()}, {libraries}; "
        f"load {os.getloadavg()[0]:.1f} before"
    )
