"""Names: ids of slides, and parts of paths that a file system takes. Opens nothing.

A name that some file system refuses, or that a terminal would not show, is changed in what is made of the slide, and
gets a short hash of what it was, so that two names that are changed alike do not meet.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from pathlib import PurePosixPath

from wsi_stain.core.text import is_unprintable

_MAX_ID = 120
_MOST_BYTES = 215
"""Of a part of a path, UTF-8: with `.ome.zarr` and what is put around it while it is written 253 of the 255 that file
systems take."""

_MOST_PATH_BYTES = 1000
"""Of a whole path below the output directory, of 4096 that the system takes for all of it."""

_REFUSED = frozenset('<>:"|?*\\')
"""By Windows and SMB, beside control characters, dots and spaces at the end, and the names of devices."""

_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])\s*(\.|$)", re.IGNORECASE)


def slide_id(relative: str) -> str:
    """Make the id of a slide: its relative path made safe, with a short hash wherever that loses something.

    Args:
        relative: Posix path relative to the slide directory.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", relative.replace("/", "__"))
    lossless = safe.replace("__", "/") == relative and "___" not in safe and safe[0].isalnum()
    if lossless and len(safe) <= _MAX_ID and not _is_refused(safe):
        return safe
    start = safe.lstrip("._-")[:_MAX_ID] or "slide"
    return f"{'slide-' if _DEVICE.match(start) else ''}{start}-{short_hash(relative.encode())}"


def safe_path(path: PurePosixPath, portable: bool = False) -> PurePosixPath:
    """Return a relative path as the name of what is made of it: each part is one that the file system takes.

    What is too long is cut, control and format characters become `_`.

    Args:
        path: The path, relative; its text is valid Unicode.
        portable: Whether Windows and SMB must take it too.
    """
    safe = PurePosixPath(*(_safe_part(part, portable) for part in path.parts))
    if len(str(safe).encode()) <= _MOST_PATH_BYTES:
        return safe
    return PurePosixPath(slide_id(str(path)))


def collision_key(name: str) -> str:
    """Return what two names share that some file system takes for one: regardless of case and of composed accents."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def short_hash(name: bytes) -> str:
    """Return eight hex digits that tell names apart."""
    return hashlib.sha256(name).hexdigest()[:8]


def to_utf8(name: str) -> str:
    """Make a file name text that can be written anywhere; bytes that are not UTF-8 become question marks."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _safe_part(part: str, portable: bool) -> str:
    safe = "".join("_" if is_unprintable(letter) or (portable and letter in _REFUSED) else letter for letter in part)
    if portable and _is_refused(safe):
        safe = f"_{safe.rstrip('. ')}"
    if safe == part and len(part.encode()) <= _MOST_BYTES:
        return part
    digest = short_hash(part.encode())
    return f"{safe.encode()[: _MOST_BYTES - len(digest) - 1].decode(errors='ignore')}-{digest}"


def _is_refused(part: str) -> bool:
    return part.endswith((".", " ")) or _DEVICE.match(part) is not None
