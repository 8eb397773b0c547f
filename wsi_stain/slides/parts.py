"""The files that a slide consists of, and their fingerprint. Knows no pixels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from glob import escape
from pathlib import Path
from typing import Any

from wsi_stain.core.regular_files import check_regular, odd_kind
from wsi_stain.slides.dicom_series import files_of_slide, read_header

_DIGEST_PIECES = 64
_DIGEST_PIECE_BYTES = 65_536


def check_parts(path: Path) -> None:
    """Refuse a slide of which something that OpenSlide may open is no regular file.

    Raises:
        SlideError: A FIFO, a socket, a device or a directory.
    """
    for part in _opened_files(path):
        check_regular(part)


def digest_of_parts(path: Path) -> dict[str, Any]:
    """Return {"size": bytes, "digest": SHA-256 of evenly spaced pieces of all files}: without names or times."""
    return _digest(_companions(path))


def _opened_files(path: Path) -> list[Path]:
    """Return the files that OpenSlide may open for a slide: for formats of many files whatever lies where they lie."""
    suffix = path.suffix.lower()
    folder = path.with_suffix("") if suffix == ".mrxs" else path.parent
    if suffix not in {".mrxs", ".vms", ".vmu"} and read_header(path) is None:
        return [path]
    return [path, *sorted(other for other in folder.glob("*") if odd_kind(other) != "a directory")]


def _companions(path: Path) -> list[Path]:
    """List all files that a slide consists of, the given one first."""
    suffix = path.suffix.lower()
    if suffix == ".mrxs":
        others = list(path.with_suffix("").glob("*"))
    elif suffix in {".vms", ".vmu"}:
        others = list(path.parent.glob(f"{escape(path.stem)}*"))
    else:
        others = files_of_slide(path)
    return [path, *sorted(other for other in others if other != path and other.is_file())]


def _digest(paths: Sequence[Path]) -> dict[str, Any]:
    """Hash the sizes and evenly spaced pieces of files, the head and the tail among them."""
    digest, total = hashlib.sha256(), 0
    for path in paths:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            total += size
            digest.update(size.to_bytes(8, "big"))
            last = max(size - _DIGEST_PIECE_BYTES, 0)
            for offset in sorted({last * i // (_DIGEST_PIECES - 1) for i in range(_DIGEST_PIECES)}):
                file.seek(offset)
                digest.update(file.read(_DIGEST_PIECE_BYTES))
    return {"size": total, "digest": digest.hexdigest()}
