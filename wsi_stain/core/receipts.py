"""Receipts: what a piece of work leaves to say that it is done, for which key, and with which product.

A receipt is JSON. Each task adds what later steps need to the keys of `Receipt`, in a TypedDict of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import NotRequired, TypedDict, TypeVar

from wsi_stain.core.journal import (
    FileFacts,
    Files,
    are_files_whole,
    describe_file,
    describe_files,
    explain_failed_write,
    failpoint,
    has_size,
    read_json,
    remove,
    sync_directory,
    write_json,
)


class Product(TypedDict):
    """Product of some work: a file or a directory.

    Attributes:
        name: Its name, without folders.
        size: Bytes, of a directory those of all its files.
        sha256: Of a file: SHA-256 of its bytes, hex.
        files: Of a directory: its files.
    """

    name: str
    size: int
    sha256: NotRequired[str]
    files: NotRequired[Files]


class Receipt(TypedDict):
    """Keys that every receipt has.

    Attributes:
        key: Fingerprint of everything that the work depends on.
        product: What was made; None where the work left nothing to keep.
    """

    key: str
    product: Product | None


R = TypeVar("R", bound=Receipt)


def file_product(path: Path, facts: FileFacts | None = None) -> Product:
    """Describe a file that was made; it is read unless its facts are known from writing it."""
    facts = facts or describe_file(path)
    return {"name": path.name, "size": facts["size"], "sha256": facts["sha256"]}


def directory_product(name: str, files: Files) -> Product:
    """Describe a directory that was made, by its files."""
    return {"name": name, "size": sum(facts["size"] for facts in files.values()), "files": files}


def describe_product(path: Path) -> Product:
    """Read a file or a directory, and describe it as a product."""
    return directory_product(path.name, describe_files(path)) if path.is_dir() else file_product(path)


def write_receipt(path: Path, receipt: R) -> R:
    """Record that a piece of work is done, after its product (if any) is on disk; returns the receipt."""
    write_json(path, receipt)
    return receipt


def valid_receipt(path: Path, key: str, product: Path | None, kind: type[R]) -> R | None:
    """Read a receipt if the work that it stands for still holds.

    Args:
        path: The receipt's file.
        key: What its key must be.
        product: The product, which must be there with the sizes recorded; None where there must be none.
        kind: What the receipt must say: all required keys of this TypedDict.

    Returns:
        The receipt; None where there is none that holds.
    """
    receipt, required = read_json(path), kind.__required_keys__  # type: ignore[attr-defined] # as every TypedDict has
    if not isinstance(receipt, dict) or receipt.get("key") != key or not required <= receipt.keys():
        return None
    made: Product | None = receipt["product"]
    if made is None or product is None:
        holds = made is None and product is None
    else:
        holds = are_files_whole(product, made["files"]) if "files" in made else has_size(product, made["size"])
    return kind(**receipt) if holds else None


def partial_directory(product: Path) -> Path:
    """Name a product that is a directory until it is whole; a rerun finds there what a killed run left."""
    return product.with_name(f"{product.name}.partial")


def commit_directory(partial: Path, product: Path, receipt_path: Path, receipt: R) -> R:
    """Give a finished directory its final name, in place of what may be there.

    Its receipt is written first: a run killed between the two finds the directory under its partial name and a receipt
    without product, and finishes again. The other way round it would have to make the directory again.

    Args:
        partial: The directory under its preliminary name, beside the final one.
        product: The final name.
        receipt_path: Where the receipt goes.
        receipt: The receipt; its product is the `directory_product`.

    Returns:
        The receipt.

    Raises:
        OutputError: The directory cannot be renamed.
    """
    try:
        remove(product)
        for directory in (partial, *(path for path in partial.rglob("*") if path.is_dir())):
            sync_directory(directory)
        write_json(receipt_path, receipt)
        failpoint("before-rename")
        partial.rename(product)
        sync_directory(product.parent)
    except OSError as error:
        raise explain_failed_write(product, error) from error
    return receipt
