"""The command `wsi-stain`: help texts, and one call each into a pipeline.

Exit codes: 0 all good, 1 the run could not go on, 2 wrong usage, 3 some slides failed, 130 stopped by a signal.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from wsi_stain import __version__
from wsi_stain.errors import InterruptedTrainingError, WsiStainError
from wsi_stain.place import as_place

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Re-stain whole-slide images in the style of a reference laboratory with Pix2Pix.",
)

patches = typer.Typer(
    no_args_is_help=True, help="Bring data sets of patches into a Zarr store, as `tile` brings slides."
)
app.add_typer(patches, name="import")


def _absolute(value: Any) -> Any:
    """Paths as every worker on every machine understands them."""
    if isinstance(value, list):
        return [_absolute(item) for item in value]
    return value.absolute() if isinstance(value, Path) else value


_STORE = "a directory, or s3://bucket/prefix"

Slides = Annotated[
    list[Path],
    typer.Argument(help="Slides: files, directories (searched recursively), globs, or a CSV with a column 'slide'."),
]
Out = Annotated[
    Path,
    typer.Option("--out", "-o", callback=_absolute, help="Output directory. Run the same command again to resume."),
]
Store = Annotated[
    Path, typer.Option("--store", "-s", callback=_absolute, help="Tile store to write (a Zarr directory).")
]
PatchDirectory = Annotated[
    Path, typer.Argument(callback=_absolute, exists=True, file_okay=False, help="Directory of the data set.")
]
PatchMpp = Annotated[float, typer.Option("--mpp", help="Resolution of the patches, um per px: the files do not say.")]
Config = Annotated[
    str | None,
    typer.Option(
        "--config", "-c", help="YAML file, or a shipped one by name: small, wsi, paper, seed. [default: by device]"
    ),
]
MppOption = Annotated[
    float | None, typer.Option("--mpp", help="Resample slides to this resolution, um per px. [default: their own]")
]
SlideMpp = Annotated[
    float | None,
    typer.Option("--slide-mpp", help="The slides' resolution, um per px, where the files do not say or lie."),
]
Output = Annotated[
    str | None,
    typer.Option("--output", help="What becomes of generated pixels: generator, guard, lut, or auto. [default: auto]"),
]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        "-f",
        help="What to make of each slide: ome-tiff, ome-zarr (lossless), or dicom; repeatable. [default: ome-tiff]",
    ),
]
Workers = Annotated[
    int | None, typer.Option("--workers", "-j", min=0, help="Worker processes; 0 for none. [default: one a core]")
]
Scheduler = Annotated[
    str | None, typer.Option("--scheduler", help="Address of a running Dask scheduler, tcp://host:port.")
]
Codec = Annotated[
    str | None,
    typer.Option(
        "--codec", help="How tiles are stored: lossless, or jpeg (a seventh of the size). [default: lossless]"
    ),
]
Masks = Annotated[
    Path | None,
    typer.Option(
        callback=_absolute,
        exists=True,
        file_okay=False,
        help="Directory of your own tissue masks: PNG, or GeoJSON from QuPath, named as the slides.",
    ),
]
Overlay = Annotated[
    Path | None,
    typer.Option(callback=_absolute, help="Directory for a picture a slide: tissue, kept and suspect tiles, ink."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan (slides, tiles, bytes, time) and stop.")]


def _overrides(
    mpp: float | None = None,
    slide_mpp: float | None = None,
    output: str | None = None,
    formats: list[str] | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    keep_tiles: bool | None = None,
    codec: str | None = None,
) -> dict[str, Any]:
    """Command-line options as the nested sections of a configuration."""
    return {
        "tiling": {"slide": {"mpp": mpp, "slide_mpp": slide_mpp}, "codec": codec},
        "output": {"mode": output},
        "formats": formats or None,
        "executor": {"workers": workers, "scheduler": scheduler},
        "keep_tiles": keep_tiles,
    }


@app.callback(invoke_without_command=True)
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        typer.echo(f"wsi-stain {__version__}")
        raise typer.Exit


@app.command()
def run(
    slides: Slides,
    out: Out,
    reference: Annotated[
        list[Path] | None,
        typer.Option(
            "--reference", "-r", callback=_absolute, help="Reference slide, or directory of them; repeatable."
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(callback=_absolute, help="Use this checkpoint instead of training one.")
    ] = None,
    config: Config = None,
    mpp: MppOption = None,
    slide_mpp: SlideMpp = None,
    output: Output = None,
    formats: Formats = None,
    codec: Codec = None,
    masks: Masks = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    keep_tiles: Annotated[bool, typer.Option("--keep-tiles", help="Keep the slides' tiles in OUT/work.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Tile, train on the reference, normalize, stitch, report: all in one."""
    from pipelines import run as pipeline
    from pipelines.config import chosen_config

    overrides = _overrides(mpp, slide_mpp, output, formats, workers, scheduler, keep_tiles or None, codec)
    request = pipeline.Request(slides, reference or [], checkpoint, out, chosen_config(config, overrides, _say), masks)
    raise typer.Exit(pipeline.show_plan(request, _console()) if dry_run else pipeline.run(request, _console()))


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
    dry_run: DryRun = False,
) -> None:
    """Extract the tissue tiles of slides into a Zarr store."""
    from pipelines import tile as pipeline
    from pipelines.config import chosen_config

    overrides = _overrides(mpp, slide_mpp, workers=workers, scheduler=scheduler, codec=codec)
    request = pipeline.Request(slides, store, chosen_config(config, overrides), masks, overlay)
    raise typer.Exit(pipeline.show_plan(request, _console()) if dry_run else pipeline.run(request, _console()))


@app.command()
def train(
    stores: Annotated[
        list[str],
        typer.Argument(metavar="STORE...", help=f"Tile stores of the reference laboratory's slides: {_STORE}."),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", callback=_absolute, help="Directory for checkpoint, metrics and panels.")
    ],
    config: Config = None,
    dry_run: DryRun = False,
) -> None:
    """Train Pix2Pix on tile stores. With several GPUs: torchrun --nproc-per-node N -m pipelines.cli train ..."""
    from pipelines import train as pipeline
    from pipelines.config import chosen_config

    places = [_absolute(as_place(store)) for store in stores]
    request = pipeline.Request(places, out, chosen_config(config, {}, _say))
    raise typer.Exit(pipeline.show_plan(request, _console()) if dry_run else pipeline.run(request, _console()))


@app.command()
def normalize(
    store: Annotated[str, typer.Argument(help=f"Tile store of the slides to normalize: {_STORE}.")],
    checkpoint: Annotated[
        Path, typer.Option(callback=_absolute, help="Checkpoint (safetensors) made by train or run.")
    ],
    out: Out,
    config: Config = None,
    output: Output = None,
    formats: Formats = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    dry_run: DryRun = False,
) -> None:
    """Normalize the slides of a tile store with a trained checkpoint."""
    from pipelines import normalize as pipeline
    from pipelines.config import chosen_config

    overrides = _overrides(output=output, formats=formats, workers=workers, scheduler=scheduler)
    request = pipeline.Request(_absolute(as_place(store)), checkpoint, out, chosen_config(config, overrides, _say))
    raise typer.Exit(pipeline.show_plan(request, _console()) if dry_run else pipeline.run(request, _console()))


@app.command()
def inspect(
    slides: Slides,
    mpp: MppOption = None,
    slide_mpp: SlideMpp = None,
    masks: Masks = None,
    overlay: Overlay = None,
    workers: Workers = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write the table to this file too, for programs.")] = None,
) -> None:
    """Show what is known of slides: size, levels, mpp and its origin, tissue, tiles, bytes, time."""
    from pipelines import inspect as pipeline
    from pipelines.config import chosen_config

    chosen = chosen_config(None, _overrides(mpp, slide_mpp, workers=workers))
    request = pipeline.Request(slides, chosen, masks, overlay, csv)
    raise typer.Exit(pipeline.run(request, _console()))


@patches.command()
def idc(
    directory: PatchDirectory,
    store: Store,
    mpp: PatchMpp,
    config: Config = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    dry_run: DryRun = False,
) -> None:
    """Kaggle breast-histopathology-images: 50 px patches, laid back at their coordinates, a slide a patient."""
    from pipelines import import_patches as pipeline
    from pipelines.config import chosen_config

    chosen = chosen_config(config, _overrides(workers=workers, scheduler=scheduler))
    request = pipeline.idc(directory, store, mpp, chosen)
    raise typer.Exit(pipeline.show_plan(request, _console()) if dry_run else pipeline.run(request, _console()))


@patches.command()
def pcam(
    files: Annotated[list[Path], typer.Argument(callback=_absolute, help="Files camelyonpatch_level_2_split_*_x.h5.")],
    store: Store,
    meta: Annotated[
        Path | None, typer.Option(callback=_absolute, help="Metadata of one file. [default: _meta.csv beside it]")
    ] = None,
    mpp: Annotated[float | None, typer.Option(help="Resolution, um per px. [default: 0.972, as published]")] = None,
    config: Config = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    dry_run: DryRun = False,
) -> None:
    """PatchCamelyon in HDF5: 96 px patches, side by side, a slide for each one that the metadata names."""
    from pipelines import import_patches as pipeline
    from pipelines.config import chosen_config

    chosen = chosen_config(config, _overrides(workers=workers, scheduler=scheduler))
    request = pipeline.pcam(files, meta, store, mpp, chosen)
    raise typer.Exit(pipeline.show_plan(request, _console()) if dry_run else pipeline.run(request, _console()))


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
    dry_run: DryRun = False,
) -> None:
    """Folders of PNG, JPEG or TIFF patches, side by side, labels from the folders' names."""
    from pipelines import import_patches as pipeline
    from pipelines.config import chosen_config

    chosen = chosen_config(config, _overrides(workers=workers, scheduler=scheduler))
    request = pipeline.images(directory, store, mpp, labels, chosen)
    raise typer.Exit(pipeline.show_plan(request, _console()) if dry_run else pipeline.run(request, _console()))


@app.command()
def verify(
    out: Annotated[Path, typer.Argument(callback=_absolute, help="Output directory of a run.")],
    slides: Annotated[
        list[Path] | None,
        typer.Option("--slides", help="Where the run's slides are now, if they moved: as for run; repeatable."),
    ] = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
) -> None:
    """Check every output of a run against its receipts, its readers and its source; faults go to OUT/verify.csv."""
    from pipelines import verify as pipeline
    from wsi_stain.executor import ExecutorConfig

    executor = ExecutorConfig(workers=workers, scheduler=scheduler)
    raise typer.Exit(pipeline.run(pipeline.Request(out, slides or [], executor), _console()))


@app.command()
def doctor(
    directory: Annotated[Path, typer.Argument(help="Where outputs would go.")] = Path("."),
) -> None:
    """Check this machine: versions, OpenSlide, codecs, GPU, memory, disk."""
    from pipelines import doctor as pipeline

    raise typer.Exit(pipeline.run(directory, _console()))


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", callback=_absolute, help="Directory for the demo's slides and results.")
    ] = Path("demo"),
    workers: Workers = None,
) -> None:
    """Make synthetic slides of two laboratories and run everything on them. No download, no GPU."""
    from pipelines import demo as pipeline

    raise typer.Exit(pipeline.run(out, _overrides(workers=workers), _console()))


def _console() -> Console:
    return Console(stderr=False)


def _say(text: str) -> None:
    _console().print(text, highlight=False)


def main() -> None:
    """Entry point: errors raised on purpose become one line and exit code 1."""
    # Threads that spin while they wait make training five times as slow wherever something else wants the cores too.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "--debug" in sys.argv:
        app()
    try:
        app()
    except WsiStainError as error:
        Console(stderr=True).print(f"error: {error.problem}", style="bold red", highlight=False, markup=False)
        if error.remedy:
            Console(stderr=True).print(f"remedy: {error.remedy}", highlight=False, markup=False)
        sys.exit(130 if isinstance(error, InterruptedTrainingError) else 1)


if __name__ == "__main__":
    main()
