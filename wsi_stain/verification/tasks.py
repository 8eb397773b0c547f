"""Verification as tasks: a finished slide, a slide of a tile store, or one file against its receipt. Writes nothing.

    receipts       is each product there, with the bytes that were written?
    pyramid_check  does all of it open and decode, are resolution and profile right?
    table_check    does a colour table in a file of its own do what the slide's table does?
    source_check   does it show the source, in its place, with all its tissue, structure and nuclei?

What follows from a fault is not checked: a file with other bytes is read no further, a pyramid that cannot be decoded
is not compared. So one damage makes one fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from wsi_stain.core import html, journal
from wsi_stain.core.errors import OutputError, StoreError
from wsi_stain.core.journal import Files
from wsi_stain.core.receipts import Product, describe_product
from wsi_stain.metrics.chromatin import NuclearDetail
from wsi_stain.results.finished import FinishedSlide, load_finished
from wsi_stain.store import StoredSlide
from wsi_stain.store.artifact import load_artifact
from wsi_stain.verification.faults import REDO, Fault
from wsi_stain.verification.pyramid_check import Expected, check_pyramid, open_readers
from wsi_stain.verification.quality_check import Similarity
from wsi_stain.verification.source_check import check_against_source
from wsi_stain.verification.table_check import TABLE_SUFFIXES, check_table_file

_RERUN = "Run the same command again"


@dataclass(frozen=True)
class VerifyTask:
    """One finished slide.

    Attributes:
        folder: Its corner of the output directory.
        products: Its pyramids and table files by their receipts, one for each format.
        source: Where the slide is now; None where its record says.
        reference: Nuclei of the reference; None where they are not known.
    """

    folder: Path
    products: Mapping[Path, Path]
    source: Path | None = None
    reference: NuclearDetail | None = None


@dataclass(frozen=True)
class TilesTask:
    """One slide of a tile store.

    Attributes:
        folder: Its folder there.
    """

    folder: Path


@dataclass(frozen=True)
class ProductTask:
    """One product and its receipt.

    Attributes:
        receipt: The receipt's file.
        product: The product's final name.
    """

    receipt: Path
    product: Path


class VerifyReceipt(TypedDict):
    """Receipt of one check.

    Attributes:
        faults: What is wrong with it.
        similarity: How a slide compares with its source; None where that was not looked at.
    """

    faults: list[Fault]
    similarity: Similarity | None


def verify_slide(task: VerifyTask) -> VerifyReceipt:
    """Check a finished slide."""
    finished = load_finished(task.folder)
    if finished is None:
        expected = f"row.json and grid.npz in {task.folder}"
        return {"faults": [Fault("record", expected, "none that can be read", _RERUN)], "similarity": None}
    try:
        for picture in filter(None, (finished.row.before, finished.row.hallucination)):
            html.open_picture(picture)
    except OutputError as error:
        return {"faults": [Fault("pictures", "those of a run", error.problem, error.remedy)], "similarity": None}
    receipts = {task.folder / "artifact.json": task.folder / "artifact.npz", **task.products}
    faults = [fault for receipt, product in receipts.items() for fault in product_faults(receipt, product)]
    if faults:
        return {"faults": faults, "similarity": None}
    similarity = None
    for path in task.products.values():
        if path.suffix in TABLE_SUFFIXES:
            found, compared = check_table_file(path, load_artifact(task.folder / "artifact.npz"), finished.row), None
        else:
            found, compared = _pyramid_faults(path, finished, task)
        several = len(task.products) > 1
        faults += [fault._replace(got=f"{fault.got} ({path.name})") if several else fault for fault in found]
        similarity = similarity or compared
    return {"faults": faults, "similarity": similarity}


def verify_tiles(task: TilesTask) -> VerifyReceipt:
    """Read every shard of a stored slide."""
    faults = []
    try:
        StoredSlide(task.folder).check_shards()
    except StoreError as error:
        faults.append(Fault("shards", "the tiles that were written", error.problem, error.remedy))
    return {"faults": faults, "similarity": None}


def verify_product(task: ProductTask) -> VerifyReceipt:
    """Compare a product with its receipt."""
    return {"faults": product_faults(task.receipt, task.product), "similarity": None}


def product_faults(receipt_path: Path, product: Path) -> list[Fault]:
    """Compare the bytes of a product, a file or a directory, with its receipt; at most one fault."""
    expected = _recorded_product(receipt_path)
    if expected is None:
        return [Fault("record", f"the receipt {receipt_path}", "none that can be read", _RERUN)]
    if not product.exists():
        return [Fault("file", f"{product}, {expected['size']} bytes", "no such file", _RERUN)]
    actual = describe_product(product)
    if actual["size"] != expected["size"]:
        check, wanted, got = "size", f"{expected['size']} bytes", f"{actual['size']} bytes"
    elif _contents(actual) != _contents(expected):
        check, wanted, got = "sha256", _hash_text(expected), _hash_text(actual)
    else:
        return []
    owner = _owner(receipt_path, actual)
    got += f", which is the output of {owner}" if owner else ""
    got += _other_files(expected.get("files", {}), actual.get("files", {}))
    return [Fault(check, f"{product.name} of {wanted}", got, REDO)]


def _recorded_product(receipt_path: Path) -> Product | None:
    receipt = journal.read_json(receipt_path)
    product: Product | None = receipt.get("product") if isinstance(receipt, dict) else None
    return product


def _contents(product: Product) -> str | Files | None:
    """Return the hash of a file, or those of a directory's files."""
    return product.get("files") or product.get("sha256")


def _hash_text(product: Product) -> str:
    return f"{len(product['files'])} files" if "files" in product else product.get("sha256", "no hash")


def _other_files(expected: Files, actual: Files) -> str:
    """Say which files of a directory are missing or are others: the first, and how many more."""
    other = [f"{name} is missing" for name in expected if name not in actual]
    other += [f"{name} has other bytes" for name in expected if name in actual and expected[name] != actual[name]]
    other += [f"{name} does not belong there" for name in actual if name not in expected]
    more = f", and {len(other) - 1} more" if len(other) > 1 else ""
    return f": {other[0]}{more}" if other else ""


def _owner(receipt_path: Path, actual: Product) -> str | None:
    """Find the slide whose output of the same kind has these bytes; returns its id."""
    for other in sorted(receipt_path.parent.parent.glob(f"*/{receipt_path.name}")):
        recorded = _recorded_product(other)
        if recorded is not None and _contents(recorded) == _contents(actual):
            return other.parent.name
    return None


def _pyramid_faults(path: Path, finished: FinishedSlide, task: VerifyTask) -> tuple[list[Fault], Similarity | None]:
    with ExitStack() as stack:
        try:
            readers = open_readers(path, stack)
        except OutputError as error:
            return [Fault("readers", "a pyramid that its readers open", error.problem, error.remedy)], None
        checked = check_pyramid(readers, _expect(path, finished))
        if checked.blank is None:
            return checked.faults, None
        faults, similarity = check_against_source(readers[0], checked.blank, finished, task.source, task.reference)
    return checked.faults + faults, similarity


def _expect(path: Path, finished: FinishedSlide) -> Expected:
    row, origin = finished.row, finished.origin
    assert row.size and row.mpp
    icc = origin.dicom_icc_sha256 if path.suffix == ".dicom" else origin.icc_sha256
    return Expected(row.size, row.mpp, icc)
