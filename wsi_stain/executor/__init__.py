"""Executors of tasks: this process, or Dask.

A task is a module-level function of `wsi_stain` and one small record; its result is a small receipt. Pixels never
pass through here. A *flow* is the work on one slide: a generator that yields a list of tasks, is sent the list of
their receipts, and returns its result. `run_flows` runs many flows at once, so that one slide is stitched while the
next is normalized, and a slide that fails takes no other down.

    tasks           what a task, a flow and an executor are
    config          the settings
    serial          this process: the reference that all others are compared with
    dask            worker processes, by Dask
    dask_cluster    its processes on this machine, or the running scheduler that is joined
    pools           which workers there are, in their two pools
    running         which tasks workers have begun
    flows           flows on an executor
    logs            where what libraries and workers say goes
    worker_process  what each worker process of this machine loads
"""

from __future__ import annotations

from wsi_stain.executor.config import ExecutorConfig
from wsi_stain.executor.dask import DaskExecutor, open_executor
from wsi_stain.executor.flows import run_flows
from wsi_stain.executor.serial import SerialExecutor
from wsi_stain.executor.tasks import (
    OPENING,
    SURVEYING,
    WHOLE_SLIDE,
    Executor,
    Flow,
    FlowResult,
    Pool,
    Receipt,
    Task,
    run_tasks,
    single_task,
)

__all__ = [
    "OPENING",
    "SURVEYING",
    "WHOLE_SLIDE",
    "DaskExecutor",
    "Executor",
    "ExecutorConfig",
    "Flow",
    "FlowResult",
    "Pool",
    "Receipt",
    "SerialExecutor",
    "Task",
    "open_executor",
    "run_flows",
    "run_tasks",
    "single_task",
]
