"""Check of a colour table in a file of its own against the table that the run kept of the slide.

A `.cube` must hold the very table; an ICC profile is applied to the slide's thumbnail by Little CMS, which interpolates
in another way. Only tissue is compared: between glass and full scale a table may be steep, where a pyramid shows plain
white; and a profile's darkest entry is black, see `formats/icc_table`.

Memory bound: the thumbnail.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsi_stain.core import html
from wsi_stain.core.arrays import RgbImage
from wsi_stain.formats.cube_table import decode_cube
from wsi_stain.formats.icc_table import apply_icc
from wsi_stain.results import SlideRow
from wsi_stain.stain.colour_table import Table, apply_table
from wsi_stain.store.artifact import TABLE, Artifact
from wsi_stain.verification.faults import Fault

TABLE_SUFFIXES = (".icc", ".cube")

_LEAST_SHARES = {1: 0.99, 3: 0.999}
"""Share of the thumbnail's pixels that is at most so many grey levels from the table's; JPEG left odd colours in it."""

_STAINED = float(np.exp(-0.15))
"""Share of the glass's light below which, in one channel at least, a pixel is tissue: OD 0.15, as in Macenko 2009."""

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
        return _profile_faults(content, table, _tissue_colours(row, table), path.name)
    except ValueError as error:
        return [Fault("table", f"{path.name} that can be read", str(error))]


def _cube_faults(found: Table, table: Table, name: str) -> list[Fault]:
    if found.shape == table.shape and np.abs(found - table).max() <= _ROUNDING:
        return []
    return [Fault("table", f"{name} with the slide's table of {len(table)} entries a side", "another table")]


def _profile_faults(profile: bytes, table: Table, pixels: RgbImage, name: str) -> list[Fault]:
    if not pixels.size:
        return []
    shown = apply_icc(profile, pixels).astype(np.int16)
    apart = np.abs(shown - apply_table(table, pixels)).max(axis=2)
    shares = {most: float((apart <= most).mean()) for most in _LEAST_SHARES}
    if all(shares[most] >= least for most, least in _LEAST_SHARES.items()):
        return []
    expected, got = (
        ", ".join(f"{share:.1%} within {most}" for most, share in each.items()) for each in (_LEAST_SHARES, shares)
    )
    return [Fault("table", f"{name} near the slide's table, in grey levels: {expected}", got)]


def _tissue_colours(row: SlideRow, table: Table) -> RgbImage:
    """Return the colours of tissue in the slide's thumbnail, (1, n, 3), but for those in the darkest cell."""
    if row.before is None or row.stain is None:
        return np.zeros((1, 0, 3), np.uint8)
    pixels = np.asarray(html.open_picture(row.before))
    stained = (pixels < np.asarray(row.stain.white) * _STAINED).any(axis=2)
    return pixels[stained & (pixels > 255 // (len(table) - 1)).any(axis=2)][None]
