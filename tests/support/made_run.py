"""Whole runs with the identity in place of a generator: what stands in the pyramid must be what stood in the slide."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from pipelines import run
from pipelines.shared.config import RunConfig
from tests.support.identity import identity_in_every_mode
from tests.support.made_checkpoint import write_untrained
from tests.support.made_store import paint_tissue
from wsi_stain.core.geometry import Size
from wsi_stain.store import StoredSlide, TileStore
from wsi_stain.synthetic.slide import write_slide

ODD = Size(4096 + 531, 4096 + 205)
"""Four blocks, the far ones narrow; no level but the last has an even side by chance."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Unchanged:
    """A slide and what a run with the identity made of it."""

    source: Path
    stored: StoredSlide
    pyramid: Path


def odd_slide(path: Path, mpp: float = 0.5) -> Path:
    """Write a slide in Aperio's way: tissue up to the far edges, some glass in the middle."""
    part = paint_tissue(Size(-(-ODD.width // 2), -(-ODD.height // 2)), seed=3)
    missing = [(0, ODD.height - part.shape[0]), (0, ODD.width - part.shape[1]), (0, 0)]
    pixels = np.pad(part, missing, mode="symmetric")
    pixels[900:2600, 700:2100] = part.max(axis=(0, 1))
    write_slide(path, pixels, mpp, style="svs")
    return path


def run_unchanged(source: Path, out: Path, **settings: object) -> Unchanged:
    """Run the `run` command's own code on a slide, in this process.

    Args:
        source: The slide.
        out: The output directory.
        settings: Sections of the configuration that differ.
    """
    sections = {"executor": {"workers": 0}, "keep_tiles": True, **settings}
    config = RunConfig.model_validate(sections)
    checkpoint = write_untrained(out.parent / "untrained.safetensors", config.tiling.slide.mpp or 0.5)
    request = run.Request([source], [], checkpoint, out, config)
    with identity_in_every_mode():
        said = io.StringIO()
        assert run.run(request, Console(file=said)) == 0, said.getvalue()
    store = TileStore(out / "work" / "tiles.zarr")
    (slide_id,) = store.slide_ids()
    (pyramid,) = (out / "slides").rglob("*.tif")
    return Unchanged(source, store[slide_id], pyramid)
