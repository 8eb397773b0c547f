"""Patches and their places in a stored slide: as every kind of import gives them to `mosaic`. Reads no files.

Memory bound: a listing holds about 0.5 KB a patch, no pixels.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.geometry import TILE, Region, Size, ceil_div

PATCH_TABLE = "patches"
"""The table of a stored slide that says where each patch lies: `StoredSlide.table(PATCH_TABLE)`."""

MAX_REMARKS = 20
"""Most remarks on a slide's patches that a receipt carries; its table has all."""


class Patch(NamedTuple):
    """One patch of a slide, or a file that could not be one.

    Attributes:
        name: Which file or entry it is, in its source's own words; unique in its slide.
        region: Where it lies in the slide's frame, px; None where it was refused.
        label: Its label, where the data has one.
        remark: Why it was refused, or what is odd about it.
    """

    name: str
    region: Region | None
    label: str | None = None
    remark: str = ""


@dataclass(frozen=True)
class Listing:
    """List of a slide's patches, before their pixels are read.

    Attributes:
        patches: All of them, refused ones as well.
        fingerprint: Of what pixels depend on: {"size": bytes, "digest": SHA-256 of names, places, labels, contents}.
    """

    patches: Sequence[Patch]
    fingerprint: dict[str, str | int]


class PatchSource(Protocol):
    """The patches of one slide to be: a small record that is sent to a worker."""

    @property
    def relative(self) -> str:
        """Name of the slide: a relative posix path, unique in its import."""

    @property
    def facts(self) -> dict[str, Any]:
        """Return what is known of the slide, as `SlideRecord` names it: patient, split."""

    def listing(self) -> Listing:
        """List all patches and their places; reads names and headers, at most samples of pixels."""

    def read(self, patches: Sequence[Patch]) -> Iterator[tuple[Patch, NDArray[np.uint8] | str]]:
        """Yield each patch with its RGB pixels, (h, w, 3), or with the reason why it cannot be read."""


def frame_size(patches: Sequence[Patch]) -> Size:
    """Return the smallest whole number of tiles that holds all patches, as a size in px."""
    placed = [patch.region for patch in patches if patch.region]
    right = max((region.x + region.width for region in placed), default=0)
    bottom = max((region.y + region.height for region in placed), default=0)
    return Size(ceil_div(right, TILE) * TILE, ceil_div(bottom, TILE) * TILE)


def place_in_rows(sizes: Sequence[Size]) -> list[Region]:
    """Place patches side by side in rows, in their order, without gaps where all are of one size.

    The whole is about square; a row is as high as the highest patch in it.
    """
    if not sizes:
        return []
    widest = max(size.width for size in sizes)
    area = sum(size.width * size.height for size in sizes)
    width = ceil_div(ceil(area**0.5), widest) * widest
    regions, x, y, height = [], 0, 0, 0
    for size in sizes:
        if x + size.width > width:
            x, y, height = 0, y + height, 0
        regions.append(Region(x, y, *size))
        x, height = x + size.width, max(height, size.height)
    return regions


def to_csv(patches: Sequence[Patch]) -> str:
    """Write the table of a slide's patches: name, x, y, width, height, label, remark; no place where a patch was
    refused.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "x", "y", "width", "height", "label", "remark"])
    for patch in patches:
        cells = patch.region or ("",) * 4
        writer.writerow([patch.name, *cells, "" if patch.label is None else patch.label, patch.remark])
    return text.getvalue()


def from_csv(text: str) -> list[Patch]:
    """Read what `to_csv` wrote; an empty label reads as none."""
    patches = []
    for row in csv.DictReader(io.StringIO(text, newline="")):
        numbers = [row[name] for name in ("x", "y", "width", "height")]
        region = Region(*map(int, numbers)) if numbers[0] else None
        patches.append(Patch(row["name"], region, row["label"] or None, row["remark"]))
    return patches
