"""One task a slide: run side by side, each failure told and out of the way of the others."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.shared.progress import Progress, describe_error
from wsi_stain.executor import Executor, Receipt, Task, run_flows, single_task


def receipts_of(executor: Executor, tasks: Mapping[str, Task], progress: Progress) -> dict[str, Receipt]:
    """Run a task for each name; the receipts of those that succeed, in the order given."""
    flows = {name: single_task(task) for name, task in tasks.items()}
    done: dict[str, Receipt] = {}
    for result in run_flows(executor, flows, progress.on_tasks, progress.on_done):
        if result.error is not None:
            progress.report(f"{result.key}: left out: {describe_error(result.error)}")
        else:
            done[result.key] = result.value
    return {name: done[name] for name in tasks if name in done}
