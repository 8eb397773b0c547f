"""Commands on what a run or a training has left: their options, and one call each into a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipelines.cli.options import (
    Host,
    OpenBrowser,
    Port,
    Scheduler,
    SchedulerFile,
    Workers,
    absolute,
    console,
    run_or_plan,
)


def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT", callback=absolute, help="Checkpoint (safetensors) made by train or run."),
    ],
    model: Annotated[Path, typer.Argument(callback=absolute, metavar="MODEL.onnx", help="File to write.")],
) -> None:
    """Write a checkpoint's generator as ONNX, and check it with onnxruntime."""
    from pipelines.exports import onnx as pipeline

    raise typer.Exit(pipeline.run(checkpoint, model, console()))


def verify(
    out: Annotated[Path, typer.Argument(metavar="OUT", callback=absolute, help="Output directory of a run.")],
    slides: Annotated[
        list[Path] | None,
        typer.Option("--slides", help="Where the run's slides are now, if they moved; repeatable."),
    ] = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    scheduler_file: SchedulerFile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be checked and stop.")] = False,
) -> None:
    """Check every output of a run against its receipts, its readers and its source; faults go to OUT/verify.csv."""
    from pipelines import verify as pipeline
    from wsi_stain.executor import ExecutorConfig

    executor = ExecutorConfig(workers=workers, scheduler=scheduler, scheduler_file=scheduler_file)
    request = pipeline.Request(out, slides or [], executor)
    run_or_plan(pipeline, request, dry_run)


def report(
    out: Annotated[Path, typer.Argument(metavar="OUT", callback=absolute, help="Output directory of a run.")],
) -> None:
    """Make OUT/report/index.html again from what a run left, finished or not. Needs no slides."""
    from pipelines import report as pipeline

    raise typer.Exit(pipeline.run(out, console()))


def view(
    subject: Annotated[
        Path, typer.Argument(metavar="OUT|SLIDE", callback=absolute, help="Output directory of a run, or any slide.")
    ],
    other: Annotated[
        Path | None, typer.Argument(metavar="OTHER", callback=absolute, help="A slide to show beside it.")
    ] = None,
    port: Port = None,
    browser: OpenBrowser = True,
    host: Host = "127.0.0.1",
) -> None:
    """Show slides in the web browser: source and normalized side by side, or one over the other."""
    from pipelines import view as pipeline

    raise typer.Exit(pipeline.run(pipeline.Request(subject, other, host, port, browser), console()))


def annotate(
    out: Annotated[Path, typer.Argument(metavar="OUT", callback=absolute, help="Output directory of a run.")],
    to: Annotated[
        Path | None,
        typer.Option(callback=absolute, show_default="OUT/annotations", help="Directory for a file a slide."),
    ] = None,
    frame: Annotated[
        Literal["source", "output"],
        typer.Option(help="Whose level-0 pixels coordinates are in: the source's or the run's output's."),
    ] = "source",
    hallucination: Annotated[
        float, typer.Option(min=0, help="List tiles whose change no colour table explains by more, CIEDE2000.")
    ] = 5.0,
) -> None:
    """Write tissue, ink, missed tissue, holes and hallucination of a run's slides as GeoJSON for QuPath."""
    from pipelines.exports import annotations as pipeline

    request = pipeline.Request(out, to or out / "annotations", frame, hallucination)
    raise typer.Exit(pipeline.run(request, console()))
