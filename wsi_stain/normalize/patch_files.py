"""The patches of a stored slide as picture files again: PNG, lossless, in folders by label.

Files are made under a preliminary name, part by part, and the folder is given its own when all are there.

Memory bound: one patch, and the list of the slide's patches.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from PIL import Image

from wsi_stain.core.errors import StoreError
from wsi_stain.core.journal import FileFacts, Files, are_files_whole, describe_files, write_hashed
from wsi_stain.core.receipts import (
    Receipt,
    commit_directory,
    directory_product,
    partial_directory,
    valid_receipt,
    write_receipt,
)
from wsi_stain.datasets.pictures import is_picture
from wsi_stain.slides.listing.names import collision_key, safe_path, short_hash
from wsi_stain.store import StoredSlide
from wsi_stain.store.patches import PATCH_TABLE, Patch, from_csv

PART = 1000
"""Patches that one task writes."""


@dataclass(frozen=True, kw_only=True)
class PatchFilesTask:
    """Write a part of a slide's patches, or finish their folder.

    Attributes:
        slide: Opens the slide whose patches are written.
        folder: The final name of the folder.
        receipt: Where the receipt goes.
        key: Fingerprint of everything that the files depend on.
        first: Number of the part's first patch, in the slide's table.
    """

    slide: Callable[[], StoredSlide]
    folder: Path
    receipt: Path
    key: str
    first: int = 0


class PatchFilesReceipt(Receipt):
    """Receipt of a part of a slide's patches: its files, by their path in the folder."""

    files: Files


def write_patches(task: PatchFilesTask) -> PatchFilesReceipt:
    """Write a part of a slide's patches, unless they are there."""
    partial = partial_directory(task.folder)
    done = valid_receipt(task.receipt, task.key, None, PatchFilesReceipt)
    if done and are_files_whole(partial, done["files"]):
        return done
    files: Files = {}
    with task.slide() as slide:
        patches = placed_patches(slide)
        names = file_names(patches)
        for patch in patches[task.first : task.first + PART]:
            assert patch.region
            content = io.BytesIO()
            Image.fromarray(slide.read(patch.region)).save(content, "PNG", compress_level=1)
            name = names[patch.name]
            files[name] = _write_file(partial / name, content.getvalue())
    return write_receipt(task.receipt, PatchFilesReceipt(key=task.key, product=None, files=files))


def _write_file(path: Path, content: bytes) -> FileFacts:
    return write_hashed(path, lambda file: file.write(content))


def commit_patches(task: PatchFilesTask) -> Receipt:
    """Give the folder its name, unless it has it."""
    if done := valid_receipt(task.receipt, task.key, task.folder, Receipt):
        return done
    partial = partial_directory(task.folder)
    with task.slide() as slide:
        wanted = set(file_names(placed_patches(slide)).values())
    for name in set(describe_files(partial)) - wanted:  # left by a run with other patches that was killed
        (partial / name).unlink()
    product = directory_product(task.folder.name, describe_files(partial))
    return commit_directory(partial, task.folder, task.receipt, Receipt(key=task.key, product=product))


def placed_patches(slide: StoredSlide) -> list[Patch]:
    """List a slide's patches but for those that were refused; StoreError where it was not made of patches."""
    if PATCH_TABLE not in slide.tables():
        raise StoreError(f"{slide.slide_id} was not made of patches", "Write a store of it instead, with --to store")
    return [patch for patch in from_csv(slide.table(PATCH_TABLE)) if patch.region]


def file_names(patches: Sequence[Patch]) -> dict[str, str]:
    """Name each patch's file, by the patch's name: its path with .png, below its label, as every file system takes it.

    Patches that would meet, such as x.jpg beside x.png, keep their own suffix before the new one; if they still meet,
    as a:b and a_b would, they get a hash of their name.

    Raises:
        StoreError: A name would lead out of the folder.
    """
    names = {patch.name: _file_name(patch, "short") for patch in patches}
    forms: tuple[Literal["full", "hashed"], ...] = ("full", "hashed")
    for form in forms:
        claimed = Counter(map(collision_key, names.values()))
        for patch in patches:
            if claimed[collision_key(names[patch.name])] > 1:
                names[patch.name] = _file_name(patch, form)
    return names


def _file_name(patch: Patch, form: Literal["short", "full", "hashed"]) -> str:
    path = PurePosixPath(patch.name.replace(":", "_").replace("\\", "_"))
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise StoreError(f"{patch.name!r} is no name of a patch below a folder", "Import the patches again")
    if patch.label is not None and PurePosixPath(patch.name).parent.name != patch.label:
        path = PurePosixPath(patch.label.replace("/", "_").strip(".") or "_") / path
    if form == "short" and is_picture(path.name):
        path = path.with_suffix("")
    elif form == "hashed":
        path = path.with_name(f"{path.name}-{short_hash(patch.name.encode())}")
    return f"{safe_path(path, portable=True)}.png"
