"""How many micrometres a pixel of level 0 measures, and who says so. Decides from properties alone, before any pixel.

In this order: the value the user gives, OpenSlide's own, the TIFF resolution tags. A value is refused, never mended:
a wrong resolution gives wrong magnification everywhere downstream without a sign.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from wsi_stain.errors import MppError
from wsi_stain.geometry import Mpp

MPP_RANGE = (0.05, 5.0)
"""um per px that a level 0 of a bright-field scanner can have."""

_UM_OBJECTIVE = 10.0
"""mpp x objective power of common scanners: 40x is about 0.25, 20x about 0.5."""

_UM_OBJECTIVE_FACTOR = 2.0

_UM_PER_UNIT = {"centimeter": 10_000.0, "inch": 25_400.0}

_REMEDY = "Say the true resolution with --slide-mpp (um per pixel of level 0), or in the mpp column of a slide list"


class Resolution(NamedTuple):
    """Resolution of level 0 and where it came from: '--slide-mpp', 'openslide' or 'tiff tags'."""

    mpp: Mpp
    origin: str


def resolve(path: Path, properties: Mapping[str, str], slide_mpp: float | None) -> Resolution:
    """Decide a slide's resolution.

    Args:
        path: The slide, for messages.
        properties: OpenSlide's properties.
        slide_mpp: What the user says, um per px of level 0; beats the file and its objective power.

    Raises:
        MppError: No resolution, one outside 0.05 to 5 um per px, or one that contradicts the objective power.
    """
    if slide_mpp is not None:
        return _checked(path, Resolution(Mpp(slide_mpp, slide_mpp), "--slide-mpp"), None)
    found = _from_openslide(properties) or _from_tags(properties)
    if found is None:
        raise MppError(f"{path} does not say its resolution (mpp)", _REMEDY)
    return _checked(path, found, objective_power(properties))


def objective_power(properties: Mapping[str, str]) -> float | None:
    """The objective's magnification as the file states it, or None."""
    return _positive(properties.get("openslide.objective-power"))


def _from_openslide(properties: Mapping[str, str]) -> Resolution | None:
    x, y = _positive(properties.get("openslide.mpp-x")), _positive(properties.get("openslide.mpp-y"))
    return Resolution(Mpp(x or y or 0.0, y or x or 0.0), "openslide") if x or y else None


def _from_tags(properties: Mapping[str, str]) -> Resolution | None:
    unit = _UM_PER_UNIT.get(properties.get("tiff.ResolutionUnit", ""))
    x, y = _positive(properties.get("tiff.XResolution")), _positive(properties.get("tiff.YResolution"))
    if unit is None or not (x or y):
        return None
    return Resolution(Mpp(unit / (x or y or 1.0), unit / (y or x or 1.0)), "tiff tags")


def _positive(text: str | None) -> float | None:
    """The number in a property, or None where it is absent, not a number, or not above zero."""
    try:
        value = float(text) if text else 0.0
    except ValueError:
        return None
    return value if 0.0 < value < float("inf") else None


def _checked(path: Path, found: Resolution, power: float | None) -> Resolution:
    low, high = MPP_RANGE
    for mpp in found.mpp:
        if not low <= mpp <= high:
            raise MppError(f"{path} has {mpp:.4g} um/px ({found.origin}), expected {low} to {high}", _REMEDY)
        if power and not 1 / _UM_OBJECTIVE_FACTOR <= mpp * power / _UM_OBJECTIVE <= _UM_OBJECTIVE_FACTOR:
            raise MppError(
                f"{path} has {mpp:.4g} um/px ({found.origin}) but an objective of {power:g}x,"
                f" where about {_UM_OBJECTIVE / power:.3g} is expected",
                _REMEDY,
            )
    return found
