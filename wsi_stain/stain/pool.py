"""Stain of slides that one laboratory stained and scanned alike. Knows statistics; no slides and no files.

What a slide shows decides a little of what is measured as its stain: on ninths of one real slide the levels of nuclei
differ by 4 %, those of stroma by 6 to 9 % (standard deviation of the logarithm), although the stain is one; two regions
of another, one of them softly focused, by 26 and 12 %. The mean over a group's slides differs less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from wsi_stain.stain.statistics import StainStatistics
from wsi_stain.stain.vectors import angle_deg

_LEVELS = ("h_nuclei", "h_stroma", "e_nuclei", "e_stroma", "lum_nuclei", "lum_stroma", "dark_ratio")
_LEAST = 1e-3
_FACTOR_APART, _DEGREES_APART = 1.4, 10.0
"""From where on a slide disagrees with its group: beyond what regions of one slide differ by."""


def pool_by_group(
    stains: Mapping[str, StainStatistics], groups: Mapping[str, str | None]
) -> dict[str, StainStatistics]:
    """Pool the stain of each slide that shares its group with others.

    Args:
        stains: Each slide's own, by slide id.
        groups: The slides' groups, by slide id; a slide without one stands alone.

    Returns:
        By slide id; slides that stand alone are left out. It does not depend on the order of the slides.
    """
    members: dict[str, list[str]] = {}
    for slide_id in sorted(stains):
        if group := groups.get(slide_id):
            members.setdefault(group, []).append(slide_id)
    shared = {
        group: pool_stains([stains[slide_id] for slide_id in ids]) for group, ids in members.items() if len(ids) > 1
    }
    return {
        slide_id: shared[group].model_copy(update=_own_glass(stains[slide_id]))
        for group in shared
        for slide_id in members[group]
    }


def pool_stains(stains: Sequence[StainStatistics]) -> StainStatistics:
    """Make one stain for several slides: geometric means of the levels, the mean direction of each vector.

    The white point is the first one's. Every slide counts the same, however much tissue it has, but for a stain that is
    hardly there on it.
    """
    weights = np.maximum([stain.evidence for stain in stains], _LEAST)
    h, e = weights.T
    levels = {
        name: float(np.exp(np.average([np.log(max(getattr(stain, name), _LEAST)) for stain in stains], weights=weight)))
        for name, weight in zip(_LEVELS, (h, h, e, e, h, e, h), strict=True)
    }
    sums = np.sum(weights[..., None] * [stain.vectors for stain in stains], axis=0)
    update = {
        **levels,
        "vectors": (sums / np.linalg.norm(sums, axis=1, keepdims=True)).tolist(),
        "pixels": sum(stain.pixels for stain in stains),
        "evidence": weights.max(axis=0).tolist(),
        "foreign": float(np.mean([stain.foreign for stain in stains])),
        "blurred": float(np.mean([stain.blurred for stain in stains])),
        "slides": sum(stain.slides for stain in stains),
    }
    return StainStatistics.model_validate({**stains[0].model_dump(), **update})


def disagreement(own: StainStatistics, group: StainStatistics) -> str:
    """Say where a slide's own stain is not what its group's is; empty where they agree."""
    apart = []
    for place, (name, level) in enumerate((("hematoxylin", "h_nuclei"), ("eosin", "e_stroma"))):
        ratio = getattr(own, level) / max(getattr(group, level), _LEAST)
        if max(ratio, 1 / max(ratio, _LEAST)) > _FACTOR_APART:
            apart.append(f"its {name} is {ratio:.2f} times the group's")
        if (angle := angle_deg(own.vectors[place], group.vectors[place])) > _DEGREES_APART:
            apart.append(f"its {name} vector is {angle:.0f} degrees from the group's")
    return f"unlike its group: {' and '.join(apart)}" if apart else ""


def _own_glass(stain: StainStatistics) -> dict[str, object]:
    """Return the fields that stay a slide's own: its glass."""
    return {"white": stain.white, "white_origin": stain.white_origin}
