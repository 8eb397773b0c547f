"""The `inspect` command: a table of what is known of slides, before anything is done to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pipelines.config import RunConfig
from pipelines.plans import Look, look_at, print_looks
from wsi_stain.slides import find_slides


@dataclass(frozen=True)
class Request:
    """What `wsi-stain inspect` was asked for."""

    slides: Sequence[Path]
    config: RunConfig
    masks: Path | None = None
    overlay: Path | None = None


def plan(request: Request) -> list[Look]:
    """Look at each slide; nothing is written."""
    sources = find_slides(request.slides, request.masks)
    return look_at(sources, request.config.tiling, request.config.executor, request.overlay)


def run(request: Request, console: Console) -> int:
    """Print the table.

    Returns:
        0, or 3 when some slides cannot be used.
    """
    return print_looks(plan(request), console)
