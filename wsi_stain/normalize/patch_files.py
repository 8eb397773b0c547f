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
from typing import Any

from PIL import Image

from wsi_stain.core import journal
from wsi_stain.core.errors import StoreError
from wsi_stain.datasets.pictures import is_picture
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


def write_patches(task: PatchFilesTask) -> dict[str, Any]:
    """Write a part of a slide's patches, unless they are there; the receipt: key, files as receipts describe them."""
    partial = journal.partial_directory(task.folder)
    done = journal.valid_receipt(task.receipt, task.key, None)
    if done and journal.are_files_whole(partial, done["files"]):
        return done
    files = {}
    with task.slide() as slide:
        patches = placed_patches(slide)
        names = file_names(patches)
        for patch in patches[task.first : task.first + PART]:
            assert patch.region
            content = io.BytesIO()
            Image.fromarray(slide.read(patch.region)).save(content, "PNG", compress_level=1)
            path = partial / names[patch.name]
            journal.atomic_write(path, content.getvalue())
            files[names[patch.name]] = journal.describe_file(path)
    return journal.write_receipt(task.receipt, task.key, None, files=files)


def commit_patches(task: PatchFilesTask) -> dict[str, Any]:
    """Give the folder its name, unless it has it; the receipt: key, product."""
    if done := journal.valid_receipt(task.receipt, task.key, task.folder):
        return done
    partial = journal.partial_directory(task.folder)
    with task.slide() as slide:
        wanted = set(file_names(placed_patches(slide)).values())
    for name in set(journal.describe_files(partial)) - wanted:  # left by a run with other patches that was killed
        (partial / name).unlink()
    return journal.commit_directory(partial, task.folder, task.receipt, task.key, journal.describe_files(partial))


def placed_patches(slide: StoredSlide) -> list[Patch]:
    """A slide's patches but for those that were refused; StoreError where it was not made of patches."""
    if PATCH_TABLE not in slide.tables():
        raise StoreError(f"{slide.slide_id} was not made of patches", "Write a store of it instead, with --to store")
    return [patch for patch in from_csv(slide.table(PATCH_TABLE)) if patch.region]


def file_names(patches: Sequence[Patch]) -> dict[str, str]:
    """What each patch's file is called, by the patch's name: its path with .png, below its label.

    Patches that would meet, such as x.jpg beside x.png, keep their own suffix before the new one.

    Raises:
        StoreError: A name would lead out of the folder.
    """
    short = {patch.name: _file_name(patch, short=True) for patch in patches}
    count = Counter(name.casefold() for name in short.values())
    return {
        patch.name: short[patch.name] if count[short[patch.name].casefold()] == 1 else _file_name(patch, short=False)
        for patch in patches
    }


def _file_name(patch: Patch, short: bool) -> str:
    path = PurePosixPath(patch.name.replace(":", "_").replace("\\", "_"))
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise StoreError(f"{patch.name!r} is no name of a patch below a folder", "Import the patches again")
    if patch.label is not None and path.parent.name != patch.label:
        path = PurePosixPath(patch.label.replace("/", "_").strip(".") or "_") / path
    return str(path.with_suffix(".png") if short and is_picture(path.name) else path.with_name(f"{path.name}.png"))
