"""SCORPION: the same places of many slides as five scanners show them, aligned. A store for each scanner.

    DIR/<slide>/<sample>/<scanner>.jpg

Ryu et al. (2025), SCORPION: Addressing Scanner-Induced Variability in Histopathology, arXiv 2507.20907; the data are on
Zenodo, 10.5281/zenodo.16517924, CC BY 4.0. Folders and scanners are taken as they are found. A patch is named by its
sample alone, so that one place has one name in every store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.errors import ConfigError
from wsi_stain.datasets.pictures import PictureError, digest, is_picture, picture_size, read_or_explain
from wsi_stain.slides.listing.names import to_utf8
from wsi_stain.store.patches import Listing, Patch, place_in_rows


@dataclass(frozen=True)
class ScorpionSlide:
    """The samples of one slide by one scanner.

    Attributes:
        folder: The slide's folder.
        scanner: The scanner, as its files are named.
        files: Each sample's name, and the name of its file in the slide's folder, posix.
    """

    folder: Path
    scanner: str
    files: tuple[tuple[str, str], ...]

    @property
    def relative(self) -> str:
        """Name of the slide, the same for every scanner."""
        return to_utf8(self.folder.name)

    @property
    def facts(self) -> dict[str, Any]:
        """Return the scanner as the site, and the slide as the patient, which keeps slides together."""
        return {"site": self.scanner, "patient": self.relative}

    def listing(self) -> Listing:
        """List all samples, side by side; their sizes from their headers."""
        sizes, refused = {}, []
        for sample, file in self.files:
            try:
                sizes[sample] = picture_size(self.folder / file)
            except PictureError as error:
                refused.append(Patch(sample, None, remark=str(error)))
        placed = [Patch(name, region) for name, region in zip(sizes, place_in_rows([*sizes.values()]), strict=True)]
        return Listing([*placed, *refused], digest((sample, self.folder / file) for sample, file in self.files))

    def read(self, patches: Sequence[Patch]) -> Iterator[tuple[Patch, NDArray[np.uint8] | str]]:
        """Yield each sample with its pixels, or with the reason why it cannot be read."""
        files = dict(self.files)
        for patch in patches:
            yield patch, read_or_explain(self.folder / files[patch.name])


def find_scanners(root: Path) -> dict[str, list[ScorpionSlide]]:
    """Find the scanners of SCORPION, and each one's slides.

    Raises:
        ConfigError: There is none.
    """
    files: dict[tuple[str, Path], list[tuple[str, str]]] = {}
    for path in sorted(root.glob("*/*/*")):
        if is_picture(path.name) and not any(part.startswith(".") for part in path.relative_to(root).parts):
            sample = to_utf8(path.parent.name)
            files.setdefault((path.stem, path.parent.parent), []).append((sample, f"{path.parent.name}/{path.name}"))
    if not files:
        raise ConfigError(
            f"No pictures found in {root}, looked for <slide>/<sample>/<scanner>.jpg",
            "Name the directory whose folders are the slides",
        )
    scanners: dict[str, list[ScorpionSlide]] = {}
    for (scanner, folder), samples in sorted(files.items()):
        scanners.setdefault(scanner, []).append(ScorpionSlide(folder, scanner, tuple(samples)))
    return scanners
