"""What Dask costs beside this process alone: time, CPU time, and bytes through the scheduler, on one slide of a store.

    python benchmarks/executors.py STORE CHECKPOINT --slide SLIDE_ID --mode generator --rounds 3

Both normalize the whole slide in turn, in rounds: the serial executor, and Dask with one worker, so that both compute
on one core. Starting the cluster, and loading the generator once in each process, lie outside. CPU time counts this
process, in which the scheduler runs too, and the worker; on a busy machine it says more than the clock.

Bytes are the kernel's own counts (TCP_INFO, Linux) on all TCP connections of this process but the client's end of its
own: what came in and went out through the scheduler, and beside it the little that the worker's nanny says.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import struct
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

from pipelines.normalization.context import RunContext
from pipelines.normalization.flow import normalize_flow
from pipelines.normalization.target import NormalizationTarget
from pipelines.run_directory.workspace import Workspace, output_stems
from pipelines.shared.config import choose_config
from pipelines.shared.device import resolve_auto
from pipelines.shared.space import DiskSpace
from wsi_stain.core.geometry import TILE
from wsi_stain.executor import DaskExecutor, ExecutorConfig, SerialExecutor, run_flows
from wsi_stain.slides.listing.find import SlideSource
from wsi_stain.store import StoredSlide, TileStore

_ACKED, _RECEIVED = 120, 128
"""Where the kernel's struct tcp_info has tcpi_bytes_acked and tcpi_bytes_received."""


@dataclass(frozen=True)
class Cost:
    """What one run took: seconds by the clock, seconds of CPU, bytes through the scheduler."""

    seconds: float
    cpu: float
    bytes: int = 0


def normalize(
    executor: SerialExecutor | DaskExecutor, slide: StoredSlide, target: NormalizationTarget, mode: str, port: int = 0
) -> Cost:
    """Normalize the slide from nothing."""
    relative = slide.record.relative
    source = SlideSource(path=Path(relative), slide_id=slide.record.slide_id, relative=relative)
    folder = Path(tempfile.mkdtemp(prefix="executors-"))
    config = resolve_auto(choose_config(None, {"normalize": {"mode": mode}}), executor)
    stems = output_stems([source], portable=False)
    space = DiskSpace(folder, 0, 0, lambda text: None)
    context = RunContext(Workspace(folder), target, config, stems, lambda: None, lambda text: None, space)
    began, cpu, passed = time.monotonic(), cpu_seconds(), count_bytes(port)
    (result,) = run_flows(executor, {source.slide_id: normalize_flow(context, slide, source, began)})
    cost = Cost(time.monotonic() - began, cpu_seconds() - cpu, count_bytes(port) - passed)
    shutil.rmtree(folder)
    if result.error is not None:
        raise result.error
    return cost


def cpu_seconds() -> float:
    """CPU time of this process and of the workers that it started."""
    times = [process.cpu_times() for process in (psutil.Process(), *psutil.Process().children(recursive=True))]
    return sum(spent.user + spent.system for spent in times)


def count_bytes(port: int) -> int:
    """Bytes in and out on the connections of this process, except where it is the client of `port`."""
    if not port:
        return 0
    total = 0
    for found in psutil.Process().net_connections("tcp"):
        if not found.raddr or found.raddr.port == port:
            continue
        with socket.socket(fileno=os.dup(found.fd)) as end:
            facts = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
        total += sum(struct.unpack_from("Q", facts, place)[0] for place in (_ACKED, _RECEIVED))
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--slide", help="[default: the store's first]")
    parser.add_argument("--mode", default="generator")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    store, target = TileStore(options.store), NormalizationTarget.load(options.checkpoint.absolute())
    slide = store[options.slide or store.slide_ids()[0]]
    with SerialExecutor() as serial, DaskExecutor(ExecutorConfig(workers=1)) as dask:
        port = int(dask.scheduler_address.rpartition(":")[2])
        for executor in (serial, dask):
            normalize(executor, slide, target, options.mode)
        costs = [
            (normalize(serial, slide, target, options.mode), normalize(dask, slide, target, options.mode, port))
            for _ in range(options.rounds)
        ]
    blocks, tiles = len(slide.grid.blocks()), int(slide.kept.sum())
    print(f"{slide.record.slide_id}: {blocks} blocks, {tiles} tiles of tissue, output {options.mode}")
    for alone, spread in costs:
        print(
            f"serial {alone.seconds:.1f} s, CPU {alone.cpu:.1f} s; Dask {spread.seconds:.1f} s, CPU {spread.cpu:.1f} s"
        )
    print(f"by the clock {median(spread.seconds / alone.seconds for alone, spread in costs):.3f}")
    print(f"in CPU time  {median(spread.cpu / alone.cpu for alone, spread in costs):.3f}")
    passed, gigapixels = median(spread.bytes for _, spread in costs), tiles * TILE**2 / 1e9
    print(f"through the scheduler {passed / 1e3:.0f} kB, {passed / gigapixels / 1e6:.2f} MB per gigapixel of tissue")


if __name__ == "__main__":
    main()
