"""PatchCamelyon (PCam): 96 x 96 px patches in HDF5 files, one a split. One slide for each that the metadata names.

    camelyonpatch_level_2_split_<split>_x.h5      dataset x, (N, 96, 96, 3) uint8
    camelyonpatch_level_2_split_<split>_y.h5      dataset y, N labels, 0 or 1
    camelyonpatch_level_2_split_<split>_meta.csv  N rows; column wsi: the slide

The last two lie beside the first. Without labels there are none; without metadata a split is one slide.
Patches are laid side by side in rows, in the file's order: at their own coordinates hardly any two would touch.

Memory bound: 256 patches (7 MB), and HDF5's cache of 64 MB.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.errors import ConfigError, SlideError
from wsi_stain.core.geometry import Size
from wsi_stain.store.patches import Listing, Patch, place_in_rows

MPP = 0.972
"""Four times the 0.243 um per px of most of the Camelyon16 slides that PCam's patches are from."""

SIDE = 96
"""Side of a patch, px."""

_RUN = 256
_CACHE_BYTES = 64 * 2**20
_SAMPLES = 64
_SPLIT = re.compile(r".*_split_(?P<split>[A-Za-z0-9]+)_x\.h5")


@dataclass(frozen=True)
class PcamSlide:
    """The patches of one slide.

    Attributes:
        path: The file with the patches.
        relative: The split, and the slide's name in the metadata.
        split: train, valid or test, as the file's name says.
        indices: Which patches of the file they are, ascending.
    """

    path: Path
    relative: str
    split: str | None
    indices: Sequence[int]

    @property
    def labels_path(self) -> Path:
        """Where the labels lie, if there are any."""
        return _sibling(self.path, "_y.h5")

    @property
    def facts(self) -> dict[str, Any]:
        """The split."""
        return {"split": self.split} if self.split else {}

    def listing(self) -> Listing:
        """List all patches side by side; labels from the file with y."""
        labels = _labels(self.path, self.labels_path, self.indices)
        regions = place_in_rows([Size(SIDE, SIDE)] * len(self.indices))
        patches = [
            Patch(f"{self.path.name}:{index}", region, label)
            for index, region, label in zip(self.indices, regions, labels, strict=True)
        ]
        return Listing(patches, self._fingerprint(labels))

    def read(self, patches: Sequence[Patch]) -> Iterator[tuple[Patch, NDArray[np.uint8] | str]]:
        """Yield each patch with its pixels, or with the reason why it cannot be read."""
        with _open_hdf5(self.path) as file:
            runs = _runs([int(patch.name.rpartition(":")[2]) for patch in patches])
            found = (pixels for run in runs for pixels in _pixels(file["x"], run))
            yield from zip(patches, found, strict=True)

    def _fingerprint(self, labels: Sequence[str | None]) -> dict[str, str | int]:
        """Return which patches, their labels, and the pixels of some."""
        sha = hashlib.sha256(repr((self.path.name, list(self.indices), labels)).encode())
        with _open_hdf5(self.path) as file:
            for number in np.unique(np.linspace(0, len(self.indices) - 1, _SAMPLES).astype(int)):
                index = self.indices[number]
                (pixels,) = _pixels(file["x"], range(index, index + 1))
                sha.update(pixels.encode() if isinstance(pixels, str) else pixels.tobytes())
        return {"size": len(self.indices) * SIDE * SIDE * 3, "digest": sha.hexdigest()}


def find_splits(files: Sequence[Path], meta: Path | None) -> tuple[list[PcamSlide], list[str]]:
    """Find the slides of PCam's files, and what is wrong with files that cannot be used. Files with y are skipped.

    Args:
        files: Those with the patches, `..._x.h5`.
        meta: The metadata, where it does not lie beside the one file.

    Raises:
        ConfigError: There is no patch, or h5py is not installed.
    """
    wanted = [path for path in files if not path.name.endswith("_y.h5")]
    if meta and len(wanted) != 1:
        raise ConfigError(
            f"--meta belongs to one file, found {len(wanted)}",
            "Import one file at a time, or lay each _meta.csv beside its _x.h5",
        )
    slides: list[PcamSlide] = []
    faults: list[str] = []
    for path in wanted:
        try:
            slides += _slides(path, meta)
        except SlideError as error:
            faults.append(f"{path.name}: {error}")
    if not slides:
        raise ConfigError(
            "No patches found" + "".join(f"; {fault}" for fault in faults),
            "Name files such as camelyonpatch_level_2_split_train_x.h5, unpacked",
        )
    return slides, faults


def _slides(path: Path, meta: Path | None) -> list[PcamSlide]:
    if path.suffix == ".gz":
        raise SlideError("It is packed, as it was published", f"Unpack it and what belongs to it: gunzip {path.name}")
    if not path.name.endswith("_x.h5"):
        raise SlideError("The name does not end in _x.h5", "Patches, labels and metadata find each other by name")
    count = _count(path)
    match = _SPLIT.fullmatch(path.name)
    split = match["split"] if match else None
    name = split or path.name.removesuffix("_x.h5")
    meta = meta or _sibling(path, "_meta.csv")
    if not meta.exists():
        return [PcamSlide(path, name, split, range(count))]
    indices: dict[str, list[int]] = {}
    for index, slide in enumerate(_slide_names(meta, count)):
        indices.setdefault(f"{name}/{slide}" if slide else name, []).append(index)
    return [PcamSlide(path, relative, split, tuple(found)) for relative, found in sorted(indices.items())]


def _sibling(path: Path, ending: str) -> Path:
    return path.with_name(path.name.removesuffix("_x.h5") + ending)


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError as error:
        raise ConfigError("PCam's files need h5py, which is not installed", "pip install 'wsi-stain[pcam]'") from error
    return h5py  # type: ignore[no-any-return]


def _open_hdf5(path: Path) -> Any:
    library = _h5py()
    try:
        return library.File(path, "r", rdcc_nbytes=_CACHE_BYTES)
    except OSError as error:
        raise SlideError(f"{path} is no HDF5 file that can be read: {error}", "Unpack it, or fetch it again") from error


def _count(path: Path) -> int:
    """Count the patches in a file."""
    with _open_hdf5(path) as file:
        found = file.get("x")
        shape: tuple[int, ...] = getattr(found, "shape", ())
        dtype = getattr(found, "dtype", None)
        if shape[1:] != (SIDE, SIDE, 3) or dtype != np.uint8:
            raise SlideError(
                f"Expected a dataset x, (N, {SIDE}, {SIDE}, 3) uint8, found {f'{shape} {dtype}' if shape else 'none'}",
                "Check that it is a file of PCam",
            )
        return int(shape[0])


def _labels(path: Path, labels: Path, indices: Sequence[int]) -> list[str | None]:
    """Read labels of patches; none where there is no file with y."""
    if not labels.exists():
        return [None] * len(indices)
    with _open_hdf5(labels) as file:
        found = file.get("y")
        values = np.asarray(found).reshape(-1) if found is not None else np.empty(0)
    count = _count(path)
    if len(values) != count:
        raise SlideError(f"{labels} holds {len(values)} labels, expected {count} as in {path.name}", "Fetch both again")
    return [str(int(values[index])) for index in indices]


def _slide_names(meta: Path, count: int) -> list[str]:
    """Read the slide of each patch, empty where none is named."""
    try:
        with open(meta, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if "wsi" not in (reader.fieldnames or ()):
                raise SlideError(f"{meta.name} has no column 'wsi'", "Check that it is the metadata of PCam")
            names = [(row["wsi"] or "").strip().strip("/") for row in reader]
    except (OSError, UnicodeDecodeError) as error:
        raise SlideError(f"{meta} cannot be read: {error}", "Check the file") from error
    if len(names) != count:
        raise SlideError(
            f"{meta.name} has {len(names)} rows, expected {count}, one a patch", "Give the metadata of the same split"
        )
    return names


def _runs(indices: Sequence[int]) -> Iterator[range]:
    """Cut ascending places into runs of neighbours, each of at most 256."""
    cuts = [0, *(index for index, (a, b) in enumerate(pairwise(indices), 1) if b != a + 1), len(indices)]
    for first, last in pairwise(cuts):
        for start in range(first, last, _RUN):
            yield range(indices[start], indices[min(start + _RUN, last) - 1] + 1)


def _pixels(dataset: Any, run: range) -> Iterator[NDArray[np.uint8] | str]:
    """Yield each patch of a run, or why it cannot be read; what damages one leaves the others."""
    try:
        pixels = np.asarray(dataset[run.start : run.stop])
    except OSError as error:
        if len(run) == 1:
            yield f"cannot be read: {error}"
        for index in run if len(run) > 1 else ():
            yield from _pixels(dataset, range(index, index + 1))
    else:
        yield from pixels
