"""A whole `wsi-stain run` on a made-up slide of 1.2 gigapixels, 22 % of it tissue: its time, and where that goes.

    python benchmarks/end_to_end.py WORKDIR [--size 40000x30000] [--workers 2] [--mode lut] [--checkpoint shipped]

The slide (tests/support/giant_slide.py; 33000x17000 and larger) is at 0.25 um/px, its own resolution, and its two tiles
repeat, so that JPEG and look-ups in the table find more in the processor's caches than on a real one. Everything is
counted from the start of the command to its end. A stage's clock runs from the first line of the progress that names it
to the first line of the next; its CPU time is that of all processes in between. On a machine that does other work only
the CPU time and its shares say something.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
from contest import machine

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.support.giant_slide import write_giant
from wsi_stain.core.geometry import Size

_START = "start"
_STYLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PROGRESS = re.compile(r"([a-z]+) [^\w\s]+ \d+/\d+")


def spent_by(process: psutil.Process) -> float:
    """CPU time of a process and of all that it started, ended ones too, s."""
    total = 0.0
    for each in (process, *process.children(recursive=True)):
        try:
            times = each.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def run_watched(command: list[str]) -> tuple[list[tuple[str, float, float]], float, float]:
    """Run a command: (stage, clock and CPU time when it was first named), and the whole's clock and CPU time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started, began = time.perf_counter(), [(_START, 0.0, 0.0)]
    shown = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": "200"}  # as on a terminal, where progress is told at once
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=shown)
    process = psutil.Process(running.pid)
    assert running.stdout is not None
    for line in running.stdout:
        for stage in _PROGRESS.findall(_STYLE.sub("", line)):
            if stage not in {"slides", *(name for name, _, _ in began)}:
                began.append((stage, time.perf_counter() - started, spent_by(process)))
        last_line = line
    if running.wait():
        raise SystemExit(last_line)
    clock, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return began, clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Make the slide, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--size", default="40000x30000")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--mode", default="lut")
    parser.add_argument("--checkpoint", default="shipped")
    options = parser.parse_args()
    print(machine())
    out, slides = options.workdir / "out", options.workdir / "slides"
    shutil.rmtree(out, ignore_errors=True)
    slides.mkdir(parents=True, exist_ok=True)
    width, height = map(int, options.size.split("x"))
    write_giant(slides / "giant.tiff", Size(width, height))
    command = [str(Path(sys.executable).with_name("wsi-stain")), "run", str(slides), "--checkpoint", options.checkpoint]
    command += ["--out", str(out), "--mode", options.mode, "--workers", str(options.workers)]
    began, clock, cpu = run_watched(command)
    what = f"{width * height / 1e9:.2f} Gpx, {options.mode}, {options.workers} workers"
    print(f"{what}: {clock:.1f} s by the clock, {cpu:.1f} s of CPU time")
    ends = [*began[1:], ("end", clock, cpu)]
    for (stage, first, spent), (_, last, spent_then) in zip(began, ends, strict=True):
        print(f"  {stage:10s} {last - first:6.1f} s by the clock, {spent_then - spent:6.1f} s of CPU time")


if __name__ == "__main__":
    main()
