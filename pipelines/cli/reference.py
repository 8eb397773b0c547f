"""The commands `wsi-stain reference save|list|path`: help texts, and one call each into a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import absolute, console

reference = typer.Typer(no_args_is_help=True, help="Keep a laboratory's own references by name.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the reference.")]


@reference.command()
def save(
    name: Name,
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", callback=absolute, exists=True, dir_okay=False, help="Made by train or run."
        ),
    ],
) -> None:
    """Keep a checkpoint, its model card and its stain under a name, in WSI_STAIN_REFERENCES or your data directory."""
    from pipelines.references import library

    raise typer.Exit(library.save(name, checkpoint, library.find_library(), console()))


@reference.command("list")
def show_list() -> None:
    """Print the references that were saved."""
    from pipelines.references import library

    raise typer.Exit(library.show_list(library.find_library(), console()))


@reference.command()
def path(name: Name) -> None:
    """Print the path of a reference's checkpoint, for `--checkpoint "$(wsi-stain reference path NAME)"`."""
    from pipelines.references import library

    typer.echo(library.find(name, library.find_library()))
