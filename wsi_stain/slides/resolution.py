"""Resolution of level 0, um per px, and who says so. Decides from what the file says, before any pixel.

In this order: the value the user gives, OpenSlide's own, OME-XML, a vendor's description, the TIFF resolution tags. A
value is refused, never mended: a wrong resolution gives wrong magnification everywhere downstream without a sign. What
speaks against the value that is used, without refuting it, becomes a remark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from wsi_stain.core.errors import MppError
from wsi_stain.core.geometry import Mpp
from wsi_stain.core.storage import StoragePath

MPP_RANGE = (0.05, 5.0)
"""um per px that a level 0 of a bright-field scanner can have."""

POWER = "openslide.objective-power"
"""The property that states the objective's magnification."""

_UM_OBJECTIVE = 10.0
"""mpp x objective power of common scanners: 40x is about 0.25, 20x about 0.5."""

_UM_OBJECTIVE_FACTOR = 2.5
"""How far from that a scanner may be: 3DHISTECH's 20x gives 0.23, through an adapter of 1.6."""

_FITS_OBJECTIVE_FACTOR = 1.5
"""How far a value may be to pass unremarked, and for the objective to speak for it where two sources disagree."""

_SAME = 1.15
"""Two resolutions that differ by less are one: a checkpoint tolerates as much."""

_SQUARE, _OBLONG = 1.05, 2.0
"""Sides of a pixel that differ by more than the first are remarked on, by more than the second refused."""

_UM_PER_UNIT = {"centimeter": 10_000.0, "inch": 25_400.0}
_CM_PER_INCH = 2.54
_USUAL = (0.25, 0.5)
"""What scanners have at 40x and 20x, um per px, give or take a twelfth."""

_USUAL_FACTOR = 1.08
_PRINT_DPI = (72, 96, 150, 300, 600)

_REMEDY = "Give the true resolution with --slide-mpp (um per pixel of level 0), or in the mpp column of a slide list"


SOURCES = ("openslide", "ome-xml", "ngff", "fastslide", "description", "tiff tags")
"""Where a file may say its resolution, in the order of belief."""


class Resolution(NamedTuple):
    """Resolution of level 0, who says so ('--slide-mpp', or one of `SOURCES`), and doubts about it."""

    mpp: Mpp
    origin: str
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{_format_mpp(self.mpp)} um/px ({self.origin})"


def resolve_mpp(
    path: StoragePath, properties: Mapping[str, str], slide_mpp: float | None, described: Sequence[Resolution] = ()
) -> Resolution:
    """Decide a slide's resolution.

    Args:
        path: The slide, for messages.
        properties: OpenSlide's properties.
        slide_mpp: What the user says, um per px of level 0; beats the file and its objective power.
        described: What its texts say, which OpenSlide does not read.

    Raises:
        MppError: No resolution, one outside 0.05 to 5 um per px, one that another source or the objective power
            contradicts, or pixels more than twice as long as wide.
    """
    power = objective_power(properties)
    said = [
        resolution
        for resolution in (_from_openslide(properties), *described, _from_tags(properties))
        if resolution is not None
    ]
    said.sort(key=lambda resolution: SOURCES.index(resolution.origin))
    believed = next((resolution for resolution in said if _is_possible(resolution)), said[0] if said else None)
    if slide_mpp is not None:
        given = Resolution(Mpp(slide_mpp, slide_mpp), "--slide-mpp")
        _check_range(path, given)
        return given._replace(remarks=_user_remarks(given, believed))
    if believed is None:
        hint = f"; an objective of {power:g}x suggests about {_UM_OBJECTIVE / power:.3g} um/px" if power else ""
        raise MppError(f"{path} does not say its resolution (mpp){hint}", _REMEDY)
    _check_range(path, believed)
    _check_power(path, believed, power)
    remarks = [remark for other in said for remark in _against_other(path, believed, other, power)]
    doubts = _shape_remarks(path, believed) + _against_power(believed, power) + _against_unit(believed, power)
    return believed._replace(remarks=tuple(dict.fromkeys(remarks)) + doubts)


def objective_power(properties: Mapping[str, str]) -> float | None:
    """Return the objective's magnification as the file states it, or None."""
    return _positive(properties.get(POWER))


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
    """Read the number in a property; None where it is absent, not a number, or not above zero."""
    try:
        value = float(text) if text else 0.0
    except ValueError:
        return None
    return value if 0.0 < value < float("inf") else None


def _check_range(path: StoragePath, resolution: Resolution) -> None:
    low, high = MPP_RANGE
    if not _is_possible(resolution):
        raise MppError(f"{path} has {resolution}, expected {low:g} to {high:g}{_likely_cause(resolution.mpp)}", _REMEDY)


def _is_possible(resolution: Resolution) -> bool:
    return all(MPP_RANGE[0] <= mpp <= MPP_RANGE[1] for mpp in resolution.mpp)


def _likely_cause(mpp: Mpp) -> str:
    for dpi in _PRINT_DPI:
        if abs(_UM_PER_UNIT["inch"] / mpp.x - dpi) < 0.01 * dpi:
            return f"; it is {dpi} dpi, a printer's figure"
    for factor in (10, 100, 1000):
        if 0.1 < mpp.x * factor < 1.1:
            return f"; {mpp.x * factor:.4g} written in a wrong unit would look so"
    return ""


def _check_power(path: StoragePath, resolution: Resolution, power: float | None) -> None:
    if not _fits(resolution, power, _UM_OBJECTIVE_FACTOR):
        expected = f"about {_UM_OBJECTIVE / (power or 1):.3g} is expected"
        raise MppError(f"{path} has {resolution} but an objective of {power:g}x, where {expected}", _REMEDY)


def _fits(resolution: Resolution, power: float | None, factor: float) -> bool:
    """Check whether an objective of this power gives such pixels, give or take a factor; yes where it is not known."""
    return power is None or all(1 / factor <= mpp * power / _UM_OBJECTIVE <= factor for mpp in resolution.mpp)


def _against_other(path: StoragePath, own: Resolution, other: Resolution, power: float | None) -> tuple[str, ...]:
    """Return what another source says where it differs; values that no scanner could mean (72 dpi) say nothing."""
    if not _is_possible(other) or _agree(own, other):
        return ()
    if power and _fits(own, power, _FITS_OBJECTIVE_FACTOR) and not _fits(other, power, _FITS_OBJECTIVE_FACTOR):
        return (f"the file also says {other}, but the objective of {power:g}x speaks for {own}",)
    raise MppError(f"{path} contradicts itself: {own}, and {other}", _REMEDY)


def _against_power(resolution: Resolution, power: float | None) -> tuple[str, ...]:
    """Return a doubt where the objective is another than the one that usually gives such pixels."""
    if power is None or _fits(resolution, power, _FITS_OBJECTIVE_FACTOR):
        return ()
    usual = (
        f"{_UM_OBJECTIVE / power:.3g} um/px are usual with it, and {_UM_OBJECTIVE / resolution.mpp.mean:.2g}x for these"
    )
    return (f"it has {resolution} and an objective of {power:g}x: {usual}; if the former is wrong, give --slide-mpp",)


def _against_unit(resolution: Resolution, power: float | None) -> tuple[str, ...]:
    """Return a doubt where the tags would give a usual value with the other unit: inches are taken for centimetres."""
    if resolution.origin == "--slide-mpp" or (power and _fits(resolution, power, _FITS_OBJECTIVE_FACTOR)):
        return ()
    for usual in unit_mistakes(resolution.mpp.mean):
        return (
            f"{resolution} would be {usual:g} um/px if its unit were taken for the wrong one, inch or centimetre;"
            f" if that is so, give --slide-mpp {usual:g}",
        )
    return ()


def unit_mistakes(mpp: float) -> list[float]:
    """Return the usual resolutions, um per px, that give this one where inch and centimetre are mistaken."""
    wrong = [(usual, usual * factor) for usual in _USUAL for factor in (_CM_PER_INCH, 1 / _CM_PER_INCH)]
    return [usual for usual, value in wrong if 1 / _USUAL_FACTOR <= mpp / value <= _USUAL_FACTOR]


def _shape_remarks(path: StoragePath, resolution: Resolution) -> tuple[str, ...]:
    ratio = max(resolution.mpp) / min(resolution.mpp)
    if ratio > _OBLONG:
        raise MppError(f"{path} has {resolution}: its pixels are {ratio:.2g} times as long as wide", _REMEDY)
    return (f"its pixels are not square: {resolution}",) if ratio > _SQUARE else ()


def _user_remarks(given: Resolution, resolution: Resolution | None) -> tuple[str, ...]:
    """Remark on what the file itself says where it differs from what the user says, who is believed."""
    if resolution is None or not _is_possible(resolution) or _agree(given, resolution):
        return ()
    return (f"{_format_mpp(given.mpp)} um/px was given for it, the file itself says {resolution}",)


def _agree(one: Resolution, other: Resolution) -> bool:
    return all(1 / _SAME <= a / b <= _SAME for a, b in zip(one.mpp, other.mpp, strict=True))


def _format_mpp(mpp: Mpp) -> str:
    return " x ".join(f"{side:.4g}" for side in dict.fromkeys(mpp))
