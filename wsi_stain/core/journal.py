"""What makes work survive: atomic writes, receipts, fingerprints, failpoints.

Nothing half-written ever bears a final name: write to a temporary file beside it, fsync, rename, fsync the directory.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from wsi_stain.core.digest import pieces_digest
from wsi_stain.core.errors import OutputError
from wsi_stain.core.storage import StoragePath


def sync_directory(directory: Path) -> None:
    """Make renames within a directory durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def atomic_write(path: Path, content: bytes | Callable[[BinaryIO], None]) -> None:
    """Write a whole file or nothing.

    Args:
        path: The final name; missing parent directories are made.
        content: The bytes, or a function that writes them to an open binary file (which may seek).

    Raises:
        OutputError: The file cannot be written (no space, no permission).
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "w+b") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        failpoint("before-rename")
        partial.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}",
            "Check the free space and the permissions there",
        ) from error
    finally:
        with suppress(OSError):  # a folder that could not be made has no partial file
            partial.unlink()


def remove(path: Path) -> None:
    """Remove a file, or a directory all at once as far as readers can see; no harm where there is none."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    doomed = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    path.replace(doomed)
    shutil.rmtree(doomed)


def remove_partials(directory: Path) -> None:
    """Remove what writes that were killed have left below a directory; only for who holds its lease."""
    for partial in sorted(directory.rglob(".*.partial")):
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def canonical_json(value: Any) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode(
        errors="surrogateescape"
    )


def write_json(path: Path, value: Any) -> None:
    """Write a value atomically as JSON that people can read; names of files in it may hold bytes that are not UTF-8."""
    text = json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False)
    atomic_write(path, f"{text}\n".encode(errors="surrogateescape"))


def read_json(path: StoragePath) -> Any:
    """The value in a JSON file, or None where there is no such file or it is not JSON."""
    try:
        return json.loads(path.read_bytes().decode(errors="surrogateescape"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None


def fingerprint(value: Any) -> str:
    """SHA-256, in hex, of a JSON-like value's canonical text."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256, in hex, of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_file(path: Path) -> dict[str, Any]:
    """What a receipt says of a file: its size in bytes, and its sha256, of its pieces' where it is large (`digest`)."""
    return {"size": path.stat().st_size, "sha256": pieces_digest(path)}


def describe_files(directory: Path) -> dict[str, dict[str, Any]]:
    """What a receipt says of each file below a directory, by relative path with "/", in sorted order."""
    paths = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*") if path.is_file()}
    return {name: describe_file(paths[name]) for name in sorted(paths)}


def are_files_whole(directory: Path, files: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether files as `describe_files` describes them are there, each with its size."""
    return all(_has_size(directory / name, made["size"]) for name, made in files.items())


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def write_receipt(
    receipt_path: Path, key: str, product: Path | None, sha256: str | None = None, /, **details: Any
) -> dict[str, Any]:
    """Record that a piece of work is done, after its product (if any) is on disk.

    Args:
        receipt_path: Where the receipt goes.
        key: Fingerprint of everything the product depends on.
        product: The file made, or None when the work left nothing to keep.
        sha256: Of the product, as `describe_file` gives it, where it was computed while the file was written.
        details: Small JSON values that later steps need.

    Returns:
        The receipt as written: key, product (name, size, sha256) and details.
    """
    made: dict[str, Any] | None = None
    if product is not None:
        made = {"name": product.name, "size": product.stat().st_size, "sha256": sha256 or pieces_digest(product)}
    receipt = {"key": key, "product": made, **details}
    write_json(receipt_path, receipt)
    return receipt


def partial_directory(product: Path) -> Path:
    """Where a product that is a directory is made until it is whole; a rerun finds there what a killed run left."""
    return product.with_name(f"{product.name}.partial")


def commit_directory(
    partial: Path,
    product: Path,
    receipt_path: Path,
    key: str,
    files: Mapping[str, Mapping[str, Any]],
    **details: Any,
) -> dict[str, Any]:
    """Give a finished directory its final name, in place of what may be there.

    Its receipt is written first: a run killed between the two finds the directory under its partial name and a receipt
    without product, and finishes again. The other way round it would have to make the directory again.

    Args:
        partial: The directory under its preliminary name, beside the final one.
        product: The final name.
        receipt_path: Where the receipt goes.
        key: Fingerprint of everything the product depends on.
        files: What `describe_files` says of it.
        details: Small JSON values that later steps need.

    Returns:
        The receipt as written: key, product (name, size, sha256 and files; the sha256 is the fingerprint of the files)
        and details.

    Raises:
        OutputError: The directory cannot be renamed.
    """
    total = sum(made["size"] for made in files.values())
    made = {"name": product.name, "size": total, "sha256": fingerprint(files), "files": files}
    receipt = {"key": key, "product": made, **details}
    try:
        remove(product)
        for directory in (partial, *(path for path in partial.rglob("*") if path.is_dir())):
            sync_directory(directory)
        write_json(receipt_path, receipt)
        failpoint("before-rename")
        partial.rename(product)
        sync_directory(product.parent)
    except OSError as error:
        raise OutputError(
            f"{product} cannot be written: {error.strerror or error}",
            "Check the free space and the permissions there",
        ) from error
    return receipt


def valid_receipt(receipt_path: Path, key: str, product: Path | None) -> dict[str, Any] | None:
    """The receipt if the work it stands for still holds: same key, and the product there with the recorded sizes."""
    receipt = read_json(receipt_path)
    if not isinstance(receipt, dict) or receipt.get("key") != key:
        return None
    made = receipt.get("product")
    if made is None or product is None:
        return receipt if made is None and product is None else None
    holds = are_files_whole(product, made["files"]) if "files" in made else _has_size(product, made["size"])
    return receipt if holds else None


@cache
def _failpoint_plan() -> tuple[str, list[int]] | None:
    name, _, count = os.environ.get("WSI_STAIN_FAILPOINT", "").partition(":")
    return (name, [int(count or 1)]) if name else None


def failpoint(name: str) -> None:
    """Die here as by kill -9, if WSI_STAIN_FAILPOINT is `name:N` and this is this process's N-th visit. For tests."""
    plan = _failpoint_plan()
    if plan is None or plan[0] != name:
        return
    plan[1][0] -= 1
    if plan[1][0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
