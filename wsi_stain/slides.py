"""Which slides a run works on: files, directories and slide lists become `SlideSource` records. Opens no slide.

A slide is named by its path relative to the directory or list it came from. From that name its id is made, so
`a/x.svs` and `b/x.svs` never meet, and the same directory gives the same ids on every machine.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field

from wsi_stain.errors import ConfigError
from wsi_stain.resolution import MPP_RANGE
from wsi_stain.settings import Settings

SUFFIXES = (
    ".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".dcm", ".czi",
)  # fmt: skip
"""What a slide's file name ends in, lower case."""

_DICOM = ".dcm"
_COLUMNS = ("slide", "mpp", "group", "patient", "site", "split", "label")
_MAX_ID = 120


class SlideSource(Settings):
    """One slide to work on.

    Attributes:
        path: The file that OpenSlide opens.
        slide_id: Unique and safe as a file name: letters, digits, `.`, `_`, `-`.
        relative: Posix path relative to the directory or list, with suffix; unique, never absolute, without `..`.
        mpp: Resolution of level 0 as the slide list states it, um per px.
        group: Laboratory and scanner, as the slide list states them.
        patient: Patient, as the slide list states it.
        site: Site, as the slide list states it.
        split: Part of a study, as the slide list states it; `wsi-stain train` leaves `test` out.
        label: Label, as the slide list states it.
    """

    path: Path
    slide_id: str
    relative: str
    mpp: float | None = Field(default=None, ge=MPP_RANGE[0], le=MPP_RANGE[1])
    group: str | None = None
    patient: str | None = None
    site: str | None = None
    split: str | None = None
    label: str | None = None


def find_slides(sources: Sequence[Path]) -> list[SlideSource]:
    """All slides of files, directories (nested) and slide lists (CSV), each once, sorted by relative path.

    A file given by name counts as a slide whatever its suffix. Whether a slide opens is not looked at.

    Raises:
        ConfigError: A source does not exist or holds no slide, or a slide list is wrong.
    """
    found: dict[Path, dict[str, Any]] = {}
    for source in sources:
        for row in _slides_of(Path(source)):
            found.setdefault(row["path"].resolve(), {**row, "relative": as_text(row["relative"])})
    rows = _distinct([found[key] for key in sorted(found)])
    if not rows:
        raise ConfigError("No slides found: no source was given", "Name a slide, a directory or a slide list")
    return sorted((SlideSource(**row) for row in rows), key=lambda slide: slide.relative)


def slide_id(relative: str) -> str:
    """The id of a slide: its relative path made safe, with a short hash wherever that loses something.

    Args:
        relative: Posix path relative to the slide directory.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", relative.replace("/", "__"))
    lossless = safe.replace("__", "/") == relative and "___" not in safe and safe[0].isalnum()
    if lossless and len(safe) <= _MAX_ID:
        return safe
    return f"{safe.lstrip('._-')[:_MAX_ID] or 'slide'}-{_short_hash(relative.encode())}"


def _slides_of(source: Path) -> list[dict[str, Any]]:
    if not source.exists():
        raise ConfigError(f"No slides found: {source} does not exist", "Check the path")
    if source.is_dir():
        rows = [{"path": path, "relative": relative} for path, relative in _walk(source)]
    elif source.suffix.lower() == ".csv":
        rows = list(_read_list(source))
    else:
        rows = [{"path": source, "relative": source.name}]
    if not rows:
        looked_for = "its rows" if source.is_file() else f"files ending in {' '.join(SUFFIXES)}, in it and below"
        raise ConfigError(f"No slides found in {source}, looked for {looked_for}", "Check the path")
    return rows


def _walk(root: Path) -> Iterator[tuple[Path, str]]:
    """Slides below a directory with their relative paths; links are followed, each real directory visited once."""
    visited: set[str] = set()
    for place, directories, files in os.walk(root, followlinks=True):
        directory, real = Path(place), os.path.realpath(place)
        slides = [name for name in sorted(files) if _is_slide_name(name)]
        companions = {Path(name).stem for name in slides if name.lower().endswith(".mrxs")}
        directories[:] = sorted(name for name in directories if _is_visited_name(name) and name not in companions)
        if real in visited:
            directories[:] = []
            continue
        visited.add(real)
        for name in slides:
            if not name.lower().endswith(_DICOM):
                yield directory / name, (directory / name).relative_to(root).as_posix()
        if dicom := _dicom_slide(directory):
            yield dicom, _dicom_name(directory, root)


def _is_slide_name(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _is_visited_name(name: str) -> bool:
    return not name.startswith(".") and not name.lower().endswith(".zarr")


def _dicom_slide(directory: Path) -> Path | None:
    """The file that stands for the slide whose DICOM files lie in a directory: the largest, the finest level's."""
    files = sorted(path for path in directory.iterdir() if _is_slide_name(path.name) and path.suffix.lower() == _DICOM)
    return max(files, key=lambda path: path.stat().st_size, default=None)


def _dicom_name(directory: Path, root: Path) -> str:
    inside = directory.relative_to(root).as_posix()
    return f"{directory.resolve().name if inside == '.' else inside}{_DICOM}"


def _read_list(source: Path) -> Iterator[dict[str, Any]]:
    try:
        text = source.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source} cannot be read as a slide list: {error}", "Save it as CSV in UTF-8") from error
    header = text.partition("\n")[0]
    reader = csv.DictReader(
        io.StringIO(text, newline=""), delimiter=";" if ";" in header and "," not in header else ","
    )
    _check_columns(source, [name.strip() for name in reader.fieldnames or ()])
    seen: set[str] = set()
    for cells in reader:
        place = f"{source}, row {reader.line_num}"
        row = _row(place, source.parent, cells)
        if row["relative"] in seen:
            raise ConfigError(f"{place}: {row['relative']} is listed twice", "Keep one row a slide")
        seen.add(row["relative"])
        yield row


def _check_columns(source: Path, columns: Sequence[str]) -> None:
    unknown = [name for name in columns if name not in _COLUMNS]
    repeated = [name for name, count in Counter(columns).items() if count > 1]
    known = f"Known columns: {', '.join(_COLUMNS)}"
    if unknown or repeated:
        raise ConfigError(f"{source} has unknown or repeated columns: {', '.join(unknown or repeated)}", known)
    if "slide" not in columns:
        raise ConfigError(f"{source} has no column 'slide'", known)


def _row(place: str, directory: Path, cells: Mapping[str | None, Any]) -> dict[str, Any]:
    if None in cells or None in cells.values():
        raise ConfigError(f"{place} does not have as many cells as the header", "Mend the row")
    row: dict[str, Any] = {str(name).strip(): text.strip() or None for name, text in cells.items()}
    slide = row.pop("slide")
    if slide is None:
        raise ConfigError(f"{place} names no slide", "Fill the column 'slide'")
    path = directory / slide
    relative = _inside(path, directory)
    if path.is_dir():
        path, relative = _dicom_slide(path) or path, f"{relative}{_DICOM}"
    return {**row, "mpp": _mpp(place, row.get("mpp")), "path": path, "relative": relative}


def _mpp(place: str, text: str | None) -> float | None:
    if text is None:
        return None
    low, high = MPP_RANGE
    try:
        mpp = float(text)
    except ValueError:
        mpp = 0.0
    if not low <= mpp <= high:
        raise ConfigError(f"{place}: mpp is {text!r}, expected {low} to {high} um per pixel", "Mend or empty the cell")
    return mpp


def _inside(path: Path, directory: Path) -> str:
    """Posix path relative to a directory; the bare name for a path that does not lie below it."""
    place, root = PurePosixPath(os.path.normpath(path)), PurePosixPath(os.path.normpath(directory))
    return place.relative_to(root).as_posix() if place.is_relative_to(root) else place.name


def _distinct(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give every row an id; rows whose relative paths meet (from different sources) get a hash in their names.

    Names that differ in case alone meet as well: some file systems cannot hold both.
    """
    same = Counter(row["relative"] for row in rows)
    alike = Counter(row["relative"].lower() for row in rows)
    named = []
    for row in rows:
        place = PurePosixPath(row["relative"])
        if alike[row["relative"].lower()] > 1:
            told_apart_by = (
                os.fsencode(row["path"].resolve()) if same[row["relative"]] > 1 else row["relative"].encode()
            )
            place = place.with_name(f"{place.stem}-{_short_hash(told_apart_by)}{place.suffix}")
        named.append({**row, "relative": place.as_posix(), "slide_id": slide_id(place.as_posix())})
    return named


def as_text(name: str) -> str:
    """A file name as text that can be written anywhere; bytes that are not UTF-8 become question marks."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _short_hash(name: bytes) -> str:
    return hashlib.sha256(name).hexdigest()[:8]
