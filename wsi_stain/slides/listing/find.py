"""Slides that a run works on: files, directories, globs and slide lists become `SlideSource` records. Opens no slide.

A slide is named by its path relative to the directory or list it came from. From that name its id is made, so
`a/x.svs` and `b/x.svs` never meet, and the same directory gives the same ids on every machine.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from glob import has_magic
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field

from wsi_stain.core.errors import ConfigError
from wsi_stain.core.records import StrictRecord
from wsi_stain.core.storage import S3Path, real_path, storage_path
from wsi_stain.slides.listing.names import collision_key, short_hash, slide_id, to_utf8
from wsi_stain.slides.listing.search import READABLE, SlideSearch
from wsi_stain.slides.listing.slide_list import DETAILS, read_list
from wsi_stain.slides.listing.user_masks import mask_path
from wsi_stain.slides.resolution import MPP_RANGE


class SlideSource(StrictRecord):
    """One slide to work on.

    Attributes:
        path: The file that OpenSlide opens; the directory of an OME-Zarr, or its URL s3://bucket/prefix.
        slide_id: Unique and safe as a file name: letters, digits, `.`, `_`, `-`.
        relative: Posix path relative to the directory or list, with suffix; unique, never absolute, without `..`.
        mpp: Resolution of level 0 as the slide list states it, um per px.
        group: Laboratory and scanner, as the slide list states them.
        patient: Patient, as the slide list states it.
        site: Site, as the slide list states it.
        split: Part of a study, as the slide list states it; `wsi-stain train` leaves `test` out.
        label: Label, as the slide list states it.
        mask: The user's own mask of the slide, see `masks`; None finds tissue by itself.
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
    mask: Path | None = None


def find_slides(
    sources: Sequence[Path], masks: Path | None = None, warn: Callable[[str], None] = warnings.warn
) -> list[SlideSource]:
    """Find all slides of files, directories (nested), globs and slide lists (CSV), once each, by relative path.

    A file given by name counts as a slide whatever its suffix. Whether a slide opens is not looked at. Where two
    sources give the same slide, it keeps its first name and all that either says of it.

    Args:
        sources: Files, directories, globs, slide lists.
        masks: Directory of the user's own masks, see `masks`.
        warn: Is told of each folder that cannot be searched.

    Raises:
        ConfigError: A source does not exist or holds no slide, or slide lists are wrong or contradict each other.
    """
    search, rows_by_path = SlideSearch(warn), dict[Path, dict[str, Any]]()
    for source in sources:
        for row in _slides_of(Path(source), search):
            row["relative"] = to_utf8(row["relative"])
            known = rows_by_path.setdefault(real_path(row["path"]), row)
            known.update(_merge_details(known, row))
    rows = _name_rows([rows_by_path[key] for key in sorted(rows_by_path)])
    if not rows:
        raise ConfigError("No slides found: no source was given", "Name a slide, a directory or a slide list")
    if masks is not None:
        rows = [{**row, "mask": mask_path(masks, row["relative"])} for row in rows]
        _refuse_shared_masks(rows)
    return sorted((SlideSource(**row) for row in rows), key=lambda slide: slide.relative)


def _refuse_shared_masks(rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a mask that would serve two slides of the same name in different folders."""
    owner: dict[Path, str] = {}
    for row in rows:
        other = owner.setdefault(row["mask"], row["relative"])
        if other != row["relative"]:
            raise ConfigError(
                f"The mask {row['mask']} has the name of two slides, {other} and {row['relative']}",
                "Give each slide its own mask, in folders as those of the slides",
            )


def merge_details(slides: Sequence[SlideSource], others: Sequence[SlideSource]) -> list[SlideSource]:
    """Add to slides, under their own names, what others, which may be the same files, say of them as well.

    Raises:
        ConfigError: They contradict each other.
    """
    known = {real_path(other.path): other.model_dump() for other in others}
    return [
        slide.model_copy(update=_merge_details(slide.model_dump(), known.get(real_path(slide.path), {})))
        for slide in slides
    ]


def _slides_of(source: Path, search: SlideSearch) -> list[dict[str, Any]]:
    is_list = source.suffix.lower() == ".csv" and os.path.isfile(source)
    rows = list(_slides_of_list(source, search)) if is_list else [slide._asdict() for slide in search.slides(source)]
    if not rows:
        raise ConfigError(f"No slides found: {_no_slides_reason(source, is_list)}", "Check the path")
    return rows


def _no_slides_reason(source: Path, is_list: bool) -> str:
    names = f"ends in {' '.join(READABLE)}, results of wsi-stain left out"
    if is_list:
        return f"{source} has no rows"
    if os.path.exists(source):
        return f"no file in {source} or below {names}"
    return f"nothing that {source} stands for {names}" if has_magic(str(source)) else f"{source} does not exist"


def _slides_of_list(source: Path, search: SlideSearch) -> Iterator[dict[str, Any]]:
    """Yield the slides of a list, named as it names them, relative to it; a directory stands for its one slide."""
    seen: set[str] = set()
    for where, row in read_list(source):
        listed = Path(row.pop("slide"))
        path = listed if isinstance(storage_path(listed), S3Path) else source.parent / listed
        relative, slides = _relative_path(path, source.parent), search.slides(path)
        if (normal := os.path.normpath(path)) in seen:
            raise ConfigError(f"{where}: {relative} is listed twice", "Keep one row a slide")
        if len(slides) > 1:
            raise ConfigError(f"{where}: {path} holds {len(slides)} slides", "Name the file of each, a row a slide")
        seen.add(normal)
        if os.path.isdir(path) and slides and slides[0].path != path:
            relative += PurePosixPath(slides[0].relative).suffix
        yield {**row, "path": slides[0].path if slides else path, "relative": relative}


def _merge_details(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Merge what two rows say of the same slide."""
    for name in DETAILS:
        stated = [row[name] for row in (one, other) if row.get(name) is not None]
        if len(stated) == 2 and stated[0] != stated[1]:
            contradiction = f"{name} {stated[0]} in one place and {name} {stated[1]} in another"
            raise ConfigError(f"{one['path']} has {contradiction}", "Make the slide lists agree")
    return {name: one.get(name) if one.get(name) is not None else other.get(name) for name in DETAILS}


def _relative_path(path: Path, directory: Path) -> str:
    """Return the Posix path relative to a directory; the bare name for a path that does not lie below it."""
    inner, root = PurePosixPath(os.path.normpath(path)), PurePosixPath(os.path.normpath(directory))
    return inner.relative_to(root).as_posix() if inner.is_relative_to(root) else inner.name


def _name_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give every row an id; rows whose relative paths meet (from different sources) get a hash in their names.

    Names that differ in case or in how accents are composed alone meet as well: some file systems cannot hold both.
    """
    same = Counter(row["relative"] for row in rows)
    alike = Counter(collision_key(row["relative"]) for row in rows)
    named = []
    for row in rows:
        name = PurePosixPath(row["relative"])
        if alike[collision_key(row["relative"])] > 1:
            distinction = os.fsencode(real_path(row["path"])) if same[row["relative"]] > 1 else row["relative"].encode()
            name = name.with_name(f"{name.stem}-{short_hash(distinction)}{name.suffix}")
        named.append({**row, "relative": name.as_posix(), "slide_id": slide_id(name.as_posix())})
    return named
