"""What a run makes of a slide, in which formats, where it lies, and whether it still stands.

A product is a file or a directory below OUT/slides, with a receipt beside the slide's other receipts in OUT/work. It
stands when its receipt was written under the slide's present key and its files have the sizes written there.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from wsi_stain.core import journal
from wsi_stain.core.receipts import Receipt, partial_directory, valid_receipt
from wsi_stain.pyramid.dicom import require_dicom
from wsi_stain.pyramid.stitch import PyramidReceipt

Format = Literal["ome-tiff", "ome-zarr", "dicom"]

SUFFIXES: dict[Format, str] = {"ome-tiff": ".ome.tif", "ome-zarr": ".ome.zarr", "dicom": ".dicom"}
"""How the products' names end."""

BYTES_PER_TILE: dict[Format, int] = {"ome-tiff": 40_000, "ome-zarr": 200_000, "dicom": 40_000}
"""About what a kept tile with its share of the coarser levels takes, at JPEG quality 90."""


@dataclass(frozen=True)
class SlideOutput:
    """One slide in one format.

    Attributes:
        kind: The format.
        path: The file or directory.
        receipt: Where its receipt lies.
        key: Fingerprint of everything that its bytes depend on.
    """

    kind: Format
    path: Path
    receipt: Path
    key: str

    def stands(self) -> bool:
        """Check whether the product stands."""
        return valid_receipt(self.receipt, self.key, self.path, Receipt) is not None

    def standing_tiff(self) -> PyramidReceipt | None:
        """Return the receipt of an OME-TIFF, if it stands."""
        return valid_receipt(self.receipt, self.key, self.path, PyramidReceipt)


@dataclass(frozen=True)
class SlideOutputs:
    """The products of one slide.

    Attributes:
        out: The output directory.
        place: The slide's corner below OUT/work.
        stem: The products' common name, relative to OUT, without suffix.
        formats: What the run was asked for, the first being the one that the summary and the report link to.
        key: Fingerprint of everything that the products' bytes depend on.
    """

    out: Path
    place: Path
    stem: PurePosixPath
    formats: Sequence[Format]
    key: str

    @property
    def blocks(self) -> Path:
        """Where everything lies that is removed when the products are finished."""
        return self.place / "blocks"

    @property
    def row(self) -> Path:
        """Where the finished slide's row is kept."""
        return self.place / "row.json"

    @property
    def names(self) -> list[str]:
        """The products that were asked for, relative to OUT, with "/"."""
        return [str(output_name(self.stem, kind)) for kind in self.formats]

    @property
    def missing(self) -> list[Format]:
        """The formats that were asked for and do not stand."""
        return [kind for kind in self.formats if not self.product(kind).stands()]

    @property
    def stale(self) -> bool:
        """Whether there is anything of another key, asked for or not."""
        every = map(self.product, SUFFIXES)
        return any(product.path.exists() and not product.stands() for product in every)

    @property
    def tiff(self) -> SlideOutput:
        """The TIFF, source of thumbnails and DICOM: an intermediate where none was asked for and none stands."""
        final = self.product("ome-tiff")
        if "ome-tiff" in self.formats or final.stands():
            return final
        return SlideOutput("ome-tiff", self.blocks / "pyramid.ome.tif", self.blocks / "ome-tiff.json", self.key)

    def product(self, kind: Format) -> SlideOutput:
        """The slide in a format, asked for or not."""
        return SlideOutput(kind, self.out / output_name(self.stem, kind), self.place / f"{kind}.json", self.key)

    def forget(self) -> None:
        """Remove what was made under another key, asked for or not: if the slide fails now, none of it must stand."""
        self.row.unlink(missing_ok=True)
        for product in map(self.product, SUFFIXES):
            if not product.stands():
                product.receipt.unlink(missing_ok=True)
                journal.remove(product.path)

    def tidy(self) -> None:
        """Remove what only the making of the products needed."""
        shutil.rmtree(self.blocks, ignore_errors=True)
        for product in map(self.product, SUFFIXES):
            shutil.rmtree(partial_directory(product.path), ignore_errors=True)


def check_formats(formats: Sequence[Format]) -> None:
    """Check that all formats can be written here; raises ConfigError where one cannot."""
    if "dicom" in formats:
        require_dicom()


def output_name(stem: PurePosixPath, kind: Format) -> PurePosixPath:
    """A product's name in a format."""
    return stem.with_name(f"{stem.name}{SUFFIXES[kind]}")
