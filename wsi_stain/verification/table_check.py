"""Check of a colour table in a file of its own against the table that the run kept of the slide.

A `.cube` must hold the very table; an ICC profile is applied to the slide's thumbnail by Little CMS, which interpolates
in another way. Colours near black are left out there: a profile's darkest entry is black, see `formats/icc_table`.

Memory bound: the thumbnail.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from wsi_stain.core.arrays import RgbImage
from wsi_stain.formats.cube_table import decode_cube
from wsi_stain.formats.icc_table import apply_icc
from wsi_stain.results import SlideRow
from wsi_stain.stain.colour_table import Table, apply_table
from wsi_stain.store.artifact import TABLE, Artifact
from wsi_stain.verification.faults import Fault

TABLE_SUFFIXES = (".icc", ".cube")

_MOST_APART, _USUALLY_APART, _USUAL_SHARE = 3, 1, 0.99
"""Grey levels between a profile's colours and the table's: at most, and for that share of the pixels."""

_ROUNDING = 0.01
"""Grey levels by which entries of a `.cube` are rounded, and more."""


def check_table_file(path: Path, artifact: Artifact, row: SlideRow) -> list[Fault]:
    """Compare a table's file with the table.

    Args:
        path: The file, an ICC profile or `.cube`.
        artifact: What the run kept of the slide.
        row: The slide's row, with its thumbnail.
    """
    if TABLE not in artifact:
        return [Fault("table", f"a colour table that {path.name} has", "none was kept of the slide")]
    table, content = artifact[TABLE], path.read_bytes()
    try:
        if path.suffix == ".cube":
            return _cube_faults(decode_cube(content), table, path.name)
        return _profile_faults(content, table, _thumbnail(row), path.name)
    except ValueError as error:
        return [Fault("table", f"{path.name} that can be read", str(error))]


def _cube_faults(found: Table, table: Table, name: str) -> list[Fault]:
    if found.shape == table.shape and np.abs(found - table).max() <= _ROUNDING:
        return []
    return [Fault("table", f"{name} with the slide's table of {len(table)} entries a side", "another table")]


def _profile_faults(profile: bytes, table: Table, pixels: RgbImage, name: str) -> list[Fault]:
    shown = apply_icc(profile, pixels).astype(np.int16)
    apart = np.abs(shown - apply_table(table, pixels)).max(axis=2)
    apart = apart[(pixels > 255 // (len(table) - 1)).any(axis=2)]
    if not apart.size or (apart.max() <= _MOST_APART and (apart <= _USUALLY_APART).mean() >= _USUAL_SHARE):
        return []
    expected = f"{name} within {_MOST_APART} grey levels of the slide's table, {_USUALLY_APART} for {_USUAL_SHARE:.0%}"
    return [Fault("table", expected, f"up to {apart.max()} apart, {(apart <= _USUALLY_APART).mean():.2%} within 1")]


def _thumbnail(row: SlideRow) -> RgbImage:
    """Open the slide's thumbnail; without one all grays stand in for it."""
    if row.before is None:
        return np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(1, 256, 3)
    return np.asarray(Image.open(io.BytesIO(row.before)).convert("RGB"))
