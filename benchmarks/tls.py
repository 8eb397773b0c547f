"""What TLS costs between a command and its workers: CPU time of tasks that do nothing, and of a slide.

    python benchmarks/tls.py STORE CHECKPOINT --tasks 2000 --rounds 5

Two clusters of one worker stand side by side, one as every run has it, with TLS, and one without. They do the same work
in turns. CPU time counts this process, in which the scheduler runs too, and the workers. Starting them lies outside;
what the certificates take is printed beside it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

from executors import cpu_seconds, normalize

from pipelines.normalization.target import NormalizationTarget
from wsi_stain.executor import DaskExecutor, ExecutorConfig, Flow, Task, dask_cluster, run_flows
from wsi_stain.store import TileStore

_PLAIN = {"host": "127.0.0.1", "protocol": "tcp://", "security": None}


def do_nothing(argument: Any) -> dict[str, Any]:
    """A task of no work."""
    return {}


def flow_of(count: int) -> Flow[None]:
    """Tasks of no work, all at once."""
    yield [Task(do_nothing, number, "nothing") for number in range(count)]


def spend_on_nothing(executor: DaskExecutor, count: int) -> float:
    """CPU seconds of tasks that do nothing."""
    cpu = cpu_seconds()
    (result,) = run_flows(executor, {"nothing": flow_of(count)})
    if result.error is not None:
        raise result.error
    return cpu_seconds() - cpu


def describe(what: str, costs: list[tuple[float, float]]) -> str:
    """One line: CPU seconds with and without TLS, and the ratio, of pairs of rounds."""
    ratios = sorted(private / plain for private, plain in costs)
    private, plain = (median(cost) for cost in zip(*costs, strict=True))
    return (
        f"{what}: CPU {private:.2f} s with TLS, {plain:.2f} s without,"
        f" ratio {median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--slide", help="[default: the store's first]")
    parser.add_argument("--mode", default="lut")
    parser.add_argument("--tasks", type=int, default=2000, help="tasks that do nothing, in a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    store, target = TileStore(options.store), NormalizationTarget.load(options.checkpoint.absolute())
    slide = store[options.slide or store.slide_ids()[0]]
    began = time.process_time()
    dask_cluster._private_connections()
    print(f"certificates of a run: CPU {time.process_time() - began:.2f} s", flush=True)
    config = ExecutorConfig(workers=1)
    with patch.object(dask_cluster, "_private_connections", lambda: _PLAIN):
        plain = DaskExecutor(config)
    with plain, DaskExecutor(config) as private:
        assert plain.scheduler_address.startswith("tcp:") and private.scheduler_address.startswith("tls:")
        pair = private, plain
        for executor in pair:
            normalize(executor, slide, target, options.mode)
            spend_on_nothing(executor, 100)
        nothing: list[tuple[float, float]] = []
        whole: list[tuple[float, float]] = []
        for _ in range(options.rounds):
            nothing.append(tuple(spend_on_nothing(executor, options.tasks) for executor in pair))
            whole.append(tuple(normalize(executor, slide, target, options.mode).cpu for executor in pair))
    print(describe(f"{options.tasks} tasks that do nothing", nothing))
    print(describe(f"{slide.record.slide_id} normalized, {len(slide.grid.blocks())} blocks", whole))


if __name__ == "__main__":
    main()
