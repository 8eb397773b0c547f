"""Run a command; print its wall time and the peak memory (PSS) of its whole process tree.

    python benchmarks/watch.py wsi-stain demo

PSS counts each shared page once in total, so the sum over processes is the memory really taken (Linux).
"""

from __future__ import annotations

import subprocess
import sys
import time

import psutil

_EVERY_S = 0.25


def tree_pss(root: psutil.Process) -> int:
    """Proportional set size of a process and all its descendants, bytes."""
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return total


def watch(command: list[str]) -> tuple[int, float, int]:
    """Run a command.

    Returns:
        Its exit code, its wall time in seconds, and its tree's peak PSS in bytes.
    """
    started, peak = time.monotonic(), 0
    child = subprocess.Popen(command)
    root = psutil.Process(child.pid)
    while child.poll() is None:
        try:
            peak = max(peak, tree_pss(root))
        except psutil.NoSuchProcess:
            break
        time.sleep(_EVERY_S)
    return child.wait(), time.monotonic() - started, peak


if __name__ == "__main__":
    code, seconds, peak = watch(sys.argv[1:])
    print(f"exit code {code}   wall time {seconds:.1f} s   peak PSS of the process tree {peak / 1e9:.2f} GB")
    sys.exit(code)
