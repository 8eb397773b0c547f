"""Features as extractors write them: HDF5 or NPZ files. Nothing pickled is loaded. Knows no slides or torch.

    FILE                 `features` (n, d), and by patch `slide`, `site` or `label`, or a list with a row a patch
    DIR/<slide>.h5       `features` (n, d) of one slide, as CLAM, TRIDENT and STAMP write; a list with a row a slide
    DIR/*.npz            PathoROB's: an entry `<slide_id>-<patch_id>` (d,) a patch; a list with a row a patch

`features` may be called `feats` or `embeddings`. A list is a CSV file; its columns bear the names of a slide list, or
PathoROB's.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.errors import ConfigError
from wsi_stain.evaluation.robustness.patches import Features, PatchFacts

SUFFIXES = (".h5", ".hdf5", ".npz")

_FEATURES = ("features", "feats", "embeddings")
_COLUMNS = {
    "slide": ("slide", "slide_id"),
    "centre": ("site", "medical_center", "centre", "center", "group"),
    "label": ("label", "biological_class"),
    "patient": ("patient", "case_id"),
    "place": ("place",),
    "patch": ("patch", "patch_id"),
}
_OUT_OF_DISTRIBUTION = "OOD"


class FeatureTable(NamedTuple):
    """Features of patches, and what is known of these.

    Attributes:
        features: (n, d).
        facts: (n,).
    """

    features: Features
    facts: Sequence[PatchFacts]


def read_features(path: Path, listed: Path | None) -> FeatureTable:
    """Read one method's features.

    Args:
        path: A file, or a directory of files.
        listed: What is known of the slides or patches; None where the file says it.

    Raises:
        ConfigError: Something is missing, or does not agree.
    """
    rows = _read_list(listed) if listed else None
    if not path.is_dir():
        table = _read_file(path, rows)
    elif rows is None:
        raise ConfigError(f"{path} is a directory, and nothing says of which centre its slides are", "Give --list CSV")
    elif all(row["patch"] for row in rows):
        table = _read_entries(path, rows)
    else:
        table = _read_slides(path, rows)
    if not np.isfinite(table.features).all():
        raise ConfigError(f"{path} has features that are no numbers", "Extract them again, in float32")
    return table


def _read_file(path: Path, rows: Sequence[Mapping[str, str]] | None) -> FeatureTable:
    arrays = dict(_read_arrays(path))
    features = _find_features(path, arrays)
    rows = _rows_beside(arrays, len(features)) if rows is None else rows
    if len(rows) != len(features):
        raise ConfigError(
            f"{path} has features of {len(features)} patches, and {len(rows)} rows say what they are",
            "Give a --list with a row a patch, in the same order",
        )
    return FeatureTable(features, [_facts(row) for row in rows])


def _rows_beside(arrays: Mapping[str, NDArray[Any]], count: int) -> list[dict[str, str]]:
    """Return what a file says of its patches; empty where an array has not one entry a patch."""
    columns = {name: _find_column(arrays, keys) or [""] * count for name, keys in _COLUMNS.items()}
    if any(len(column) != count for column in columns.values()):
        return []
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _read_slides(path: Path, rows: Sequence[Mapping[str, str]]) -> FeatureTable:
    files = {file.stem: file for file in _list_files(path)}
    if missing := [row["slide"] for row in rows if Path(row["slide"]).stem not in files and row["slide"] not in files]:
        raise ConfigError(
            f"{path} has no features of {len(missing)} slides of the list, for example {missing[0]}",
            f"Name each file as its slide, with {' or '.join(SUFFIXES)}, or leave the slide out of the list",
        )
    parts, facts = [], list[PatchFacts]()
    for row in rows:
        file = files.get(row["slide"]) or files[Path(row["slide"]).stem]
        parts.append(_find_features(file, dict(_read_arrays(file))))
        facts += [_facts(row)] * len(parts[-1])
    return FeatureTable(_concatenate(path, parts), facts)


def _read_entries(path: Path, rows: Sequence[Mapping[str, str]]) -> FeatureTable:
    vectors = {name: values for file in _list_files(path) for name, values in _read_arrays(file)}
    names = [f"{row['slide']}-{row['patch']}" for row in rows]
    if missing := [name for name in names if name not in vectors]:
        raise ConfigError(
            f"{path} has no entry {missing[0]}, nor {len(missing) - 1} others of the list",
            "Give the list that the features were made with",
        )
    parts = [np.atleast_2d(np.asarray(vectors[name], np.float32)) for name in names]
    return FeatureTable(_concatenate(path, parts), [_facts(row) for row in rows])


def _concatenate(path: Path, parts: Sequence[Features]) -> Features:
    widths = sorted({part.shape[1] for part in parts})
    if len(widths) != 1:
        raise ConfigError(f"{path} has features of {widths} numbers", "Give those of one encoder")
    return np.concatenate(parts)


def _list_files(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)


def _facts(row: Mapping[str, str]) -> PatchFacts:
    if not row["slide"] or not row["centre"]:
        raise ConfigError(
            f"A row has no {'slide' if not row['slide'] else 'site'}",
            f"Name each one's slide ({' or '.join(_COLUMNS['slide'])}) and centre ({' or '.join(_COLUMNS['centre'])})",
        )
    return PatchFacts(**{name: value for name, value in row.items() if name != "patch"})


def _read_list(path: Path) -> list[dict[str, str]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read: {error}", "Give a CSV file") from error
    known = [
        {name: next((row[key].strip() for key in keys if row.get(key)), "") for name, keys in _COLUMNS.items()}
        for row in rows
        if row.get("subset") != _OUT_OF_DISTRIBUTION
    ]
    if not known:
        raise ConfigError(f"{path} has no rows", "Give a CSV file with a row a slide, or a row a patch")
    return known


def _find_features(path: Path, arrays: Mapping[str, NDArray[Any]]) -> Features:
    name = next((name for name in _FEATURES if name in arrays), None)
    if name is None:
        raise ConfigError(
            f"{path} has no array {', '.join(_FEATURES)}; it has {', '.join(sorted(arrays)) or 'none'}",
            "Name the features so",
        )
    features = np.squeeze(arrays[name], 0) if arrays[name].ndim == 3 and len(arrays[name]) == 1 else arrays[name]
    if features.ndim != 2 or features.dtype.kind not in "fiu":
        raise ConfigError(
            f"{path}: {name} is {features.shape} {features.dtype}, expected numbers, (patches, features)",
            "Keep one row a patch",
        )
    return np.asarray(features, np.float32)


def _find_column(arrays: Mapping[str, NDArray[Any]], names: Sequence[str]) -> list[str] | None:
    found = next((arrays[name] for name in names if name in arrays), None)
    if found is None:
        return None
    return [value.decode() if isinstance(value, bytes) else str(value) for value in found.reshape(-1).tolist()]


def _read_arrays(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the arrays of a file by name."""
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"{path} is no file of features that is read: {' '.join(SUFFIXES)}",
            "Save arrays as HDF5 or NPZ; pickled files (.pt, .pkl) can run code, so they are not loaded",
        )
    try:
        if path.suffix.lower() == ".npz":
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                yield from ((name, archive[name]) for name in archive.files)
        else:
            yield from _read_hdf5(path)
    except (OSError, EOFError, ValueError, BadZipFile) as error:
        raise ConfigError(f"{path} cannot be read: {error}", "Save plain arrays of numbers and text") from error


def _read_hdf5(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    try:
        import h5py
    except ImportError as error:
        raise ConfigError(
            "Features in HDF5 need h5py, which is not installed", "pip install 'wsi-stain[features]'"
        ) from error
    with h5py.File(path, "r") as file:
        for name, item in file.items():
            if isinstance(item, h5py.Dataset):
                yield name, np.asarray(item.asstr()[()] if h5py.check_string_dtype(item.dtype) else item[()])
