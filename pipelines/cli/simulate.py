"""The command `simulate`: its options, and one call into its pipeline."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli.options import (
    Config,
    DryRun,
    Formats,
    Masks,
    MppOption,
    Out,
    Scheduler,
    SchedulerFile,
    SlideMpp,
    Slides,
    Workers,
    overrides_of,
    print_line,
    run_or_plan,
)


def simulate(
    slides: Slides,
    out: Out,
    laboratories: Annotated[
        list[str],
        typer.Option(
            "--as",
            help="A laboratory by name, or a YAML file of laboratories; repeatable. OUT has a folder for each.",
        ),
    ],
    config: Config = None,
    mpp: MppOption = None,
    slide_mpp: SlideMpp = None,
    formats: Formats = None,
    masks: Masks = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    scheduler_file: SchedulerFile = None,
    dry_run: DryRun = False,
) -> None:
    """Show slides as simulated laboratories would, as pyramids: a stress test for models."""
    from pipelines import simulate as pipeline
    from pipelines.shared.config import choose_config

    overrides = overrides_of(
        mpp, slide_mpp, formats=formats, workers=workers, scheduler=scheduler, scheduler_file=scheduler_file
    )
    request = pipeline.Request(slides, laboratories, out, choose_config(config, overrides, print_line), masks)
    run_or_plan(pipeline, request, dry_run)
