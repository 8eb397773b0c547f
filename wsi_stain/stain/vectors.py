"""Hematoxylin and eosin found in optical density: their vectors, and their levels in nuclei and in stroma.

Plain numpy on natural-log OD, (N, 3) in R, G, B. Knows no slides or templates.

Composition bias is the enemy: a slide full of nuclei is not a darker *stain*. So every percentile here is taken over
values whose frequency was evened out, and levels are medians within strata, never over all tissue. What was evened out
makes the rare count, so colours that are neither stain (pigment, ink) are left out before.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from skimage.filters import threshold_otsu

from wsi_stain.core.arrays import Mask, Rgb, to_rgb
from wsi_stain.core.errors import StainError

Floats: TypeAlias = NDArray[np.floating[Any]]

LUMINANCE: Rgb = (0.299, 0.587, 0.114)
"""Weights of R, G, B in luminance (ITU-R BT.601)."""

RUIFROK: tuple[Rgb, Rgb] = ((0.651, 0.701, 0.290), (0.070, 0.991, 0.110))
"""Hematoxylin and eosin OD vectors of Ruifrok and Johnston (2001), Anal. Quant. Cytol. Histol. 23, 291-299."""

NOT_HE_REMEDY = "Leave the slide out: only brightfield H&E can be normalized"

USUAL: tuple[Rgb, Rgb] = ((0.537, 0.731, 0.421), (0.026, 0.910, 0.414))
"""Mean directions of hematoxylin and eosin on slides of four scanners (three of Aperio, one of Hamamatsu)."""

_BINS = 64
_EVENING = 0.75
_ANGLES_CUT, _LEVELS_CUT = 0.002, 0.005
"""Shares of the values at either end that fall into the outermost bin when angles and levels are evened."""

_INK, _BLACK = (1.1, 0.05), 0.7
_BROWN = (0.75, 0.03)
"""Blue OD over green, and a margin for noise: H&E of five slides has 0.4 to 0.7, red cells 0.8, pigment and DAB 1."""

_DARK_PERCENTILE = 98

_BLUE_DYE, _SWAPPED = 1.15, 1.7
"""Hematoxylin: red over green is at most 1.09 on real slides, aniline blue has 1.2 up; blue over red at most 1.3."""

_NO_EOSIN, _ORANGE = 0.45, 0.8
"""Eosin: red up to 0.17 on real slides, 0.5 and more where there is none; blue over green up to 0.65 on real slides,
0.79 in simulated laboratories, 1.37 in Ruifrok's DAB."""

_MAGENTA = (0.14, 0.28)
"""Red over green from which, and blue over green up to which, a second stain is magenta, as that of PAS: (0.18, 0.97,
0.15) is measured as 0.20 to 0.28 and 0.16 to 0.20. Real eosin has blue from 0.32 up, Ruifrok's red up to 0.08."""

_FULL_EVIDENCE = 0.15
"""Share of the stained pixels from which a stain's own vector is believed entirely; nine real slides have 0.27 up."""


def looks_like_ink(od: Floats) -> Mask:
    """Mark, (N,), what is blue or green: it absorbs red more than green."""
    slope, margin = _INK
    return np.asarray(od[:, 0] > slope * od[:, 1] + margin)


def looks_black(od: Floats) -> Mask:
    """Mark, (N,), what absorbs all colours nearly alike: pigment, marker, folds, dust."""
    return np.asarray(od.min(axis=1) > _BLACK * od.max(axis=1))


def looks_brown(od: Floats) -> Mask:
    """Mark, (N,), what absorbs blue nearly as much as green, or more: pigment, DAB, the deepest of blood."""
    slope, margin = _BROWN
    return np.asarray(od[:, 2] > slope * od[:, 1] + margin)


def could_be_he(od: Floats) -> Mask:
    """Mark, (N,), what is neither ink nor black nor brown."""
    return np.asarray(~(looks_like_ink(od) | looks_black(od) | looks_brown(od)))


def macenko(od: Floats, tail: float) -> tuple[Rgb, Rgb]:
    """Find hematoxylin and eosin vectors: the robust extremes of the angle in the plane of the two main directions.

    After Macenko et al. (2009), A method for normalizing histology slides for quantitative analysis, ISBI, 1107-1110,
    with percentiles of evened-out angles. The plane goes through the origin, as mixtures of two stains do, and is that
    of directions, not of OD, so that the darkest pixels do not tilt it; a pixel counts by its OD, since the direction
    of a pale one is mostly noise.

    Args:
        od: Stained pixels, (N, 3).
        tail: Share of angles beyond a stain vector, 0 to 0.5.
    """
    amount = np.linalg.norm(od, axis=1)
    directions = od / np.maximum(amount, 1e-6)[:, None]
    _, axes = np.linalg.eigh((directions * amount[:, None]).T @ directions)
    plane = axes[:, [2, 1]]
    plane = plane * np.where(plane.sum(axis=0) < 0, -1.0, 1.0)
    angle = np.arctan2(od @ plane[:, 1], od @ plane[:, 0])
    weights = _evening_weights(angle, amount, _ANGLES_CUT)
    ends = [_quantile(angle, weights, q) for q in (tail, 1 - tail)]
    found = np.maximum(np.stack([np.cos(ends), np.sin(ends)], axis=1) @ plane.T, 0)
    one, other = (_unit(vector) for vector in found)
    return (one, other) if _misfit(one, other) <= _misfit(other, one) else (other, one)


def _wrong_colour(hematoxylin: Rgb, eosin: Rgb) -> str:
    """Describe what a stain's colour has that hematoxylin and eosin never have; empty where there is nothing."""
    red, green, blue = hematoxylin
    if red > _BLUE_DYE * green:
        return f"the first stain {_format_vector(hematoxylin)} is blue, as in a trichrome"
    if blue > _SWAPPED * red:
        return f"the first stain {_format_vector(hematoxylin)} absorbs more blue than red, as if channels were swapped"
    red, green, blue = eosin
    if red > _NO_EOSIN:
        return f"both stains are blue, as in a slide without eosin: the second is {_format_vector(eosin)}"
    if blue > _ORANGE * green:
        return f"the second stain {_format_vector(eosin)} is orange or brown, as in a trichrome or with DAB"
    return ""


def looks_magenta(eosin: Rgb) -> bool:
    """Check whether the second stain has the colour of PAS, which shown by other scanners may have that of eosin."""
    red, green, blue = eosin
    return red > _MAGENTA[0] * green and blue < _MAGENTA[1] * green


def mixed_with_usual(od: Floats, own: tuple[Rgb, Rgb]) -> tuple[tuple[Rgb, Rgb], tuple[float, float]]:
    """Hold a stain that is hardly there to its usual direction.

    Args:
        od: The stained pixels that `own` was measured on, (N, 3).
        own: Vectors of hematoxylin and eosin.

    Returns:
        The vectors to take, and how far each is the slide's own, from 0 to 1: by the share of pixels that are nearer to
        it than to the other.
    """
    share = float((od @ np.subtract(*own) > 0).mean())
    evidence = min(1.0, share / _FULL_EVIDENCE), min(1.0, (1 - share) / _FULL_EVIDENCE)
    mixed = [
        _unit(weight * np.asarray(vector) + (1 - weight) * np.asarray(usual))
        for weight, vector, usual in zip(evidence, own, USUAL, strict=True)
    ]
    return (mixed[0], mixed[1]), evidence


def check_vectors(vectors: tuple[Rgb, Rgb], max_angle_deg: float, min_separation_deg: float) -> None:
    """Refuse vectors that cannot be those of hematoxylin and eosin.

    Raises:
        StainError: A vector is too far from the usual one, the two are too close, or one has another dye's colour.
    """
    for name, found, known in zip(("hematoxylin", "eosin"), vectors, USUAL, strict=True):
        if (off := angle_deg(found, known)) > max_angle_deg:
            raise StainError(
                f"Not H&E: the {name} vector {_format_vector(found)} is {off:.0f} degrees from the usual one, "
                f"expected at most {max_angle_deg:.0f}",
                NOT_HE_REMEDY,
            )
    if (apart := angle_deg(*vectors)) < min_separation_deg:
        raise StainError(
            f"Only one stain was found: the two vectors are {apart:.1f} degrees apart, "
            f"expected at least {min_separation_deg:.0f}",
            NOT_HE_REMEDY,
        )
    if fault := _wrong_colour(*vectors):
        raise StainError(f"Not H&E: {fault}", NOT_HE_REMEDY)


def stratum_levels(od: Floats, vectors: tuple[Rgb, Rgb]) -> dict[str, float]:
    """Measure medians of H and E concentration and of luminance OD, in nuclei and in the rest (stroma, cytoplasm).

    Otsu's threshold on hematoxylin tells the strata apart.

    Returns:
        {h,e,lum}_{nuclei,stroma}, natural-log OD; and dark_ratio, the 98th percentile of luminance OD in nuclei over
        its median.
    """
    h, e = np.maximum(od @ unmixing_matrix(vectors), 0).T
    luminance = od @ np.asarray(LUMINANCE)
    weights = _evening_weights(h, np.ones_like(h), _LEVELS_CUT)
    counts, edges = np.histogram(h, 4 * _BINS, range=(0, np.percentile(h, 99.8)), weights=weights)
    nuclei = h > threshold_otsu(hist=(counts, (edges[1:] + edges[:-1]) / 2))
    levels = {
        f"{name}_{stratum}": _quantile(values[chosen], weights[chosen], 0.5)
        for name, values in (("h", h), ("e", e), ("lum", luminance))
        for stratum, chosen in (("nuclei", nuclei), ("stroma", ~nuclei))
    }
    dark = float(np.percentile(luminance[nuclei], _DARK_PERCENTILE))
    return {**levels, "dark_ratio": dark / levels["lum_nuclei"]}


def unmixing_matrix(vectors: tuple[Rgb, Rgb]) -> NDArray[np.float64]:
    """Compute (3, 2): OD times this gives H and E concentrations (least squares)."""
    return np.linalg.pinv(np.asarray(vectors, np.float64))


def angle_deg(a: Rgb, b: Rgb) -> float:
    """Return the angle between two OD vectors, degrees."""
    cosine = np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _misfit(hematoxylin: Rgb, eosin: Rgb) -> float:
    return angle_deg(hematoxylin, USUAL[0]) + angle_deg(eosin, USUAL[1])


def _evening_weights(values: Floats, amounts: Floats, cut: float) -> NDArray[np.float64]:
    """Compute weights that leave what is common, by its amounts, only a little heavier than what is rare."""
    low, high = (_quantile(values, amounts, q) for q in (cut, 1 - cut))
    bins = np.clip((values - low) / max(high - low, 1e-6) * _BINS, 0, _BINS - 1).astype(np.intp)
    sums = np.bincount(bins, amounts, minlength=_BINS)
    weights: NDArray[np.float64] = amounts * (np.maximum(sums, 1e-9) ** -_EVENING)[bins]
    return weights


def _unit(values: Floats) -> Rgb:
    return to_rgb(values / np.linalg.norm(values))


def _quantile(values: Floats, weights: Floats, q: float) -> float:
    order = np.argsort(values)
    cumulated = np.cumsum(weights[order])
    return float(np.interp(q * cumulated[-1], cumulated, values[order]))


def _format_vector(values: Rgb) -> str:
    return ", ".join(f"{value:.2f}" for value in values)
