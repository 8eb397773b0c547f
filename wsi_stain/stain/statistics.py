"""Stain of one slide, measured once: its white point, stain vectors and levels. Knows no slides, tiles or files.

Everything is optical density (OD) relative to the slide's white point: od = -ln((I + 1) / (white + 1)), clipped at 0,
so that glass reads 0 whatever its colour.

Shape legend: N pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from wsi_stain.core.arrays import Mask, Rgb, to_rgb
from wsi_stain.core.errors import StainError
from wsi_stain.core.records import StrictRecord
from wsi_stain.stain.vectors import (
    LUMINANCE,
    NOT_HE_REMEDY,
    check_vectors,
    could_be_he,
    looks_black,
    looks_brown,
    looks_like_ink,
    looks_magenta,
    macenko,
    mixed_with_usual,
    stratum_levels,
)

Array: TypeAlias = Any
"""A numpy or torch array; whatever goes in comes out."""

_GLASS_BELOW_BRIGHTEST = 25
"""Grey levels of luminance: glass is as bright as the brightest that is no tissue, less its vignetting and noise."""

_BRIGHT_PERCENTILE = 95

_PALE_SHARE, _PALE_PERCENTILE, _PALE_LEAST = 0.25, 95, 1 / 3
"""Stained is what has this share of a percentile of OD, where that is less than `min_od`; at least this share of it."""

_BLURRED_EVIDENCE = 0.5
"""What hematoxylin's level is worth on a blurred slide, where nuclei are mixed with what is around them."""

_LEAST_EXPLAINED = 0.5
_MOSTLY = 0.5
_HARDLY = 0.45
_WORTH_TELLING = 0.05


class StainConfig(StrictRecord):
    """Settings of the measurement of stain, and limits beyond which a slide is refused as not H&E.

    Attributes:
        min_od: Pixels whose mean OD over R, G, B is below this are not stained tissue (beta of Macenko et al.); on a
            pale slide less, down to a third.
        tail: Share of pixels whose angle in the stain plane lies beyond a stain vector.
        max_angle_deg: Largest angle of a stain vector from the usual one, degrees.
        min_separation_deg: Smallest angle between hematoxylin and eosin, degrees.
        min_pixels: Fewest stained pixels to measure on.
        min_white: Lowest luminance of the white point of a brightfield slide, 0 to 255.
        max_stroma_od: Highest luminance OD of stroma; 0.4 to 0.9 on real slides, 2 and more in fluorescence.
    """

    min_od: float = Field(default=0.15, gt=0, lt=1)
    tail: float = Field(default=0.015, gt=0, lt=0.2)
    max_angle_deg: float = Field(default=35.0, gt=0, le=90)
    min_separation_deg: float = Field(default=8.0, ge=0, le=90)
    min_pixels: int = Field(default=1000, ge=100)
    min_white: float = Field(default=100.0, ge=0, le=255)
    max_stroma_od: float = Field(default=2.0, gt=0)


_DARKEST_WHITE = 16
"""No scan through glass has a darker one, whatever its tint."""

_MOST_OD = 100


class StainStatistics(StrictRecord):
    """Stain of one slide; levels are natural-log OD.

    Attributes:
        white: Colour of the glass, R, G, B, 0 to 255.
        white_origin: "glass" or "brightest tissue".
        vectors: Unit OD vectors of hematoxylin and eosin.
        h_nuclei: Median hematoxylin concentration in nuclei.
        h_stroma: Median hematoxylin concentration in stroma and cytoplasm.
        e_nuclei: Median eosin concentration in nuclei.
        e_stroma: Median eosin concentration in stroma and cytoplasm.
        lum_nuclei: Median luminance OD of nuclei.
        lum_stroma: Median luminance OD of stroma and cytoplasm.
        dark_ratio: Luminance OD of the darkest nuclei, the 98th percentile, over `lum_nuclei`.
        pixels: Stained pixels measured.
        evidence: Of hematoxylin and eosin, how far what is said of them rests on the slide, 0 to 1.
        foreign: Share of the stained pixels that are neither: pigment, ink, black; they are left out.
        blurred: Share of the sampled tiles that are out of focus.
        slides: How many slides were measured together.
    """

    white: Rgb
    white_origin: str
    vectors: tuple[Rgb, Rgb]
    h_nuclei: float = Field(gt=0, le=_MOST_OD)
    h_stroma: float = Field(ge=0, le=_MOST_OD)
    e_nuclei: float = Field(ge=0, le=_MOST_OD)
    e_stroma: float = Field(gt=0, le=_MOST_OD)
    lum_nuclei: float = Field(gt=0, le=_MOST_OD)
    lum_stroma: float = Field(gt=0, le=_MOST_OD)
    dark_ratio: float = Field(gt=0, le=_MOST_OD)
    pixels: int
    evidence: tuple[float, float] = (1.0, 1.0)
    foreign: float = Field(default=0.0, ge=0, le=1)
    blurred: float = Field(default=0.0, ge=0, le=1)
    slides: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _check_ranges(self) -> StainStatistics:
        if not all(_DARKEST_WHITE <= value <= 255 for value in self.white):
            raise ValueError(f"white must lie between {_DARKEST_WHITE} and 255")
        if np.abs(self.vectors).max() > 1 + 1e-3:
            raise ValueError("vectors must be of unit length")
        if np.linalg.matrix_rank(np.asarray(self.vectors), tol=1e-3) < 2:
            raise ValueError("vectors must be two different directions")
        return self


def white_point(thumbnail: NDArray[np.uint8], tissue_mask: Mask) -> tuple[Rgb, str]:
    """Find the colour of a slide's glass, whatever its tint.

    Glass is the brightest that is no tissue. Exact fill values (0 and 255 in all channels) are none: scanners paint
    them where they did not look. What is darker is none either: folds, shadows, pen.

    Args:
        thumbnail: RGB, (h, w, 3).
        tissue_mask: (h, w), true on tissue.

    Returns:
        R, G, B from 0 to 255, and where it came from: "glass", or "brightest tissue" where there is hardly any glass.
    """
    flat, tissue = thumbnail.reshape(-1, 3), tissue_mask.reshape(-1)
    filled = (flat.min(axis=1) == 255) | (flat.max(axis=1) == 0)
    bare = flat[~tissue & ~filled]
    if len(bare) >= max(50, flat.shape[0] // 1000):
        luminance = bare @ np.asarray(LUMINANCE)
        glass = luminance > np.percentile(luminance, _BRIGHT_PERCENTILE) - _GLASS_BELOW_BRIGHTEST
        return to_rgb(np.median(bare[glass], axis=0)), "glass"
    seen = flat[~filled] if not filled.all() else flat
    darkest_channel = seen.min(axis=1)
    brightest = seen[darkest_channel >= np.percentile(darkest_channel, 99)]
    return to_rgb(np.median(brightest, axis=0)), "brightest tissue"


def od_table(white: Rgb) -> NDArray[np.float32]:
    """Return OD of every 8-bit value: (256, 3), one column a channel, relative to `white`, never negative."""
    return optical_density(np.arange(256, dtype=np.float32)[:, None], np.asarray(white, np.float32), np)  # type: ignore[no-any-return]


def slide_statistics(
    pixels: NDArray[np.uint8],
    white: Rgb,
    white_origin: str,
    config: StainConfig | None = None,
    blurred: float = 0.0,
) -> StainStatistics:
    """Measure a slide's stain on a sample of its pixels.

    Stain vectors after Macenko et al. (2009), refused unless they can be those of H&E; then the levels of nuclei and
    of stroma. What cannot be H&E (ink, pigment, black) is left out, and refused where it is most of the slide. A stain
    that is hardly there is held to its usual direction.

    Args:
        pixels: RGB, (N, 3), uint8 or float from 0 to 255; glass among them does no harm.
        white: The slide's white point.
        white_origin: Where `white` came from; recorded.
        config: Thresholds; by default those calibrated on real slides.
        blurred: Share of the sampled tiles that are out of focus; recorded.

    Raises:
        StainError: Too little stained tissue, or not H&E.
    """
    config = config or StainConfig()
    if (brightness := float(np.dot(white, LUMINANCE))) < config.min_white:
        raise StainError(
            f"No brightfield slide: the background is dark, luminance {brightness:.0f} of 255",
            NOT_HE_REMEDY,
        )
    od = optical_density(np.asarray(pixels, np.float32), np.asarray(white, np.float32), np)
    stained = _choose_stained(od, config.min_od)
    od = stained[could_be_he(stained)]
    if len(od) < config.min_pixels and len(stained) < config.min_pixels:
        raise StainError(
            f"Only {len(od)} pixels of the sample are stained as by H&E, expected at least {config.min_pixels}",
            "Check the tissue mask, or leave the slide out",
        )
    _check_explained(stained, len(od) / len(stained))
    own = macenko(od, config.tail)
    check_vectors(own, config.max_angle_deg, config.min_separation_deg)
    vectors, (evidence_h, evidence_e) = mixed_with_usual(od, own)
    levels = stratum_levels(od, vectors)
    _check_levels(levels, config)
    facts = {
        "white": white,
        "white_origin": white_origin,
        "vectors": vectors,
        "pixels": len(od),
        "evidence": (evidence_h * (_BLURRED_EVIDENCE if blurred > _MOSTLY else 1.0), evidence_e),
        "foreign": 1 - len(od) / len(stained),
        "blurred": blurred,
    }
    return StainStatistics.model_validate({**facts, **levels})


def is_hardly_there(evidence: float) -> bool:
    """Check whether a stain, by its `evidence` from 0 to 1, is hardly there: what is said of it is partly a guess."""
    return evidence < _HARDLY


def stain_remarks(stain: StainStatistics) -> list[str]:
    """Say what a reader of a slide's row should know of how its stain was measured, a sentence each."""
    remarks = [
        f"hardly any {name}: its colour and level are partly the usual ones (evidence {evidence:.0%})"
        for name, evidence in zip(("hematoxylin", "eosin"), stain.evidence, strict=True)
        if is_hardly_there(evidence)
    ]
    if looks_magenta(stain.vectors[1]):
        remarks.append("the second stain is magenta, as that of PAS: if it is no H&E, leave the slide out")
    if stain.foreign > _WORTH_TELLING:
        remarks.append(f"{stain.foreign:.0%} of the stained pixels are pigment, blood or ink, and were not measured")
    if stain.blurred > _MOSTLY:
        remarks.append(f"{stain.blurred:.0%} of the sampled tiles are out of focus: nuclei are measured as too pale")
    return remarks


def stained_limit(mean_od: NDArray[np.float32], min_od: float = 0.15) -> float:
    """Return the OD from which a slide's pixels are stained: `min_od`, on a pale slide less, down to a third of it.

    Args:
        mean_od: Mean OD over R, G, B of its pixels, of any shape.
        min_od: As `StainConfig` has it.
    """
    seen = mean_od[mean_od > _PALE_LEAST * min_od]
    if not seen.size:
        return min_od
    return float(np.clip(_PALE_SHARE * np.percentile(seen, _PALE_PERCENTILE), _PALE_LEAST * min_od, min_od))


def _choose_stained(od: NDArray[np.float32], min_od: float) -> NDArray[np.float32]:
    """Choose the stained pixels of (N, 3); on a pale slide the limit is lower."""
    mean = od.mean(axis=1)
    return np.asarray(od[mean > stained_limit(mean, min_od)])


def _check_explained(stained: NDArray[np.float32], share: float) -> None:
    """Refuse a slide most of whose stained pixels are neither hematoxylin nor eosin, nor a mixture."""
    if share >= _LEAST_EXPLAINED:
        return
    black = looks_black(stained)
    kinds = {"blue or green": looks_like_ink(stained), "brown": looks_brown(stained) & ~black, "gray or black": black}
    name, measured = max(((name, float(kind.mean())) for name, kind in kinds.items()), key=lambda item: item[1])
    raise StainError(
        f"Not H&E: {measured:.0%} of the stained pixels are {name}, and only {share:.0%} can be hematoxylin or eosin, "
        f"expected at least {_LEAST_EXPLAINED:.0%}",
        NOT_HE_REMEDY,
    )


def _check_levels(levels: Mapping[str, float], config: StainConfig) -> None:
    if min(levels["h_nuclei"], levels["e_stroma"]) <= 0:
        raise StainError("Only one stain was found: either no hematoxylin or no eosin", NOT_HE_REMEDY)
    if (dark := levels["lum_stroma"]) > config.max_stroma_od:
        raise StainError(
            f"No brightfield slide: the OD of stroma is {dark:.1f}, expected at most {config.max_stroma_od}",
            NOT_HE_REMEDY,
        )


def optical_density(pixels: Array, white: Array, xp: Any) -> Array:
    """Return OD of pixels, (..., 3), relative to white, never negative; `xp` is the namespace of both arrays."""
    return xp.clip(xp.log((white + 1) / (pixels + 1)), min=0.0)
