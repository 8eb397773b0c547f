"""One task a slide, run side by side; a failure is reported and leaves the others alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from pipelines.shared.messages import describe_error
from pipelines.shared.progress import Progress
from wsi_stain.evaluation.methods import Method
from wsi_stain.executor import Executor, Pool, Task, run_flows, single_task

R = TypeVar("R")


def scoring_pool(methods: Sequence[Method]) -> Pool:
    """Return the workers that tasks with these methods are for: Pix2Pix runs the generator, at least to fit a table."""
    return "gpu" if any(method.normalize.method == "pix2pix" for method in methods) else "cpu"


def receipts_of(executor: Executor, tasks: Mapping[str, Task[R]], progress: Progress) -> dict[str, R]:
    """Run a task for each name; returns the receipts of those that succeed, in the order given."""
    flows = {name: single_task(task) for name, task in tasks.items()}
    done: dict[str, R] = {}
    for result in run_flows(executor, flows, progress.on_tasks, progress.on_done, progress.on_wait):
        if result.error is not None:
            progress.report(f"{result.key}: left out: {describe_error(result.error)}")
        else:
            done[result.key] = result.value
    return {name: done[name] for name in tasks if name in done}
