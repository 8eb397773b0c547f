"""Folders of patches: PNG, JPEG or TIFF files, their label the folder they lie in.

    DIR/<label>/<file>             one slide, named like DIR
    DIR/<slide>/<label>/<file>     a slide for each folder above the labels' folders, however deep it lies
    DIR/<slide>/<file>             the same without labels, on request

Patches do not say where they were cut from, so those of a slide are laid side by side in rows, label by label.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.errors import ConfigError
from wsi_stain.core.geometry import Size
from wsi_stain.core.storage import real_path
from wsi_stain.datasets.pictures import SUFFIXES, PictureError, digest, is_picture, picture_size, read_or_explain
from wsi_stain.slides.listing.names import to_utf8
from wsi_stain.store.patches import Listing, Patch, place_in_rows


@dataclass(frozen=True)
class ImageFolders:
    """The patches of one slide.

    Attributes:
        root: The slide's folder.
        relative: The slide's name: the name of the directory searched, and the slide's path in it.
        folders: The folders with patches: their paths in the slide's folder, posix, each with its label.
    """

    root: Path
    relative: str
    folders: tuple[tuple[str, str | None], ...]

    @property
    def facts(self) -> dict[str, Any]:
        """Nothing is known of the slide."""
        return {}

    def listing(self) -> Listing:
        """List all pictures, the highest first, then by label and name; their sizes from their headers."""
        pictures, refused = [], []
        for name, label in self._names():
            try:
                pictures.append((picture_size(self.root / name), label, name))
            except PictureError as error:
                refused.append(Patch(name, None, label, str(error)))
        pictures.sort(key=lambda entry: (-entry[0].height, -entry[0].width, entry[1] or "", entry[2]))
        usual = Counter(size for size, _, _ in pictures).most_common(1)
        twins = _twins(name for _, _, name in pictures)
        patches = [
            Patch(name, region, label, "; ".join(filter(None, (_size_remark(size, usual[0][0]), twins.get(name)))))
            for (size, label, name), region in zip(
                pictures, place_in_rows([size for size, _, _ in pictures]), strict=True
            )
        ]
        everything = [*patches, *refused]
        return Listing(everything, digest((patch.name, self.root / patch.name) for patch in everything))

    def read(self, patches: Sequence[Patch]) -> Iterator[tuple[Patch, NDArray[np.uint8] | str]]:
        """Yield each patch with its pixels, or with the reason why it cannot be read."""
        for patch in patches:
            yield patch, read_or_explain(self.root / patch.name)

    def _names(self) -> Iterator[tuple[str, str | None]]:
        for folder, label in self.folders:
            for name in sorted(entry for entry in os.listdir(self.root / folder) if is_picture(entry)):
                yield name if folder == "." else f"{folder}/{name}", label


def _size_remark(size: Size, usual: Size) -> str:
    if size == usual:
        return ""
    return f"laid as it is: {size.width} x {size.height} px, most are {usual.width} x {usual.height}"


def _twins(names: Iterable[str]) -> dict[str, str]:
    """Return a remark on each picture that has the name of another but for the suffix, by name: they may be one."""
    by_stem: dict[str, list[str]] = {}
    for name in names:
        by_stem.setdefault(str(PurePosixPath(name).with_suffix("")), []).append(name)
    return {
        name: f"has the name of {', '.join(other for other in same if other != name)}: is it the same picture?"
        for same in by_stem.values()
        if len(same) > 1
        for name in same
    }


def find_folders(root: Path, labelled: bool) -> list[ImageFolders]:
    """Find the slides of a directory of patches.

    Args:
        root: The directory.
        labelled: Whether a patch's folder is its label; else it is its slide.

    Raises:
        ConfigError: There is no patch.
    """
    slides: dict[Path, list[tuple[str, str | None]]] = {}
    for folder in _with_pictures(root):
        above = folder if folder == root or not labelled else folder.parent
        label = to_utf8(folder.name) if above != folder else None
        slides.setdefault(above, []).append((folder.relative_to(above).as_posix(), label))
    if not slides:
        looked_for = f"files ending in {' '.join(SUFFIXES)}, in it and below"
        raise ConfigError(f"No patches found in {root}, looked for {looked_for}", "Check the path")
    return [
        ImageFolders(folder, to_utf8(Path(real_path(root).name, folder.relative_to(root)).as_posix()), tuple(within))
        for folder, within in sorted(slides.items())
    ]


def _with_pictures(root: Path) -> Iterator[Path]:
    """Yield folders that hold patches; links are followed, each real directory visited once."""
    visited: set[str] = set()
    for region, directories, files in os.walk(root, followlinks=True):
        directories[:] = sorted(name for name in directories if not name.startswith(".") and not name.endswith(".zarr"))
        real = os.path.realpath(region)
        if real in visited:
            directories[:] = []
            continue
        visited.add(real)
        if any(is_picture(name) for name in files):
            yield Path(region)
