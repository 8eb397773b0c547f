"""A slide's colour table as a file of its own, which other programs apply to the source. Reads no slides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wsi_stain.core.journal import atomic_write
from wsi_stain.core.receipts import Receipt, file_product, valid_receipt, write_receipt
from wsi_stain.formats.cube_table import encode_cube
from wsi_stain.formats.icc_table import encode_icc
from wsi_stain.stain.colour_table import refine_table
from wsi_stain.store.artifact import TABLE, load_artifact

TableKind = Literal["icc", "cube"]

_FINE = 33
"""Entries along a side of a profile's table, at least. Little CMS interpolates tetrahedrally, on 33 entries of its own:
of a real slide's tissue 92 % come within one grey level with 17, 99.7 % with 33, and no more with 65."""


@dataclass(frozen=True, kw_only=True)
class TableTask:
    """One colour table to write.

    Attributes:
        kind: As an ICC profile or as `.cube`.
        artifact: What `prepare_slide` left in mode `lut`.
        provenance: How the table was made; goes into the file, so no free text of the source.
        output: The file.
        receipt: Where the receipt goes.
        key: Fingerprint of everything that the table depends on.
    """

    kind: TableKind
    artifact: Path
    provenance: Mapping[str, str]
    output: Path
    receipt: Path
    key: str


def write_table_file(task: TableTask) -> Receipt:
    """Write a slide's colour table, unless the valid receipt says that this is done.

    Raises:
        OutputError: The artifact cannot be read, or the file cannot be written.
    """
    if done := valid_receipt(task.receipt, task.key, task.output, Receipt):
        return done
    table, title = load_artifact(task.artifact)[TABLE], f"wsi-stain {task.key[:12]}"
    if task.kind == "cube":
        content = encode_cube(table, title, task.provenance)
    else:
        while len(table) < _FINE:
            table = refine_table(table)
        content = encode_icc(table, title)
    atomic_write(task.output, content)
    return write_receipt(task.receipt, Receipt(key=task.key, product=file_product(task.output)))
