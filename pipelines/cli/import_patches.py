"""The commands `wsi-stain import idc|pcam|images|scorpion`: help texts, and one call each into a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import (
    Config,
    DryRun,
    PatchDirectory,
    PatchMpp,
    Scheduler,
    SchedulerFile,
    Store,
    Workers,
    absolute,
    console,
    overrides_of,
    run_or_plan,
)

patches = typer.Typer(
    no_args_is_help=True, help="Bring data sets of patches into a Zarr store, as `tile` brings slides."
)


@patches.command()
def idc(
    directory: PatchDirectory,
    store: Store,
    mpp: PatchMpp,
    config: Config = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    scheduler_file: SchedulerFile = None,
    dry_run: DryRun = False,
) -> None:
    """Import Kaggle's breast-histopathology-images: 50 px patches, put back in their places, a slide a patient."""
    from pipelines import import_patches as pipeline
    from pipelines.shared.config import choose_cpu_config

    run_config = choose_cpu_config(
        config, overrides_of(workers=workers, scheduler=scheduler, scheduler_file=scheduler_file)
    )
    request = pipeline.idc(directory, store, mpp, run_config)
    run_or_plan(pipeline, request, dry_run)


@patches.command()
def pcam(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", callback=absolute, help="Files camelyonpatch_level_2_split_*_x.h5.")
    ],
    store: Store,
    meta: Annotated[
        Path | None,
        typer.Option(callback=absolute, show_default="_meta.csv beside it", help="Metadata of one file."),
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(show_default="0.972, as published", help="Resolution, um per px.")
    ] = None,
    config: Config = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    scheduler_file: SchedulerFile = None,
    dry_run: DryRun = False,
) -> None:
    """Import PatchCamelyon in HDF5: 96 px patches, side by side, a slide for each one that the metadata names."""
    from pipelines import import_patches as pipeline
    from pipelines.shared.config import choose_cpu_config

    run_config = choose_cpu_config(
        config, overrides_of(workers=workers, scheduler=scheduler, scheduler_file=scheduler_file)
    )
    request = pipeline.pcam(files, meta, store, mpp, run_config)
    run_or_plan(pipeline, request, dry_run)


@patches.command()
def images(
    directory: PatchDirectory,
    store: Store,
    mpp: PatchMpp,
    labels: Annotated[
        bool, typer.Option(help="A patch's folder is its label, the folder above its slide; else it is its slide.")
    ] = True,
    config: Config = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    scheduler_file: SchedulerFile = None,
    dry_run: DryRun = False,
) -> None:
    """Import folders of PNG, JPEG or TIFF patches, side by side, labels from the folders' names."""
    from pipelines import import_patches as pipeline
    from pipelines.shared.config import choose_cpu_config

    run_config = choose_cpu_config(
        config, overrides_of(workers=workers, scheduler=scheduler, scheduler_file=scheduler_file)
    )
    request = pipeline.images(directory, store, mpp, labels, run_config)
    run_or_plan(pipeline, request, dry_run)


@patches.command()
def scorpion(
    directory: PatchDirectory,
    stores: Annotated[
        Path, typer.Option("--stores", callback=absolute, help="Directory for a tile store of each scanner.")
    ],
    mpp: PatchMpp,
    config: Config = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    scheduler_file: SchedulerFile = None,
    dry_run: DryRun = False,
) -> None:
    """Import SCORPION, the same places by five scanners: a store a scanner, for `evaluate scanners` and `pairs`."""
    from pipelines import import_patches as pipeline
    from pipelines.shared.config import choose_cpu_config

    run_config = choose_cpu_config(
        config, overrides_of(workers=workers, scheduler=scheduler, scheduler_file=scheduler_file)
    )
    requests = pipeline.scorpion(directory, stores, mpp, run_config)
    raise typer.Exit((pipeline.show_plans if dry_run else pipeline.run_all)(requests, console()))
