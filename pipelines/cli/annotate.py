"""The command `annotate`: its options, and one call into its pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipelines.cli.options import absolute, console


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
