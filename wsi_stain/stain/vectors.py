"""Hematoxylin and eosin found in optical density: their vectors, and their levels in nuclei and in stroma.

Plain numpy on natural-log OD, (N, 3) in R, G, B. Knows no slides or templates.

Composition bias is the enemy: a slide full of nuclei is not a darker *stain*. So every percentile here is taken over
values whose frequency was evened out, and levels are medians within strata, never over all tissue.
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

_BINS = 64
_EVENING = 0.75
# Of the second stain. Real eosin vectors have red up to 0.3, and blue over green up to 1.06 beside brown pigment;
# noise in a slide of hematoxylin alone gives red 0.5, DAB gives blue over green 1.2 to 1.4.
_BLUE = 0.45
_BROWN = 1.15


def could_be_he(od: Floats) -> Mask:
    """Mark, (N,), what is neither ink (absorbs red more than green) nor black (pigment, marker, folds)."""
    ink = od[:, 0] > 1.1 * od[:, 1] + 0.05
    black = od.min(axis=1) > 0.7 * od.max(axis=1)
    possible: Mask = ~(ink | black)
    return possible


def macenko(od: Floats, tail: float) -> tuple[Rgb, Rgb]:
    """Find hematoxylin and eosin vectors: the robust extremes of the angle in the plane of OD's two main directions.

    After Macenko et al. (2009), A method for normalizing histology slides for quantitative analysis, ISBI, 1107-1110,
    with percentiles of evened-out angles.

    Args:
        od: Stained pixels, (N, 3).
        tail: Share of angles beyond a stain vector, 0 to 0.5.
    """
    _, directions = np.linalg.eigh(np.cov(od, rowvar=False))
    plane = directions[:, [2, 1]]
    plane = plane * np.where(plane.sum(axis=0) < 0, -1.0, 1.0)
    angle = np.arctan2(od @ plane[:, 1], od @ plane[:, 0])
    weights = _evening_weights(angle)
    ends = [_quantile(angle, weights, q) for q in (tail, 1 - tail)]
    extremes = np.maximum(np.stack([np.cos(ends), np.sin(ends)], axis=1) @ plane.T, 0)
    one, other = (to_rgb(vector / np.linalg.norm(vector)) for vector in extremes)
    return (one, other) if _misfit(one, other) <= _misfit(other, one) else (other, one)


def check_vectors(vectors: tuple[Rgb, Rgb], max_angle_deg: float, min_separation_deg: float) -> None:
    """Refuse vectors that cannot be those of hematoxylin and eosin.

    Raises:
        StainError: A vector is too far from Ruifrok's, the two are too close, or the second one is blue or brown.
    """
    for name, vector, known in zip(("hematoxylin", "eosin"), vectors, RUIFROK, strict=True):
        if (off := angle_deg(vector, known)) > max_angle_deg:
            raise StainError(
                f"Not H&E: the {name} vector {_format_vector(vector)} is {off:.0f} degrees from the usual one, "
                f"expected at most {max_angle_deg:.0f}",
                NOT_HE_REMEDY,
            )
    if (apart := angle_deg(*vectors)) < min_separation_deg:
        raise StainError(
            f"Only one stain was found: the two vectors are {apart:.1f} degrees apart, "
            f"expected at least {min_separation_deg:.0f}",
            NOT_HE_REMEDY,
        )
    red, green, blue = vectors[1]
    if red > _BLUE:
        raise StainError("Not H&E: both stains are blue, as in a slide without eosin", NOT_HE_REMEDY)
    if blue > _BROWN * green:
        raise StainError("Not H&E: the second stain is brown, as DAB is", NOT_HE_REMEDY)


def stratum_levels(od: Floats, vectors: tuple[Rgb, Rgb]) -> dict[str, float]:
    """Measure medians of H and E concentration and of luminance OD, in nuclei and in the rest (stroma, cytoplasm).

    Otsu's threshold on hematoxylin tells the strata apart.

    Returns:
        {h,e,lum}_{nuclei,stroma}: natural-log OD.
    """
    h, e = np.maximum(od @ unmixing(vectors), 0).T
    luminance = od @ np.asarray(LUMINANCE)
    weights = _evening_weights(h)
    counts, edges = np.histogram(h, 4 * _BINS, range=(0, np.percentile(h, 99.8)), weights=weights)
    nuclei = h > threshold_otsu(hist=(counts, (edges[1:] + edges[:-1]) / 2))
    return {
        f"{name}_{stratum}": _quantile(values[chosen], weights[chosen], 0.5)
        for name, values in (("h", h), ("e", e), ("lum", luminance))
        for stratum, chosen in (("nuclei", nuclei), ("stroma", ~nuclei))
    }


def unmixing(vectors: tuple[Rgb, Rgb]) -> NDArray[np.float64]:
    """Compute (3, 2): OD times this gives H and E concentrations (least squares)."""
    return np.linalg.pinv(np.asarray(vectors, np.float64))


def angle_deg(a: Rgb, b: Rgb) -> float:
    """Return the angle between two OD vectors, degrees."""
    cosine = np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _misfit(hematoxylin: Rgb, eosin: Rgb) -> float:
    return angle_deg(hematoxylin, RUIFROK[0]) + angle_deg(eosin, RUIFROK[1])


def _evening_weights(values: Floats) -> NDArray[np.float64]:
    """Compute weights that leave what is common on a slide only a little heavier than what is rare."""
    low, high = np.percentile(values, [0.5, 99.5])
    bins = np.clip((values - low) / max(high - low, 1e-6) * _BINS, 0, _BINS - 1).astype(np.intp)
    counts = np.maximum(np.bincount(bins, minlength=_BINS), 1).astype(np.float64)
    weights: NDArray[np.float64] = (counts**-_EVENING)[bins]
    return weights


def _quantile(values: Floats, weights: NDArray[np.float64], q: float) -> float:
    order = np.argsort(values)
    cumulated = np.cumsum(weights[order])
    return float(np.interp(q * cumulated[-1], cumulated, values[order]))


def _format_vector(values: Rgb) -> str:
    return ", ".join(f"{value:.2f}" for value in values)
