"""Normalize many small slides while worker processes are killed, again and again, and count what comes of it.

    python benchmarks/soak.py --slides 300 --every 10 --workers 2 --minutes 60

Slides of one block each are normalized twice: in peace by one process, and by worker processes one of which is killed
(SIGKILL) every few seconds, at a moment and of a choice that chance decides. All must be done, with the same bytes,
nothing half-written must be left, and memory and open files of the command's own process must not grow. What has not
ended in time is ended. Exit code 1 where something of that did not hold.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil

from wsi_stain.core.geometry import Size
from wsi_stain.results import read_rows
from wsi_stain.synthetic import LABORATORIES, render_tissue, stain_tissue, write_slide

_MPP = 0.5
_SAMPLE_S = 0.5
_PRINT_S = 60.0
_ROOM = 1.25
"""How much memory or files may grow by chance, from the second quarter of a run to its last."""


@dataclass
class Driver:
    """The command's own process while it is attacked: what it held, at each look.

    Attributes:
        kills: Workers killed.
        memory: Resident bytes.
        files: Open files and sockets.
        code: How it ended.
        late: Whether it had to be ended.
    """

    kills: int = 0
    memory: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    code: int = -1
    late: bool = False


@dataclass(frozen=True)
class Soak:
    """Outcome of a soak."""

    statuses: Counter[str]
    differing: int
    strays: int
    seconds: float
    driver: Driver

    @property
    def faults(self) -> list[str]:
        """What did not hold, a sentence each."""
        found = [f"{count} slides {status}" for status, count in self.statuses.items() if status != "done"]
        if self.driver.late:
            found.append(f"the command had not ended after {self.seconds:.0f} s")
        elif self.driver.code:
            found.append(f"the command ended with exit code {self.driver.code}")
        if self.differing or self.strays:
            found.append(f"{self.differing} outputs differ, {self.strays} files are left half-written")
        for name, held in (("memory", self.driver.memory), ("open files", self.driver.files)):
            early, late = quarter(held, 1), quarter(held, 3)
            if late > _ROOM * early:
                found.append(f"{name} grew from {early:.0f} to {late:.0f}")
        return found


def write_slides(folder: Path, count: int, side: int) -> tuple[Path, Path]:
    """Write a reference and slides of another laboratory; what exists is left as it is.

    Args:
        folder: Where they go.
        count: How many slides.
        side: Of each, px.

    Returns:
        The reference, and the folder of the slides.
    """
    for number in range(count + 1):
        path = folder / "slides" / f"{number:03}.svs" if number else folder / "reference.svs"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            tissue = render_tissue(Size(side, side), _MPP, seed=number)
            laboratory = LABORATORIES["other" if number else "reference"]
            write_slide(path, stain_tissue(tissue, laboratory, seed=number), _MPP, style="svs")
    return folder / "reference.svs", folder / "slides"


def run_soak(
    folder: Path, slides: int, every_s: float, workers: int, seed: int, side: int = 1200, limit_s: float = 3600
) -> Soak:
    """Make slides, normalize them in peace and under attack, and compare.

    Args:
        folder: Where everything goes.
        slides: How many.
        every_s: Mean time between two kills, seconds; each is between half and one and a half times that.
        workers: Worker processes of the attacked run.
        seed: Of the moments and the choice of workers.
        side: Of each slide, px.
        limit_s: The attacked run is ended after as long, seconds.
    """
    reference, sources = write_slides(folder, slides, side)
    command = [sys.executable, "-m", "pipelines.cli", "run", sources, "-r", reference, "--method", "macenko"]
    subprocess.run([*command, "-o", folder / "peace", "-j", "0"], check=True, stdout=subprocess.DEVNULL)
    began = time.monotonic()
    with open(folder / "attacked.log", "wb") as log:
        process = subprocess.Popen([*command, "-o", folder / "attacked", "-j", str(workers)], stdout=log, stderr=log)
        driver = kill_workers(process, every_s, random.Random(seed), limit_s)
    seconds, summary = time.monotonic() - began, folder / "attacked" / "summary.csv"
    rows = read_rows(summary) if summary.exists() else []
    statuses = Counter[str](row.status for row in rows)
    statuses["missing"] = slides - len(rows)
    expected, found = digests(folder / "peace" / "slides"), digests(folder / "attacked" / "slides")
    differing = sum(expected.get(name) != found.get(name) for name in expected.keys() | found.keys())
    strays = sum(1 for _ in (folder / "attacked").rglob(".*.partial"))
    return Soak(+statuses, differing, strays, seconds, driver)


def kill_workers(process: subprocess.Popen[bytes], every_s: float, chance: random.Random, limit_s: float) -> Driver:
    """Kill a worker of a command every now and then until the command ends, and look at the command meanwhile."""
    driver, own, began = Driver(), psutil.Process(process.pid), time.monotonic()
    due, told = began + every_s, began
    while process.poll() is None:
        now = time.monotonic()
        with suppress(psutil.NoSuchProcess):
            driver.memory.append(own.memory_info().rss)
            driver.files.append(own.num_fds())
            workers = find_workers(own)
            if workers and now > due:
                chance.choice(workers).kill()
                driver.kills += 1
                due = now + every_s * chance.uniform(0.5, 1.5)
        if now > told + _PRINT_S and driver.memory:
            told = now
            held = f"{driver.memory[-1] / 1e6:.0f} MB, {driver.files[-1]} open files"
            print(f"{now - began:.0f} s: {driver.kills} workers killed; the command holds {held}", flush=True)
        if now > began + limit_s and not driver.late:
            driver.late = True
            process.terminate()
        time.sleep(_SAMPLE_S)
    driver.code = process.wait()
    return driver


def find_workers(process: psutil.Process) -> list[psutil.Process]:
    """Return the worker processes that a command has started."""
    found = []
    for child in process.children():
        with suppress(psutil.NoSuchProcess):
            if any("spawn_main" in word for word in child.cmdline()):
                found.append(child)
    return found


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every whole file below a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".partial")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def quarter(values: list[int], number: int) -> float:
    """Return the median of a quarter of a series, numbered from 0; 0 where it is too short."""
    part = values[len(values) * number // 4 : len(values) * (number + 1) // 4]
    return median(part) if part else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=40)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two kills, about")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--side", type=int, default=1200, help="of each slide, px")
    parser.add_argument("--minutes", type=float, default=60.0, help="the attacked run is ended after as long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="directory to work in and to leave [default: one that is removed]")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="soak-"))
    limit_s = options.minutes * 60
    soak = run_soak(folder, options.slides, options.every, options.workers, options.seed, options.side, limit_s)
    if not options.keep:
        shutil.rmtree(folder)
    statuses = ", ".join(f"{count} {status}" for status, count in soak.statuses.items())
    print(f"{statuses} of {options.slides} slides in {soak.seconds:.0f} s, {soak.driver.kills} workers killed")
    print(f"{soak.differing} outputs differ, {soak.strays} files left half-written")
    for name, held, unit in (("memory", soak.driver.memory, 1e6), ("open files", soak.driver.files, 1)):
        print(f"{name} of the command, by quarter: " + ", ".join(f"{quarter(held, n) / unit:.0f}" for n in range(4)))
    for fault in soak.faults:
        print(f"FAULT: {fault}")
    sys.exit(1 if soak.faults else 0)


if __name__ == "__main__":
    main()
