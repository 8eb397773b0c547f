"""Search for slides: files, directories and globs become paths with names. Opens no slide; of DICOM it reads headers.

Directories are searched in depth. Not entered are hidden ones, the data folder of an MRXS slide, and what runs put out:
their pyramids are no slides to work on. An OME-Zarr image is a slide; another Zarr is not entered (a tile store)
unless it is named: then its slides are slides. A directory that is named is searched in any case.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from glob import has_magic, iglob
from pathlib import Path
from typing import NamedTuple

from wsi_stain.core.storage import S3Path, real_path, storage_path
from wsi_stain.slides.dicom_series import find_series, is_dicom_name, may_be_dicom, read_header
from wsi_stain.slides.parts import METADATA, images_of, is_zarr, is_zarr_image

READABLE = (
    ".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".dcm", ".czi",
)  # fmt: skip
"""What the file name of a slide that OpenSlide reads ends in, lower case."""

_BY_OTHERS = (".isyntax", ".vsi", ".qptiff", ".kfb", ".sdpc", ".mdsx")
"""Slides that OpenSlide does not read: found all the same; another reader takes them, or a row says so."""

OUTPUT_MARK = ".wsi-stain-output"
"""Name of the file that marks a run's output directory."""

_NOT_ENTERED = (OUTPUT_MARK, *METADATA)


class FoundSlide(NamedTuple):
    """A slide: the file that OpenSlide opens or an OME-Zarr, and its Posix path relative to where the search began."""

    path: Path
    relative: str


class _Series(NamedTuple):
    """A DICOM slide: its SeriesInstanceUID, None where its directory holds no other, and the file it is opened by."""

    uid: str | None
    finest: Path


class SlideSearch:
    """One search; remembers the DICOM series of the directories it came through.

    Args:
        warn: Is told of each folder that cannot be searched; the search goes on without it.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._series: dict[Path, dict[Path, _Series]] = {}

    def slides(self, source: Path) -> list[FoundSlide]:
        """Find the slides of a directory, of a glob such as `slides/**/*.svs`, or the one that a file belongs to.

        A file given by name counts as a slide whatever its suffix; in a directory and by a glob only what bears the
        name of one, also a link that leads nowhere. Nothing is found where nothing is. A slide of many files may be
        found many times.
        """
        if isinstance(storage_path(source), S3Path):
            return [FoundSlide(source, source.name)]
        if os.path.isdir(source) and is_zarr(source):
            return [FoundSlide(path, path.name) for path in images_of(source)]
        if os.path.isdir(source):
            return list(self._walk(source, source))
        if os.path.lexists(source):
            return [self._slide_of(source, source.parent) or FoundSlide(source, source.name)]
        return list(self._glob(source)) if has_magic(str(source)) else []

    def _glob(self, pattern: Path) -> Iterator[FoundSlide]:
        plain = next(count for count, part in enumerate(pattern.parts) if has_magic(part))
        root = Path(*pattern.parts[:plain])
        for match in map(Path, sorted(iglob(str(pattern), recursive=True))):
            below = match.relative_to(root).parents
            if not all(_is_entered(root / folder) for folder in below if folder != Path()):
                continue
            if os.path.isdir(match) and is_zarr_image(match):
                yield FoundSlide(match, match.relative_to(root).as_posix())
            elif os.path.isdir(match):
                yield from self._walk(match, root) if match == root or _is_entered(match) else ()
            elif slide := self._slide_of(match, root):
                yield slide

    def _walk(self, top: Path, root: Path) -> Iterator[FoundSlide]:
        """Yield slides below a directory, named relative to `root`; follows links, visits each directory once."""
        visited: set[str] = set()
        for folder, directories, files in os.walk(top, onerror=self._report_closed, followlinks=True):
            directory, real = Path(folder), os.path.realpath(folder)
            if real in visited:
                directories[:] = []
                continue
            visited.add(real)
            for name in sorted(directories):
                if not name.startswith(".") and is_zarr_image(directory / name):
                    yield FoundSlide(directory / name, (directory / name).relative_to(root).as_posix())
            companions = {Path(name).stem for name in files if name.lower().endswith(".mrxs")}
            directories[:] = sorted(
                name for name in directories if name not in companions and _is_entered(directory / name)
            )
            for name in sorted(files):
                if slide := self._slide_of(directory / name, root):
                    yield slide

    def _report_closed(self, error: OSError) -> None:
        self._warn(f"{error.filename} cannot be searched for slides: {error.strerror}")

    def _slide_of(self, path: Path, root: Path) -> FoundSlide | None:
        """Find the slide that a file is (part of), if its name and, for DICOM, its header say so."""
        inside = path.relative_to(root)
        if path.name.startswith("."):
            return None
        if not may_be_dicom(path.name):
            return FoundSlide(path, inside.as_posix()) if path.name.lower().endswith(READABLE + _BY_OTHERS) else None
        if series := self._series_of(path.parent).get(path):
            return FoundSlide(series.finest, _dicom_name(path.parent, root, series.uid))
        damaged = is_dicom_name(path.name) and read_header(path) is None
        return FoundSlide(path, inside.as_posix()) if damaged else None

    def _series_of(self, directory: Path) -> dict[Path, _Series]:
        """Find the series of each whole-slide DICOM file of a directory."""
        if directory not in self._series:
            files_by_uid = find_series(directory / name for name in _list_names(directory))
            self._series[directory] = {
                path: _Series(uid if len(files_by_uid) > 1 else None, _finest(files))
                for uid, files in files_by_uid.items()
                for path in files
            }
        return self._series[directory]


def _dicom_name(directory: Path, root: Path, uid: str | None) -> str:
    """Name a DICOM slide after its directory, or by its series in a directory that holds several."""
    if uid is not None:
        return (directory.relative_to(root) / f"{uid}.dcm").as_posix()
    return f"{real_path(directory).name if directory == root else directory.relative_to(root).as_posix()}.dcm"


def _finest(files: Sequence[Path]) -> Path:
    """Return the file that stands for a DICOM slide: the largest, which holds the finest level."""
    return max(files, key=lambda path: path.stat().st_size)


def _is_entered(directory: Path) -> bool:
    name = directory.name.lower()
    if name.startswith(".") or name.endswith(".zarr"):
        return False
    return not any(os.path.exists(directory / mark) for mark in _NOT_ENTERED)


def _list_names(directory: Path) -> list[str]:
    """List what lies in a directory; nothing where that is not allowed."""
    try:
        return os.listdir(directory)
    except OSError:
        return []
