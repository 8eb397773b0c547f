"""Kaggle's breast-histopathology-images (IDC): 50 x 50 px patches with coordinates in their names. One slide a patient.

    DIR/<patient>/<0|1>/<patient>_idx5_x<X>_y<Y>_class<0|1>.png

X and Y are px of the slide that the patches were cut from, so each patch is laid with its upper left corner there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.errors import ConfigError
from wsi_stain.core.geometry import Region
from wsi_stain.datasets.pictures import digest, read_or_explain
from wsi_stain.slides.listing.names import to_utf8
from wsi_stain.store.patches import Listing, Patch

SIDE = 50
"""Side of a patch, px."""

_CLASSES = ("0", "1")
_NAME = re.compile(r"(?P<patient>.+)_idx\d+_x(?P<x>\d{1,5})_y(?P<y>\d{1,5})_class(?P<label>[01])\.png", re.IGNORECASE)


@dataclass(frozen=True)
class IdcPatient:
    """The patches of one patient.

    Attributes:
        folder: The patient's folder.
    """

    folder: Path

    @property
    def relative(self) -> str:
        """The patient's number."""
        return to_utf8(self.folder.name)

    @property
    def facts(self) -> dict[str, Any]:
        """The patient's number."""
        return {"patient": self.relative}

    def listing(self) -> Listing:
        """List all PNG files in the folders 0 and 1, sorted by place; those without a place last."""
        names = [
            f"{label}/{path.name}"
            for label in _CLASSES
            for path in sorted((self.folder / label).glob("*"))
            if path.suffix.lower() == ".png" and not path.name.startswith(".")
        ]
        patches = _on_one_grid([_patch(name, self.folder.name) for name in names])
        return Listing(patches, digest((name, self.folder / name) for name in names))

    def read(self, patches: Sequence[Patch]) -> Iterator[tuple[Patch, NDArray[np.uint8] | str]]:
        """Yield each patch with its pixels, or with the reason why it cannot be read."""
        for patch in patches:
            yield patch, read_or_explain(self.folder / patch.name)


def find_patients(root: Path) -> tuple[list[IdcPatient], list[str]]:
    """Find the patients of a directory, and the names of folders in it that are none.

    Raises:
        ConfigError: There is none.
    """
    folders = sorted(path for path in root.glob("*") if path.is_dir() and not path.name.startswith("."))
    patients = [IdcPatient(path) for path in folders if any((path / label).is_dir() for label in _CLASSES)]
    if not patients:
        raise ConfigError(
            f"No patients found in {root}, looked for folders with a folder 0 or 1 in them",
            "Name the directory whose folders are the patients' numbers",
        )
    known = {patient.folder for patient in patients}
    return patients, [path.name for path in folders if path not in known]


def _patch(name: str, patient: str) -> Patch:
    """Parse a patch's name."""
    folder, _, file = name.partition("/")
    match = _NAME.fullmatch(file)
    if not match:
        return Patch(name, None, remark=f"the name is not like {patient}_idx5_x1001_y1101_class{folder}.png")
    if match["patient"] != patient:
        return Patch(name, None, remark=f"the name says patient {match['patient']}, the folder {patient}")
    if match["label"] != folder:
        return Patch(name, None, remark=f"the name says class {match['label']}, the folder {folder}")
    return Patch(name, Region(int(match["x"]), int(match["y"]), SIDE, SIDE), folder)


def _on_one_grid(patches: Sequence[Patch]) -> list[Patch]:
    """Refuse patches that would overlap others: off the grid that most lie on, or at a place that is taken."""
    located = sorted((patch for patch in patches if patch.region), key=lambda patch: (_corner(patch), patch.name))
    offsets = Counter(_offset(patch) for patch in located)
    usual = max(offsets, key=lambda offset: (offsets[offset], offset), default=(0, 0))
    taken: dict[tuple[int, int], str] = {}
    kept, refused = [], [patch for patch in patches if not patch.region]
    for patch in located:
        if _offset(patch) != usual:
            remark = f"does not lie on the patient's grid of {SIDE} px, which begins at x {usual[0]}, y {usual[1]}"
            refused.append(patch._replace(region=None, remark=remark))
        elif (other := taken.setdefault(_corner(patch), patch.name)) != patch.name:
            refused.append(patch._replace(region=None, remark=f"lies where {other} lies"))
        else:
            kept.append(patch)
    return [*kept, *refused]


def _corner(patch: Patch) -> tuple[int, int]:
    """Return (y, x) of a placed patch."""
    assert patch.region is not None
    return patch.region.y, patch.region.x


def _offset(patch: Patch) -> tuple[int, int]:
    """Return (x, y) of the first patch on a placed patch's grid."""
    y, x = _corner(patch)
    return x % SIDE, y % SIDE
