"""The command `wsi-stain`: help texts, and one call each into a pipeline.

Exit codes: 0 all good, 1 the run could not go on, 2 wrong usage, 3 some slides failed, 130 stopped by a signal.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from pipelines.cli.evaluate import evaluate
from pipelines.cli.import_patches import patches
from pipelines.cli.options import (
    STORE,
    AcceptPoorCheckpoint,
    Codec,
    Config,
    DryRun,
    Formats,
    Masks,
    Method,
    Mode,
    MppOption,
    Out,
    Overlay,
    PlainTextGroup,
    PortableNames,
    Scheduler,
    SchedulerFile,
    SlideMpp,
    Slides,
    Store,
    To,
    Workers,
    absolute,
    checkpoint_file,
    console,
    overrides_of,
    print_line,
    run_or_plan,
)
from pipelines.cli.outputs import annotate, export, report, verify, view
from pipelines.cli.reference import reference
from pipelines.cli.simulate import simulate
from pipelines.cli.surroundings import printed, refused_error, stop_on_signals, take_all_names
from pipelines.shared.messages import print_error
from wsi_stain import __version__
from wsi_stain.core.errors import InterruptedTrainingError, WsiStainError
from wsi_stain.core.storage import storage_path

app = typer.Typer(
    cls=PlainTextGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Normalize whole-slide images to the stain of a reference laboratory with Pix2Pix.",
)

app.add_typer(patches, name="import")
app.add_typer(evaluate, name="evaluate")
app.add_typer(reference, name="reference")


@app.callback(invoke_without_command=True)
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks and the address of Dask's dashboard; before the command.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if debug:
        own = logging.getLogger("wsi_stain")
        own.setLevel(logging.DEBUG)
        own.addHandler(logging.StreamHandler())
    if version:
        typer.echo(f"wsi-stain {__version__}")
        raise typer.Exit


@app.command()
def run(
    slides: Slides,
    out: Out,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            "--reference",
            "-r",
            help="Reference slide, or directory of them; repeatable. auto: the slide that lies nearest to all others.",
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(callback=checkpoint_file, help="Use this checkpoint instead of training one; shipped: ours."),
    ] = None,
    config: Config = None,
    mpp: MppOption = None,
    slide_mpp: SlideMpp = None,
    method: Method = None,
    mode: Mode = None,
    formats: Formats = None,
    codec: Codec = None,
    masks: Masks = None,
    group: Annotated[
        Literal["listed", "auto"] | None,
        typer.Option(
            show_default="listed",
            help="Slides that share their stain: those of one group of the slide list; auto: those of one scanner and "
            "folder too.",
        ),
    ] = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    scheduler_file: SchedulerFile = None,
    stream: Annotated[bool, typer.Option("--stream", help="Store no tiles: read pixels from the slides.")] = False,
    keep_tiles: Annotated[bool, typer.Option("--keep-tiles", help="Keep the slides' tiles in OUT/work.")] = False,
    accept_poor_checkpoint: AcceptPoorCheckpoint = False,
    portable_names: PortableNames = False,
    dry_run: DryRun = False,
) -> None:
    """Tile, train on the reference, normalize, stitch, report: all in one."""
    from pipelines import run as pipeline
    from pipelines.shared.config import choose_config

    overrides = overrides_of(
        *(mpp, slide_mpp, mode, formats, workers, scheduler, scheduler_file, keep_tiles or None, codec, method),
        accept_poor_checkpoint=accept_poor_checkpoint,
        portable_names=portable_names,
    )
    overrides |= {"stream": stream or None, "group": group}
    references = [Path(name).absolute() for name in reference or () if name != "auto"]
    run_config, auto = choose_config(config, overrides, print_line), "auto" in (reference or ())
    request = pipeline.Request(slides, references, checkpoint, out, run_config, masks, auto)
    run_or_plan(pipeline, request, dry_run)


@app.command()
def tile(
    slides: Slides,
    store: Store,
    config: Config = None,
    mpp: MppOption = None,
    slide_mpp: SlideMpp = None,
    codec: Codec = None,
    masks: Masks = None,
    overlay: Overlay = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    scheduler_file: SchedulerFile = None,
    dry_run: DryRun = False,
) -> None:
    """Extract the tissue tiles of slides into a Zarr store."""
    from pipelines import tile as pipeline
    from pipelines.shared.config import choose_cpu_config

    overrides = overrides_of(
        mpp, slide_mpp, workers=workers, scheduler=scheduler, scheduler_file=scheduler_file, codec=codec
    )
    request = pipeline.Request(slides, store, choose_cpu_config(config, overrides), masks, overlay)
    run_or_plan(pipeline, request, dry_run)


@app.command()
def train(
    stores: Annotated[
        list[str],
        typer.Argument(metavar="STORE", help=f"Tile stores of the reference laboratory's slides ({STORE})."),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", callback=absolute, help="Directory for checkpoint, metrics and panels.")
    ],
    config: Config = None,
    dry_run: DryRun = False,
) -> None:
    """Train Pix2Pix on tile stores. With several GPUs: torchrun --nproc-per-node N -m pipelines.cli train ..."""
    from pipelines import train as pipeline
    from pipelines.shared.config import choose_config

    store_paths = [absolute(storage_path(store)) for store in stores]
    request = pipeline.Request(store_paths, out, choose_config(config, {}, print_line))
    run_or_plan(pipeline, request, dry_run)


@app.command()
def normalize(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help=f"A tile store ({STORE}); slides, read directly; or with --patch-mpp a directory of patches.",
        ),
    ],
    out: Out,
    checkpoint: Annotated[
        Path | None, typer.Option(callback=checkpoint_file, help="Checkpoint made by train or run; or shipped.")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option("--reference", "-r", help=f"For a classical method: the reference's tile store ({STORE})."),
    ] = None,
    to: To = None,
    patch_mpp: Annotated[
        float | None, typer.Option(help="SOURCE holds patches (PNG, JPEG, TIFF) of this resolution, um per px.")
    ] = None,
    labels: Annotated[bool, typer.Option(help="A patch's folder is its label; else it is its slide.")] = True,
    config: Config = None,
    method: Method = None,
    mode: Mode = None,
    formats: Formats = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    scheduler_file: SchedulerFile = None,
    accept_poor_checkpoint: AcceptPoorCheckpoint = False,
    portable_names: PortableNames = False,
    dry_run: DryRun = False,
) -> None:
    """Normalize tiled slides, slide files or patches with a trained checkpoint, or by a classical method."""
    from pipelines import normalize as pipeline
    from pipelines.shared.config import choose_config

    overrides = overrides_of(
        *(None, None, mode, formats, workers, scheduler, scheduler_file),
        method=method,
        accept_poor_checkpoint=accept_poor_checkpoint,
        portable_names=portable_names,
    )
    source_path = absolute(storage_path(source))
    reference_store = absolute(storage_path(reference)) if reference else None
    run_config = choose_config(config, overrides, print_line)
    request = pipeline.Request(
        source_path, checkpoint, reference_store, out, run_config, to, patch_mpp=patch_mpp, labelled=labels
    )
    run_or_plan(pipeline, request, dry_run)


@app.command()
def inspect(
    slides: Slides,
    mpp: MppOption = None,
    slide_mpp: SlideMpp = None,
    masks: Masks = None,
    overlay: Overlay = None,
    workers: Workers = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", help="Write the table to this file too, with each slide's stain.")
    ] = None,
) -> None:
    """Show what is known of slides: size, levels, resolution and its origin, tissue, tiles, bytes, time."""
    from pipelines import inspect as pipeline
    from pipelines.shared.config import choose_cpu_config

    run_config = choose_cpu_config(None, overrides_of(mpp, slide_mpp, workers=workers))
    request = pipeline.Request(slides, run_config, masks, overlay, csv)
    raise typer.Exit(pipeline.run(request, console()))


@app.command()
def doctor(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where outputs would go.")] = Path("."),
) -> None:
    """Check this machine: versions, OpenSlide, codecs, extras, GPU, memory, disk."""
    from pipelines import doctor as pipeline

    raise typer.Exit(pipeline.run(directory, console()))


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", callback=absolute, help="Directory for the demo's slides and results.")
    ] = Path("demo"),
    workers: Workers = None,
) -> None:
    """Make synthetic slides of two laboratories and run everything on them. No download, no GPU."""
    from pipelines import demo as pipeline

    raise typer.Exit(pipeline.run(out, overrides_of(workers=workers), console()))


for command in (simulate, verify, report, view, annotate, export):
    app.command()(command)


def main() -> None:
    """Run the command: errors raised on purpose become one line and exit code 1."""
    # Threads that sleep at once when they wait make training on idle cores half as slow again, and threads that spin on
    # make it five times as slow wherever something else wants the cores too. So they spin for some microseconds.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    take_all_names()
    stop_on_signals()
    if "--debug" in sys.argv:
        app()
    try:
        with printed():
            app()
    except WsiStainError as error:
        print_error(Console(stderr=True), error)
        sys.exit(130 if isinstance(error, InterruptedTrainingError) else 1)
    except (OSError, MemoryError, ImportError) as error:  # of the machine: a full disk, a limit on memory
        with suppress(OSError):
            print_error(Console(stderr=True), refused_error(error))
        sys.exit(1)
    except SystemExit as ended:
        if ended.code == 130:
            Console(stderr=True).print("stopped: run the same command again to go on, finished work is kept")
        raise


if __name__ == "__main__":
    main()
