"""The options that several commands share, how they reach a configuration, and wrong usage, said in plain text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Protocol, TypeVar

import typer
from rich.console import Console
from typer.core import TyperGroup

from pipelines.shared import messages
from wsi_stain.core.text import escape_unprintable

_Request = TypeVar("_Request", contravariant=True)


def absolute(value: Any) -> Any:
    """Make paths absolute, as every worker understands them."""
    if isinstance(value, list):
        return [absolute(item) for item in value]
    return value.absolute() if isinstance(value, Path) else value


def checkpoint_file(value: Path | None) -> Path | None:
    """Find a checkpoint that may not be asked for, as `find_checkpoint`."""
    return value and find_checkpoint(value)


def find_checkpoint(value: Path) -> Path:
    """Make a checkpoint's path absolute; `shipped` names the one that comes with the program."""
    if value == Path("shipped") and not value.exists():
        from pipelines.references.library import shipped_checkpoint

        return shipped_checkpoint()
    return value.absolute()


STORE = "a directory, or s3://bucket/prefix"

Slides = Annotated[
    list[Path],
    typer.Argument(
        metavar="SLIDES",
        help="Slides: files, directories (searched recursively), globs, or a CSV with a column 'slide'.",
    ),
]
Out = Annotated[
    Path,
    typer.Option("--out", "-o", callback=absolute, help="Output directory. Run the same command again to resume."),
]
Store = Annotated[
    Path, typer.Option("--store", "-s", callback=absolute, help="Tile store to write (a Zarr directory).")
]
PatchDirectory = Annotated[
    Path,
    typer.Argument(metavar="DIR", callback=absolute, exists=True, file_okay=False, help="Directory of the data set."),
]
PatchMpp = Annotated[float, typer.Option("--mpp", help="Resolution of the patches, um per px: the files do not say.")]
Config = Annotated[
    str | None,
    typer.Option(
        "--config",
        "-c",
        show_default="wsi with a GPU, else small",
        help="YAML file, or a shipped one by name: small, wsi, paper, seed.",
    ),
]
MppOption = Annotated[
    float | None, typer.Option("--mpp", show_default="their own", help="Resample slides to this resolution, um per px.")
]
SlideMpp = Annotated[
    float | None,
    typer.Option("--slide-mpp", help="The slides' resolution, um per px, where the files do not say or lie."),
]
Mode = Annotated[
    str | None,
    typer.Option(
        "--mode",
        show_default="auto: generator on a GPU, else lut",
        help="How Pix2Pix changes pixels: generator (as generated), guard (the smooth part of their change), or "
        "lut (one colour table a slide).",
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        "--method",
        show_default="pix2pix",
        help="pix2pix, or a classical one at slide level: reinhard, macenko, vahadane.",
    ),
]
To = Annotated[
    Literal["pyramids", "store", "images"] | None,
    typer.Option(
        show_default="images of patches, else pyramids",
        help="What to make: pyramids, a tile store, or pictures of patches.",
    ),
]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        "-f",
        show_default="ome-tiff",
        help="What to make of each slide: ome-tiff, ome-zarr (lossless), dicom; icc or cube, its colour table "
        "alone; repeatable.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", "-j", min=0, show_default="one a core", help="Worker processes on CPUs; 0 for none."),
]
Scheduler = Annotated[
    str | None, typer.Option("--scheduler", help="Address of a running Dask scheduler, tcp://host:port or tls://...")
]
SchedulerFile = Annotated[
    Path | None,
    typer.Option("--scheduler-file", callback=absolute, help="File that a running Dask scheduler wrote for clients."),
]
Codec = Annotated[
    str | None,
    typer.Option(
        "--codec",
        show_default="auto",
        help="How tiles are stored: auto (the slide's own JPEG tiles where it has such of 256 px, else lossless),"
        " lossless, or jpeg (compressed anew, a seventh of the size).",
    ),
]
Masks = Annotated[
    Path | None,
    typer.Option(
        callback=absolute,
        exists=True,
        file_okay=False,
        help="Directory of your own tissue masks: PNG, or GeoJSON from QuPath, named as the slides.",
    ),
]
Overlay = Annotated[
    Path | None,
    typer.Option(callback=absolute, help="Directory for a picture a slide: tissue, kept and suspect tiles, ink."),
]
Port = Annotated[
    int | None,
    typer.Option(min=0, max=65535, show_default="8765, or the next that is free", help="Port; 0 for any."),
]
Host = Annotated[str, typer.Option(help="Address to serve on; any but loopback lets the network see the slides.")]
OpenBrowser = Annotated[
    bool, typer.Option("--browser/--no-browser", help="Open the page in the web browser, and end when it is closed.")
]
AcceptPoorCheckpoint = Annotated[
    bool,
    typer.Option(
        "--accept-poor-checkpoint",
        help="Use a checkpoint that did worse in training than no normalization at all.",
    ),
]
PortableNames = Annotated[
    bool,
    typer.Option(
        "--portable-names",
        help='Name outputs so that Windows and SMB take them: no <>:"|?*, no NUL.svs, no dot or space at the end.',
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan (slides, tiles, bytes, time) and stop.")]


def overrides_of(
    mpp: float | None = None,
    slide_mpp: float | None = None,
    mode: str | None = None,
    formats: list[str] | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    scheduler_file: Path | None = None,
    keep_tiles: bool | None = None,
    codec: str | None = None,
    method: str | None = None,
    accept_poor_checkpoint: bool = False,
    portable_names: bool = False,
) -> dict[str, Any]:
    """Return command-line options as the nested sections of a configuration."""
    return {
        "tiling": {"slide": {"mpp": mpp, "slide_mpp": slide_mpp}, "codec": codec},
        "normalize": {"method": method, "mode": mode},
        "formats": formats or None,
        "executor": {"workers": workers, "scheduler": scheduler, "scheduler_file": scheduler_file},
        "keep_tiles": keep_tiles,
        "accept_poor_checkpoint": accept_poor_checkpoint or None,
        "portable_names": portable_names or None,
    }


def console() -> Console:
    return Console(stderr=False)


class Pipeline(Protocol[_Request]):
    """Module of a command that can print its plan instead of running."""

    def show_plan(self, request: _Request, console: Console, /) -> int: ...

    def run(self, request: _Request, console: Console, /) -> int: ...


def run_or_plan(pipeline: Pipeline[_Request], request: _Request, dry_run: bool) -> NoReturn:
    """Run a command, or print its plan; exits with its code."""
    raise typer.Exit(pipeline.show_plan(request, console()) if dry_run else pipeline.run(request, console()))


def print_line(text: str) -> None:
    messages.print_line(console(), text)


class PlainTextGroup(TyperGroup):
    """Commands whose messages about wrong usage escape what is no plain text, such as a name that is no directory.

    No argument may be empty: an empty path would be the current directory, where a script lacks a variable.
    """

    def make_context(self, *arguments: Any, **named: Any) -> Any:
        """Parse what stands before the command."""
        with _escape_message():
            return super().make_context(*arguments, **named)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse empty arguments, then find the command."""
        for before, argument in zip(["", *args], args, strict=False):
            if not argument or (argument.startswith("--") and argument.endswith("=")):
                place = argument or (f"{before} ''" if before.startswith("-") else "''")
                raise typer.BadParameter(
                    f"{place} is empty, expected a path or a name: is a variable of a script unset?"
                )
        return list(super().parse_args(ctx, args))

    def invoke(self, ctx: Any) -> Any:
        """Parse the rest and run the command."""
        with _escape_message():
            return super().invoke(ctx)


@contextmanager
def _escape_message() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "message"):  # as typer's errors have
            error.message = escape_unprintable(error.message)
        raise
