"""The settings of executors."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from wsi_stain.core.records import StrictRecord


class ExecutorConfig(StrictRecord):
    """Settings of the workers.

    Attributes:
        workers: Worker processes on this machine for all that needs no GPU; 0 runs everything in this process, None
            takes one for each core.
        gpus: GPUs of this machine, each of which gets a worker process of its own beside those. The commands
            put all that are found in place of None. With a running scheduler, any number but 0 says that its workers
            offer GPUs: docs/cluster.md. With 0 nothing computes on a GPU.
        gpu_processes: Worker processes of each GPU, which share it: one Python process may not keep a large GPU busy.
        gpu_tasks: Tasks that each of those runs at a time, so that the GPU computes while another task reads.
        scheduler: Address of a running Dask scheduler (tcp://... or tls://...), whose workers are used instead.
        scheduler_file: File that such a scheduler wrote with --scheduler-file.
        tls_ca_file: Authority that vouches for a tls:// scheduler, a PEM file; None leaves TLS to Dask's configuration.
        tls_cert: Certificate to show to it.
        tls_key: Key of that certificate.
        retries: How often a task that failed by no error of ours is tried again; Dask itself sees to dead workers.
        worker_timeout_s: How long to go on without a worker that could run what has to be run, seconds.
        time_limit_s: How long a task may run that does the work of one block of 4096 x 4096 px, seconds; others in
            proportion to their work. Then its worker process is ended, another takes its place, and the task's slide
            fails. There is no limit with `workers: 0`, which has no process to end.
        silence_s: How long a worker process of this machine may give no sign of life, seconds: then, and at most as
            much later, it is ended, another takes its place, and its tasks are run again.
    """

    workers: int | None = Field(default=None, ge=0)
    gpus: int | None = Field(default=None, ge=0)
    gpu_processes: int = Field(default=1, ge=1, le=16)
    gpu_tasks: int = Field(default=3, ge=1, le=16)
    scheduler: str | None = None
    scheduler_file: Path | None = None
    tls_ca_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    retries: int = Field(default=2, ge=0)
    worker_timeout_s: float = Field(default=120.0, gt=0)
    time_limit_s: float = Field(default=900.0, gt=0)
    silence_s: float = Field(default=50.0, gt=0)

    @property
    def is_remote(self) -> bool:
        """True if the workers are those of a scheduler that runs already."""
        return bool(self.scheduler or self.scheduler_file)

    @model_validator(mode="after")
    def _check_tls_files(self) -> ExecutorConfig:
        if len({bool(file) for file in (self.tls_ca_file, self.tls_cert, self.tls_key)}) > 1:
            raise ValueError("tls_ca_file, tls_cert and tls_key belong together: give all three or none")
        return self
