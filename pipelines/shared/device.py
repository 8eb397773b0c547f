"""Where networks compute, decided in one place for a whole run: by no module below, and no worker.

The rule, of `executor.gpus` and this machine:

    0                                 cpu, whatever is there
    a number, a running scheduler     the tasks: cuda, which its workers offer; this process: cuda if it has a GPU
    a number or null otherwise        cuda if this machine has a GPU, else cpu
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.shared.config import RunConfig
from pipelines.shared.formats import TABLES
from wsi_stain.executor import Executor, ExecutorConfig, Flow, Task, run_flows, single_task

if TYPE_CHECKING:
    from wsi_stain.pix2pix.precision import GpuReceipt


def own_device(executor: ExecutorConfig) -> str:
    """Return where this process computes (it trains, and tests classifiers), as torch names it: cuda or cpu."""
    from wsi_stain.pix2pix.precision import default_device  # torch is not loaded before it is needed

    return "cpu" if executor.gpus == 0 else default_device()


def tasks_device(executor: ExecutorConfig) -> str:
    """Return where the generator runs in tasks, as torch names it: cuda or cpu."""
    return "cuda" if executor.gpus and executor.is_remote else own_device(executor)


def resolve_auto(config: RunConfig, executor: Executor) -> RunConfig:
    """Return the configuration with each `auto` of its section `normalize` replaced, once for all tasks of the run.

    A GPU is asked for its precision where it is, by a worker: this process opens no context on it, and may have none.

    Raises:
        ConfigError: The worker finds no GPU.
        WsiStainError: There is no such worker.
    """
    device, normalize = tasks_device(config.executor), config.normalize
    if device == "cuda":
        (result,) = run_flows(executor, {"device": _ask_gpu_flow()})
        if result.error is not None:
            raise result.error
        if normalize.precision == "auto":
            normalize = normalize.model_copy(update={"precision": result.value["precision"]})
    if normalize.mode == "auto" and set(config.formats) & set(TABLES):
        normalize = normalize.model_copy(update={"mode": "lut"})
    return config.model_copy(update={"normalize": normalize.resolve_auto(device)})


def _ask_gpu_flow() -> Flow[GpuReceipt]:
    from wsi_stain.pix2pix.precision import describe_gpu

    return (yield from single_task(Task(describe_gpu, "cuda", "prepare", pool="gpu")))
