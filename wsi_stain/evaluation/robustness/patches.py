"""What is known of a cohort's patches: their centre, biology, and whose they are."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_stain.core.errors import ConfigError

Features = NDArray[np.float32]
"""Features of patches, (n, d)."""

Codes = NDArray[np.intp]
"""Names as numbers, (n,); -1 where none is known."""


@dataclass(frozen=True)
class PatchFacts:
    """One patch.

    Attributes:
        slide: The slide that it is of.
        centre: Where that was stained and scanned.
        label: Its biology; empty where it is not known.
        patient: Whose it is; empty where it is not known.
        place: Names the place in the tissue; the same in each centre that shows it. Empty where that is not known.
    """

    slide: str
    centre: str
    label: str = ""
    patient: str = ""
    place: str = ""


@dataclass(frozen=True)
class CohortPatches:
    """A cohort's patches, in the order of the features.

    Attributes:
        centres: Names of the centres.
        labels: Names of the biological classes.
        centre: (n,), which centre each patch is of.
        label: (n,), its biology, -1 where none is known.
        group: (n,), whose it is: the patient's, or where none is known the slide's.
        place: (n,), its place in the tissue, -1 where that is not known.
    """

    centres: Sequence[str]
    labels: Sequence[str]
    centre: Codes
    label: Codes
    group: Codes
    place: Codes

    @property
    def group_count(self) -> int:
        """How many groups there are."""
        return int(self.group.max()) + 1

    @property
    def strata(self) -> list[Hashable]:
        """The centres of each group, in the order of their numbers."""
        seen: dict[int, set[int]] = {}
        for group, centre in zip(self.group.tolist(), self.centre.tolist(), strict=True):
            seen.setdefault(group, set()).add(centre)
        return [frozenset(seen[group]) for group in sorted(seen)]

    @property
    def groups_of_centres(self) -> Mapping[str, int]:
        """How many groups each centre has."""
        return {name: len(np.unique(self.group[self.centre == number])) for number, name in enumerate(self.centres)}


def gather_patches(facts: Sequence[PatchFacts]) -> CohortPatches:
    """Number what is known of patches.

    Raises:
        ConfigError: They are of one centre.
    """
    centres, centre = _number([each.centre for each in facts])
    labels, label = _number([each.label for each in facts])
    _, group = _number([each.patient or each.slide for each in facts])
    _, place = _number([each.place for each in facts])
    if len(centres) < 2:
        raise ConfigError(
            f"All {len(facts)} patches are of one centre, {', '.join(centres) or 'none'}",
            "Give a store a centre, or name the centre of each slide as its site",
        )
    return CohortPatches(centres, labels, centre, label, group, place)


def _number(names: Sequence[str]) -> tuple[list[str], Codes]:
    """Return the names but the empty one, sorted, and which each is."""
    known = sorted({name for name in names if name})
    numbers = {name: number for number, name in enumerate(known)}
    return known, np.array([numbers.get(name, -1) for name in names], np.intp)
