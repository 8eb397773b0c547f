"""The pyramids and colour tables of one slide: in which formats, where they lie, and whether they are valid.

An output is a file or a directory below OUT/slides, with a receipt beside the slide's other receipts in OUT/work. It is
valid while its receipt has the slide's present key and its files have the sizes written there.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipelines.shared.formats import SUFFIXES, Format, only_tables, output_name
from wsi_stain.core import journal
from wsi_stain.core.receipts import Receipt, partial_directory, valid_receipt
from wsi_stain.pyramid.stitch import PyramidReceipt
from wsi_stain.results.finished import ROW


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

    @property
    def is_valid(self) -> bool:
        """True where the receipt has the key and the files have its sizes."""
        return valid_receipt(self.receipt, self.key, self.path, Receipt) is not None

    def tiff_receipt(self) -> PyramidReceipt | None:
        """Return the receipt of an OME-TIFF, if it is valid."""
        return valid_receipt(self.receipt, self.key, self.path, PyramidReceipt)


@dataclass(frozen=True)
class SlideOutputs:
    """All outputs of one slide.

    Attributes:
        out: The output directory.
        folder: The slide's folder below OUT/work.
        stem: The outputs' common name, relative to OUT, without suffix.
        formats: What the run was asked for, the first being the one that the summary and the report link to.
        key: Fingerprint of everything that the outputs' bytes depend on.
    """

    out: Path
    folder: Path
    stem: PurePosixPath
    formats: Sequence[Format]
    key: str

    @property
    def blocks(self) -> Path:
        """Folder of everything that is removed once the outputs are finished."""
        return self.folder / "blocks"

    @property
    def artifact(self) -> Path:
        """File of what the normalizer knows of the slide."""
        return self.folder / "artifact.npz"

    @property
    def has_artifact(self) -> bool:
        """True where that file is there under the slide's present key."""
        receipt = self.artifact.with_suffix(".json")
        return valid_receipt(receipt, self.key, self.artifact, Receipt) is not None

    @property
    def row(self) -> Path:
        """File of the finished slide's row."""
        return self.folder / ROW

    @property
    def names(self) -> list[str]:
        """Names of the requested outputs, relative to OUT, with "/"."""
        return [str(output_name(self.stem, kind)) for kind in self.formats]

    @property
    def missing(self) -> list[Format]:
        """Requested formats without a valid output."""
        return [kind for kind in self.formats if not self.output(kind).is_valid]

    @property
    def has_pyramids(self) -> bool:
        """True where any pyramid is requested."""
        return not only_tables(self.formats)

    @property
    def has_any(self) -> bool:
        """True where an earlier run left any output or receipt, requested or not, or a row."""
        outputs = map(self.output, SUFFIXES)
        return self.row.exists() or any(output.path.exists() or output.receipt.exists() for output in outputs)

    @property
    def has_stale(self) -> bool:
        """True where there is an output of another key, requested or not."""
        return any(output.path.exists() and not output.is_valid for output in map(self.output, SUFFIXES))

    @property
    def tiff(self) -> SlideOutput:
        """The TIFF, source of thumbnails and DICOM: an intermediate where none is requested and none is valid."""
        final = self.output("ome-tiff")
        if "ome-tiff" in self.formats or final.is_valid:
            return final
        return SlideOutput("ome-tiff", self.blocks / "pyramid.ome.tif", self.blocks / "ome-tiff.json", self.key)

    def output(self, kind: Format) -> SlideOutput:
        """Return the slide in a format, requested or not."""
        return SlideOutput(kind, self.out / output_name(self.stem, kind), self.folder / f"{kind}.json", self.key)

    def remove_stale(self) -> None:
        """Remove what has another key, requested or not, and the row: if the slide fails now, none of it must stay."""
        self.row.unlink(missing_ok=True)
        for output in map(self.output, SUFFIXES):
            if not output.is_valid:
                output.receipt.unlink(missing_ok=True)
                journal.remove(output.path)

    def remove_intermediates(self) -> None:
        """Remove what only the making of the outputs needed, and what workers that were killed amid it left."""
        shutil.rmtree(self.blocks, ignore_errors=True)
        journal.remove_partials(self.folder)
        for output in map(self.output, SUFFIXES):
            shutil.rmtree(partial_directory(output.path), ignore_errors=True)
            journal.remove_partials_of(output.path)
