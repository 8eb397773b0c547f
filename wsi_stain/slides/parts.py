"""The files that a slide consists of, and their fingerprint. Knows no pixels.

A Zarr is a directory of many files, told by its metadata, or a prefix on S3 of many objects; of these the service's own
digests count.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from glob import escape
from pathlib import Path
from typing import Any

from wsi_stain.core.journal import read_json
from wsi_stain.core.storage import S3Path, StoragePath, check_regular, list_objects, odd_kind
from wsi_stain.slides.dicom_series import files_of_slide, read_header

_DIGEST_PIECES = 64
_DIGEST_PIECE_BYTES = 65_536


def check_parts(path: StoragePath) -> None:
    """Refuse a slide of which something that OpenSlide may open is no regular file.

    Raises:
        SlideError: A FIFO, a socket, a device or a directory.
    """
    if isinstance(path, S3Path) or is_zarr(path):
        return
    for part in _opened_files(path):
        check_regular(part)


def digest_of_parts(path: StoragePath) -> dict[str, Any]:
    """Return {"size": bytes, "digest": SHA-256 of evenly spaced pieces of all files}: without times.

    Of a Zarr the names of its files count, and their sizes, but the pieces of few.
    """
    if isinstance(path, S3Path):
        return _digest_of_names(list_objects(path))
    return _digest_zarr(path) if is_zarr(path) else _digest(_companions(path))


def file_state(path: StoragePath) -> tuple[int, ...]:
    """Return the size of a slide's file and the time of its last change, ns; on S3 nothing is known of it."""
    if isinstance(path, S3Path):
        return ()
    state = path.stat()
    return state.st_size, state.st_mtime_ns


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


def _digest_zarr(folder: Path) -> dict[str, Any]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    named = _digest_of_names((path.relative_to(folder).as_posix(), path.stat().st_size, "") for path in files)
    last = len(files) - 1
    few = sorted({last * i // (_DIGEST_PIECES - 1) for i in range(_DIGEST_PIECES)})
    pieces = _digest([files[i] for i in few])
    return {"size": named["size"], "digest": _sha256(f"{named['digest']} {pieces['digest']}".encode())}


def _digest_of_names(files: Iterable[tuple[str, int, str]]) -> dict[str, Any]:
    """Hash what is known of files without reading them: name, size, and what their server says of their content."""
    listed = sorted(files)
    return {"size": sum(size for _, size, _ in listed), "digest": _sha256(repr(listed).encode())}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


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


METADATA = ("zarr.json", ".zgroup")
"""Files by which a directory is a Zarr, of version 3 or 2."""


def is_zarr(path: StoragePath) -> bool:
    """Check whether a path is a Zarr's directory, or lies on S3, where nothing else is read."""
    return isinstance(path, S3Path) or any(os.path.isfile(path / name) for name in METADATA)


def is_zarr_image(folder: Path) -> bool:
    """Check whether a directory is an OME-Zarr image, or several of one slide, as bioformats2raw writes them."""
    attributes = _attributes(folder)
    ngff = attributes.get("ome", attributes)
    return isinstance(ngff, Mapping) and any(name in ngff for name in ("multiscales", "bioformats2raw.layout"))


def images_of(folder: Path) -> list[Path]:
    """List the images of a Zarr that is named: itself, else its groups that are images, as a tile store has them."""
    if is_zarr_image(folder):
        return [folder]
    return sorted(path for path in folder.iterdir() if path.is_dir() and is_zarr_image(path))


def _attributes(folder: Path) -> Mapping[str, Any]:
    try:
        metadata = read_json(folder / "zarr.json")
        attributes = metadata.get("attributes") if isinstance(metadata, dict) else read_json(folder / ".zattrs")
    except PermissionError:  # a folder that may not be entered
        return {}
    return attributes if isinstance(attributes, dict) else {}
