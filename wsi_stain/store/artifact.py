"""Artifact that `prepare` leaves for `apply`: named arrays in one file, once a slide; and what `apply` counts.

The file is NumPy's .npz; nothing pickled is written or read. The same arrays give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZIP_STORED, BadZipFile

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from wsi_stain.core.errors import OutputError
from wsi_stain.core.journal import atomic_write, canonical_json
from wsi_stain.stain.statistics import StainStatistics

Artifact = Mapping[str, NDArray[Any]]

STATISTICS = "statistics"
"""The entry that holds the slide's stain statistics: canonical JSON in UTF-8, as uint8."""

TABLE = "table"
"""The entry that holds the slide's colour table, where it has one: (N, N, N, 3) float32, see `stain/colour_table`."""


@dataclass
class NormalizationCounts:
    """Counts of a block's normalization, for its receipt.

    Attributes:
        retried: Passes of the generator that gave values that are no numbers, and were computed again in float32.
    """

    retried: int = 0


def pack_statistics(statistics: StainStatistics) -> NDArray[np.uint8]:
    """Pack stain statistics as an array, for the entry `STATISTICS`."""
    return np.frombuffer(canonical_json(statistics.model_dump(mode="json")), np.uint8)


def unpack_statistics(artifact: Artifact) -> StainStatistics:
    """Unpack the stain statistics in an artifact's entry `STATISTICS`."""
    return StainStatistics.model_validate_json(artifact[STATISTICS].tobytes())


def save_artifact(path: Path, artifact: Artifact) -> None:
    """Write an artifact atomically; raises OutputError where it cannot be written."""

    def write(file: BinaryIO) -> None:
        np.savez(file, allow_pickle=False, **dict(sorted(artifact.items())))

    atomic_write(path, write)


def load_artifact(path: Path) -> Artifact:
    """Read what `save_artifact` wrote.

    Raises:
        OutputError: There is no such file, or it is damaged.
    """
    try:
        with open(path, "rb") as file, NpzFile(file, allow_pickle=False) as arrays:
            if arrays.zip and any(entry.compress_type != ZIP_STORED for entry in arrays.zip.infolist()):
                raise ValueError("it is compressed, so that it may be of any size")
            return {name: arrays[name] for name in arrays.files}
    except (OSError, EOFError, ValueError, RuntimeError, MemoryError, BadZipFile) as error:
        raise OutputError(
            f"{path} is not the artifact of a slide ({error})", "Delete it and run the same command again"
        ) from error
