"""The `demo` command: synthetic slides of two laboratories, and the whole run on them. No download, no GPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines import run as pipeline
from pipelines.shared.config import load_config
from pipelines.shared.messages import print_line
from wsi_stain.synthetic import write_cohort

_SHORT = {"training": {"images": 1200}}
"""Synthetic tissue is learnt in fewer steps than `small` takes for real slides."""


def run(out: Path, overrides: Mapping[str, Any], console: Console) -> int:
    """Write the slides (unless they are there) and run everything on them.

    Returns:
        The exit code of the run.
    """
    print_line(console, f"writing synthetic slides of two laboratories to {out}")
    cohort = write_cohort(out)
    request = pipeline.Request(
        slides=[cohort.slides],
        references=[cohort.reference],
        checkpoint=None,
        out=out / "out",
        config=load_config("small", {**overrides, **_SHORT}),
    )
    return pipeline.run(request, console)
