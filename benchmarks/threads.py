"""Steps a second of a training with the threads that it would choose, and with one, beside busy processes.

    python benchmarks/threads.py --busy 0 1 2 --rounds 5

In each round the number is chosen anew, as a training chooses it when it begins, and as many steps of the networks of a
configuration are timed with it and with one thread, in turns. The ratio is to be 1 or more: below that the choice costs
time. Where one thread is chosen the two times are of the same work, and show how far chance alone moves the ratio.

What else the machine does counts as busy too, so beside `0` it should be idle.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import psutil

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as the command does, before torch is loaded

import torch

from pipelines.shared.config import load_config
from wsi_stain.pix2pix.step import Pix2Pix
from wsi_stain.training.config import TrainingConfig
from wsi_stain.training.loop import recipe
from wsi_stain.training.threads import choose_threads, computing_threads


@dataclass(frozen=True)
class Round:
    """One choice and what it was worth.

    Attributes:
        threads: How many were chosen.
        chosen_s: Seconds of a step with so many, the median.
        one_s: With one.
    """

    threads: int
    chosen_s: float
    one_s: float

    @property
    def ratio(self) -> float:
        """Steps a second with the threads that were chosen, over those with one."""
        return self.one_s / self.chosen_s


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep as many processes computing while this is open."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def measure(pix2pix: Pix2Pix, config: TrainingConfig, steps: int) -> Round:
    """Choose a number of threads, and time steps with it and with one, in turns."""
    threads = choose_threads()
    shape = config.batch, config.generator.in_channels, config.crop, config.crop
    x_BCHW, y_BCHW = torch.rand(shape) * 2 - 1, torch.rand(config.batch, 3, *shape[2:]) * 2 - 1
    taken: tuple[list[float], list[float]] = [], []
    for _ in range(steps):
        for count, times in zip((threads, 1), taken, strict=True):
            with computing_threads(count):
                began = time.perf_counter()
                pix2pix.step(x_BCHW, y_BCHW).read()
                times.append(time.perf_counter() - began)
    return Round(threads, median(taken[0]), median(taken[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], help="processes that compute beside it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="steps with each number of threads in a round")
    parser.add_argument("--config", default="small", help="configuration whose networks are trained")
    options = parser.parse_args()
    config = load_config(options.config).training
    torch.manual_seed(0)
    pix2pix = Pix2Pix(config.generator, recipe(config, torch.device("cpu")))
    print(f"{torch.get_num_threads()} threads at most; {psutil.cpu_percent(2.0):.0f} % of the cores busy before")
    for processes in options.busy:
        with busy(processes):
            rounds = [measure(pix2pix, config, options.steps) for _ in range(options.rounds)]
        ratios = sorted(found.ratio for found in rounds)
        chosen = " ".join(str(found.threads) for found in rounds)
        print(
            f"beside {processes} busy processes: {chosen} threads chosen;"
            f" {median(1 / found.chosen_s for found in rounds):.2f} steps/s,"
            f" {median(1 / found.one_s for found in rounds):.2f} with one thread;"
            f" ratio {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
